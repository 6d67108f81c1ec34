"""``model.py`` of the Triton model `whisper_bls`: sound becomes a spectrogram, and the engine's tokens become text.

``WAV`` are samples at 16 kHz, of which ``WAV_LENS`` count, if it is given. ``TEXT_PREFIX`` is what the decoder begins
with, "" what the repository was made for. What is longer than 30 seconds is heard piece by piece.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.extend(filter(None, os.environ.get("PYTHONPATH", "").split(":")))  # a stub's interpreter does not look there
sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import numpy as np
import triton_python_backend_utils as pb_utils
from whisper_sound import FRAMES, log_mel, pieces
from whisper_words import Unknown, Words


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        found = {name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()}
        self._words = Words(Path(found["tokenizer_dir"]), int(found["vocab_size"]))
        self._bands, self._longest, self._prefix = int(found["n_mels"]), int(found["max_seq_len"]), found["text_prefix"]
        self._longest_prefix = int(found["max_input_len"])
        self._type = np.dtype(found["encoder_dtype"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            begin = self._begin(_input(request, "TEXT_PREFIX").reshape(-1)[0].decode("utf-8"))
            samples = _samples(_input(request, "WAV").reshape(-1), _input(request, "WAV_LENS"))
            texts = [self._heard(piece, begin) for piece in pieces(samples)]
        except (Unknown, UnicodeDecodeError, pb_utils.TritonModelException) as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        text = " ".join(filter(None, texts))
        return pb_utils.InferenceResponse([pb_utils.Tensor("TRANSCRIPTS", np.array([[text.encode()]], np.object_))])

    def _begin(self, prefix: str) -> list[int]:
        names = re.findall(r"<\|([^|<>]+)\|>", prefix or self._prefix)
        if "".join(f"<|{name}|>" for name in names) != (prefix or self._prefix):
            raise Unknown("TEXT_PREFIX is other than a row of tokens like <|startoftranscript|>")
        if len(names) > self._longest_prefix:
            raise Unknown(f"TEXT_PREFIX has {len(names)} tokens, and the engine takes {self._longest_prefix}")
        return self._words.numbers(names)

    def _heard(self, piece: Any, begin: list[int]) -> str:
        numbers = {
            "request_output_len": self._longest - len(begin),
            "end_id": self._words.end,
            "pad_id": self._words.end,
            "encoder_output_lengths": FRAMES // 2,
            "input_lengths": FRAMES,
        }
        inputs = [pb_utils.Tensor(name, np.array([[value]], np.int32)) for name, value in numbers.items()]
        inputs.append(pb_utils.Tensor("decoder_input_ids", np.array([begin], np.int32)))
        inputs.append(pb_utils.Tensor("streaming", np.array([[False]])))
        features = log_mel(piece, self._bands).astype(self._type)[None]
        inputs.append(pb_utils.Tensor("encoder_input_features", features))
        wanted = ["output_ids", "sequence_length"]
        asked = pb_utils.InferenceRequest(model_name="tensorrt_llm", requested_output_names=wanted, inputs=inputs)
        tokens: list[int] = []
        for answer in asked.exec(decoupled=True):
            if answer.has_error():
                raise pb_utils.TritonModelException(answer.error().message())
            if answer.output_tensors():
                found = pb_utils.get_output_tensor_by_name(answer, "output_ids").as_numpy()
                tokens += [int(token) for token in found.reshape(-1)]
        return self._words.text(tokens)


def _input(request: Any, name: str) -> Any:
    found = pb_utils.get_input_tensor_by_name(request, name)
    return None if found is None else found.as_numpy()


def _samples(samples: Any, length: Any) -> Any:
    count = len(samples) if length is None else int(length.reshape(-1)[0])
    if not 0 < count <= len(samples):
        raise pb_utils.TritonModelException(f"WAV_LENS is {count}, and WAV has {len(samples)} samples")
    if not np.all(np.isfinite(samples[:count])):
        raise pb_utils.TritonModelException("WAV has samples that are no numbers")
    return samples[:count]
