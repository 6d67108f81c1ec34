"""An engine of TensorRT-LLM at work, through the Python interface of its own release; nothing of it is imported before.

* ``tensorrt-llm``: ``tensorrt_llm.bindings.executor``, the executor that Triton's backend runs too. It starts no pool
  of MPI processes for one rank. Of several ranks each is a process of ``mpirun``, and the first one asks.
* ``tensorrt-llm-pytorch``: ``tensorrt_llm.LLM`` with the arguments of ``model.yaml``.

Both print to stdout as they please: `own_stdout` comes first.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from model_yaml import read_yaml
from stage_file import Refused, StageFile, read_json
from trtllm_speculation import alone, counts, executor_settings, with_drafts

#: Keys of model.yaml that are for Triton's backend and not for ``tensorrt_llm.LLM``.
_NOT_ARGUMENTS = frozenset({"triton_config", "model"})


@dataclass(frozen=True)
class Answer:
    """`tokens` without the end token; whether that came is `ended`. `drafts` are the counts of what was drafted."""

    tokens: list[int]
    ended: bool
    drafts: dict[str, int] = field(default_factory=dict, compare=False)


def own_stdout() -> IO[str]:
    """What was stdout; from here on everything that this process prints there goes to stderr."""
    sys.stdout.flush()
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answer


def under_mpirun(folder: Path) -> None:
    """Start this program again, once for each rank of the engine in `folder`, if there is more than one."""
    world = _world(folder)
    if world == 1 or "OMPI_COMM_WORLD_RANK" in os.environ:
        return
    tool = shutil.which("mpirun")
    if tool is None:
        raise Refused(f"the engine has {world} ranks, and this environment has no mpirun to start them with")
    command = ["mpirun", "-n", str(world), "--allow-run-as-root", "--oversubscribe", sys.executable, "-B"]
    os.execv(tool, [*command, *sys.argv])  # noqa: S606  # each of them does what this process would have done


def leaving(build: Callable[[StageFile], None]) -> Callable[[StageFile], None]:
    """`build`, and where it is refused the process is gone at once: an executor's threads may wait for one another for
    ever, and Python for them.
    """

    def wrapped(stage: StageFile) -> None:
        try:
            build(stage)
        except Refused as refusal:
            sys.stdout.flush()
            sys.stderr.write(f"error: {refusal}\n")
            sys.stderr.flush()
            os._exit(1)

    return wrapped


def open_session(folder: Path, *, guided: bool, told: dict[str, Any] | None = None) -> Session:
    """The engine in `folder`, of either kind, loaded. `guided` prepares it for answers after a JSON schema; `told` is
    how it drafts, if it does.
    """
    os.environ.setdefault("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
    if (folder / "model.yaml").is_file():
        return TorchSession(folder, guided=guided)
    return ExecutorSession(folder, guided=guided, told=told or {})


class Session:
    """What both kinds have. `limits` is (longest prompt, longest sequence) in tokens, 0 where nobody says."""

    #: Whether this process asks; the other ranks of an engine only serve.
    leads = True
    limits: tuple[int, int] = (0, 0)
    vocabulary = 0
    version = "unknown"

    def __init__(self, tokenizer: Path | None) -> None:
        self.end = -1
        if tokenizer is None:
            return
        self.tokenizer = _tokenizer(tokenizer)
        if self.tokenizer.eos_token_id is None:
            raise Refused("the tokenizer names no token that ends an answer")
        self.end = int(self.tokenizer.eos_token_id)

    def asked(self, prompt: str, system: str = "") -> list[int]:
        """The tokens of a chat where the model knows chats, else those of the bare prompt."""
        if not getattr(self.tokenizer, "chat_template", None):
            return [int(token) for token in self.tokenizer.encode(prompt)]
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.encoded(text)

    def encoded(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]

    def text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def answer(self, asked: list[int], limit: int, schema: str = "") -> Answer:
        """The most probable answer of up to `limit` tokens, with `schema` one that fits it."""
        raise NotImplementedError

    def alone(self, asked: list[int], limit: int) -> Answer | None:  # noqa: ARG002  # those of `answer`
        """The same without drafts; None if it drafts nothing, or always does."""
        return None

    def stream(self, asked: list[int], limit: int) -> Iterator[list[int]]:
        """The tokens of the answer so far, again and again, until it is whole."""
        raise NotImplementedError

    def close(self) -> None:
        """Let the other ranks end."""

    def _ended(self, tokens: list[int], *, stopped: bool, drafts: dict[str, int] | None = None) -> Answer:
        if tokens and tokens[-1] == self.end:
            return Answer(tokens[:-1], ended=True, drafts=drafts or {})
        return Answer(tokens, stopped, drafts or {})


class ExecutorSession(Session):
    """A compiled engine. Without `words` it knows no tokenizer, and answers with as many tokens as are asked for.

    `told` is how it drafts tokens. With `share`, a part of the GPU's free memory, it has only that for its cache.
    """

    def __init__(
        self,
        folder: Path,
        *,
        guided: bool = False,
        words: bool = True,
        told: dict[str, Any] | None = None,
        share: float = 0.0,
    ) -> None:
        super().__init__(folder if words else None)
        import tensorrt_llm  # noqa: PLC0415  # it prints when it is imported
        from tensorrt_llm.bindings import executor as api  # noqa: PLC0415

        config = read_json(folder / "config.json")
        made, model = config.get("build_config") or {}, config.get("pretrained_config") or {}
        self.vocabulary = model.get("vocab_size") or 0
        self.version = tensorrt_llm.__version__
        # The builder adds the longest draft to what was asked for, and a request needs room for it.
        longest = max((made.get("max_seq_len") or 0) - (made.get("max_draft_len") or 0), 0)
        self.limits = (min(made.get("max_input_len") or longest, longest), longest)
        self._api, self._told = api, told or {}
        # Drafts of another engine need a cache whose blocks are used again (examples/draft_target_model/README.md).
        cache = {"free_gpu_memory_fraction": share} if share else {}
        settings: dict[str, Any] = {"kv_cache_config": api.KvCacheConfig(enable_block_reuse=bool(share), **cache)}
        settings |= executor_settings(api, self._told, made, self.version)
        if guided:
            settings["guided_decoding_config"] = self._guide()
        self._executor = api.Executor(
            str(folder), api.ModelType.DECODER_ONLY, api.ExecutorConfig(max_beam_width=1, **settings)
        )
        self.leads = bool(self._executor.can_enqueue_requests())

    def _guide(self) -> Any:
        if not hasattr(self._api, "GuidedDecodingConfig"):
            raise Refused(f"TensorRT-LLM {self.version} has no guided decoding: json_schema=''")
        from tensorrt_llm.llmapi.tokenizer import _xgrammar_tokenizer_info  # noqa: PLC0415  # as Triton's model does

        backend = self._api.GuidedDecodingConfig.GuidedDecodingBackend.XGRAMMAR
        return self._api.GuidedDecodingConfig(backend=backend, **_xgrammar_tokenizer_info(self.tokenizer))

    def _request(
        self, asked: list[int], limit: int, schema: str = "", *, streaming: bool = False, **settings: Any
    ) -> int:
        more = settings | ({"end_id": self.end, "pad_id": self.end} if self.end >= 0 else {})
        if schema:
            kind = self._api.GuidedDecodingParams.GuideType.JSON_SCHEMA
            more["guided_decoding_params"] = self._api.GuidedDecodingParams(kind, schema)
        request = self._api.Request(
            asked,
            limit,  # max_tokens; some releases call it max_new_tokens
            streaming=streaming,
            sampling_config=self._api.SamplingConfig(beam_width=1, top_k=1),
            output_config=self._api.OutputConfig(exclude_input_from_output=True, **self._measured()),
            **more,
        )
        return int(self._executor.enqueue_request(request))

    def _measured(self) -> dict[str, bool]:
        """Counts of drafts are asked for where the release has them."""
        return {"return_perf_metrics": True} if hasattr(self._api.OutputConfig, "return_perf_metrics") else {}

    def _results(self, number: int) -> Iterator[Any]:
        final = False
        while not final:
            for response in self._executor.await_responses(number):
                if response.has_error():
                    raise Refused(f"the executor refused the prompt: {response.error_msg}")
                yield response.result
                final = final or response.result.is_final

    def answer(self, asked: list[int], limit: int, schema: str = "") -> Answer:
        return self._answer(self._request(asked, limit, schema))

    def alone(self, asked: list[int], limit: int) -> Answer | None:
        settings = alone(self._api, self._told)
        return None if settings is None else self._answer(self._request(asked, limit, **settings))

    def verified(self, asked: list[int], guessed: list[int]) -> tuple[list[int], bool]:
        """The tokens after `asked` if `guessed` are: those of them that are right and one more; and if that ends it."""
        drafts = {"external_draft_tokens_config": self._api.ExternalDraftTokensConfig(guessed)} if guessed else {}
        answer = self._answer(self._request(asked, len(guessed) + 1, **drafts))
        return answer.tokens, answer.ended

    def _answer(self, number: int) -> Answer:
        tokens: list[int] = []
        stopped, drafts = False, dict[str, int]()
        for result in self._results(number):
            tokens += [int(token) for token in result.output_token_ids[0]]
            reasons = getattr(result, "finish_reasons", None) or ()
            stopped = stopped or any("END_ID" in str(reason) for reason in reasons)
            drafts = counts(result) if self._told else {}
        return self._ended(tokens, stopped=stopped, drafts=drafts)

    def stream(self, asked: list[int], limit: int) -> Iterator[list[int]]:
        tokens: list[int] = []
        for result in self._results(self._request(asked, limit, streaming=True)):
            tokens += [int(token) for token in result.output_token_ids[0]]
            yield [token for token in tokens if token != self.end]

    def close(self, *, free: bool = False) -> None:
        """With `free` also of one rank: its memory is needed for another engine."""
        if free or not self.leads or "OMPI_COMM_WORLD_RANK" in os.environ:
            self._executor.shutdown()


class DraftedSession(ExecutorSession):
    """The engine in `folder` with drafts of that in `draft`, up to `length` tokens in a step; both of one rank."""

    def __init__(self, folder: Path, draft: Path, length: int) -> None:
        for what in (folder, draft):
            if _world(what) != 1:
                raise Refused("an engine of several ranks cannot be tested with drafts of another one")
        super().__init__(folder, share=0.5)
        self._draft, self._length = ExecutorSession(draft, words=False, share=0.5), length
        self._draft.end = self.end

    def answer(self, asked: list[int], limit: int, schema: str = "") -> Answer:
        if schema:
            raise Refused("an engine with drafts of another one cannot be asked for JSON")
        return Answer(*with_drafts(self._guessed, self.verified, asked, limit, self._length))

    def _guessed(self, asked: list[int], most: int) -> list[int]:
        return self._draft.answer(asked, most).tokens

    def alone(self, asked: list[int], limit: int) -> Answer | None:
        return super().answer(asked, limit)

    def close(self, *, free: bool = False) -> None:
        self._draft.close(free=free)
        super().close(free=free)


class TorchSession(Session):
    """A checkpoint that TensorRT-LLM loads itself."""

    def __init__(self, folder: Path, *, guided: bool) -> None:
        checkpoint = folder / "checkpoint"
        super().__init__(checkpoint)
        from tensorrt_llm import LLM, SamplingParams, __version__  # noqa: PLC0415  # it prints when it is imported

        settings = read_yaml((folder / "model.yaml").read_text(encoding="utf-8"))
        arguments = {name: value for name, value in settings.items() if name not in _NOT_ARGUMENTS}
        if guided and "guided_decoding_backend" not in arguments:
            raise Refused("model.yaml names no guided_decoding_backend, so no JSON can be asked of it: json_schema=''")
        if (folder / "autotuner.json").is_file():
            os.environ["TLLM_AUTOTUNER_CACHE_PATH"] = str(folder / "autotuner.json")
        self.version = __version__
        self.vocabulary = read_json(checkpoint / "config.json").get("vocab_size") or 0
        longest = arguments.get("max_seq_len") or 0
        self.limits = (arguments.get("max_input_len") or longest, longest)
        self._parameters = SamplingParams
        self._llm = LLM(model=str(checkpoint), tokenizer=str(checkpoint), **arguments)

    def _settings(self, limit: int, schema: str) -> Any:
        more: dict[str, Any] = {}
        if schema:
            from tensorrt_llm.llmapi import GuidedDecodingParams  # noqa: PLC0415

            more["guided_decoding"] = GuidedDecodingParams(json=schema)
        return self._parameters(max_tokens=limit, end_id=self.end, top_k=1, **more)

    def answer(self, asked: list[int], limit: int, schema: str = "") -> Answer:
        (found,) = self._llm.generate([asked], self._settings(limit, schema), use_tqdm=False)
        output = found.outputs[0]
        return self._ended([int(token) for token in output.token_ids], stopped=output.finish_reason == "stop")

    def stream(self, asked: list[int], limit: int) -> Iterator[list[int]]:
        for found in self._llm.generate_async(asked, self._settings(limit, ""), streaming=True):
            yield [int(token) for token in found.outputs[0].token_ids if token != self.end]


def _world(folder: Path) -> int:
    if (folder / "model.yaml").is_file():
        return 1  # `LLM` starts its ranks itself
    config = read_json(folder / "config.json")
    world = ((config.get("pretrained_config") or {}).get("mapping") or {}).get("world_size", 1)
    missing = [f"rank{rank}.engine" for rank in range(world) if not (folder / f"rank{rank}.engine").is_file()]
    if missing:
        raise Refused(f"the engine lacks {', '.join(missing)}, and its config.json says it has {world} ranks")
    return int(world)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415  # seconds

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise Refused(f"no tokenizer can be loaded from the engine: {error}; give the engine tokenizer=") from None
