"""A Whisper engine at work: an executor for encoder and decoder, as TensorRT-LLM's own example drives it.

Names and values are those of ``examples/models/core/whisper/run.py`` and ``tensorrt_llm/runtime/model_runner_cpp.py``
(NVIDIA/TensorRT-LLM at 09b92323 and 03832911). Sound and tokens are made here: nothing is fetched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage_file import Refused, read_json
from trtllm_session import Answer, ExecutorSession
from whisper_sound import FRAMES, NoSound, log_mel, pieces, read_wav
from whisper_words import Unknown, Words


@dataclass(frozen=True)
class Heard:
    """One recording: `tokens` of all its pieces, and whether each of them came to its end."""

    text: str
    tokens: list[int]
    whole: bool


class WhisperSession(ExecutorSession):
    """The engine in `folder`, told to `task` ("transcribe" or "translate") what is said in `language` ("en")."""

    def __init__(self, folder: Path, language: str, task: str) -> None:
        encoder, decoder = (read_json(folder / half / "config.json") for half in ("encoder", "decoder"))
        described, made = decoder["pretrained_config"], decoder["build_config"]
        self.vocabulary = described.get("vocab_size") or 0
        try:
            self._words = Words(folder, self.vocabulary)
            self._begin = self._words.start(language, task)
        except Unknown as error:
            raise Refused(str(error)) from None
        self.end = self._words.end
        self._bands, self._dtype = encoder["pretrained_config"].get("n_mels"), encoder["pretrained_config"]["dtype"]
        if not self._bands or made["max_encoder_input_len"] < FRAMES:
            raise Refused(f"the engine was not built for {FRAMES} frames of sound: max_encoder_input_len")
        longest = made["max_seq_len"]
        self.limits = (min(made.get("max_input_len") or longest, longest), longest)
        os.environ.setdefault("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
        self._load(folder)

    def _load(self, folder: Path) -> None:
        import tensorrt_llm  # noqa: PLC0415  # it prints when it is imported
        from tensorrt_llm.bindings import executor as api  # noqa: PLC0415

        self.version, self._api, self._told = tensorrt_llm.__version__, api, {}
        # Half of the cache for what the encoder makes, as in the example; nothing of one sound serves another.
        cache = api.KvCacheConfig(enable_block_reuse=False, free_gpu_memory_fraction=0.9, cross_kv_cache_fraction=0.5)
        self._executor = api.Executor(
            str(folder / "encoder"),
            str(folder / "decoder"),
            api.ModelType.ENCODER_DECODER,
            api.ExecutorConfig(max_beam_width=1, kv_cache_config=cache),
        )
        self.leads = bool(self._executor.can_enqueue_requests())

    def heard(self, path: Path) -> list[Any]:
        """What the encoder is given for each piece of the recording in `path`. Raises `Refused`."""
        import torch  # noqa: PLC0415  # the executor takes its tensors

        try:
            found = [log_mel(piece, self._bands) for piece in pieces(read_wav(path))]
        except NoSound as error:
            raise Refused(str(error)) from None
        return [torch.from_numpy(one).to(getattr(torch, self._dtype)).cuda().contiguous() for one in found]

    def transcribed(self, features: list[Any]) -> Heard:
        """The most probable words of a recording."""
        answers = [self.piece(one) for one in features]
        text = " ".join(filter(None, (self._words.text(answer.tokens) for answer in answers)))
        tokens = [token for answer in answers for token in answer.tokens]
        return Heard(text, tokens, all(answer.ended for answer in answers))

    def piece(self, features: Any) -> Answer:
        settings = {"encoder_input_features": features, "encoder_output_length": FRAMES // 2}
        return self._answer(self._request(self._begin, self.limits[1] - len(self._begin), **settings))


def recording(place: Path) -> Path:
    """The file itself, or the only WAV file in the folder. Raises `Refused`."""
    if place.is_file():
        return place
    found = sorted(place.glob("*.wav"))
    if len(found) != 1:
        raise Refused(f"the sound should be one WAV file, and there are {len(found)}")
    return found[0]
