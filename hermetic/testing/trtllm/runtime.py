"""A STAND-IN for what TensorRT-LLM's Python runs engines with; nothing is computed, nothing of the weights is used.

It has the names, arguments and results that ``tensorrt_llm.bindings.executor`` (up to 1.2.1) and ``tensorrt_llm.LLM``
have as far as hermetic's programs use them, and answers with text that follows from the first half of the engine's
bytes and the prompt's tokens alone. Under guided decoding it answers with the smallest JSON that fits the schema's
outermost level. Like the real ones it prints to stdout when it is imported. Standard library only.

It can behave badly, as ``STANDIN_ANSWERS`` in the image's environment says: ``repeats`` (the same words for ever),
``crash`` (SIGSEGV), ``empty``, ``wanders`` (another answer each time), ``foreign`` (tokens outside any vocabulary),
``cut`` (ends early without an end token), ``no-json`` (guided decoding has no effect), ``error`` (the request fails),
``drifts`` (what is drafted changes the answer), ``uncounted`` (drafts are not counted).
"""

# ruff: noqa: ARG001, ARG002  # the names are the real ones', whether or not the stand-in has a use for them

import hashlib
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

END, USER, ASSISTANT = 256, 257, 258  # 0 to 255 are bytes
#: The bytes in the order in which the vocabularies of GPT-2 and Whisper begin with them.
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = bytes([*_PRINTED, *(byte for byte in range(256) if byte not in _PRINTED)])

print("hermetic's STAND-IN for the runtime of TensorRT-LLM; its answers mean nothing", flush=True)


class AutoTokenizer:
    """``transformers.AutoTokenizer``: a token is a byte, whatever tokenizer the folder has."""

    chat_template = "stand-in"
    eos_token_id = END

    @classmethod
    def from_pretrained(cls, folder: str, *, local_files_only: bool = False) -> "AutoTokenizer":
        if not local_files_only:
            raise OSError("the stand-in fetches nothing")
        if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise OSError(f"{folder} has no tokenizer")
        return cls()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def apply_chat_template(
        self, messages: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        assert add_generation_prompt
        return "".join(f"<{one['role']}>{one['content']}\n" for one in messages) + "<assistant>"

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return bytes(token for token in tokens if token < END).decode("utf-8", "replace")


def xgrammar_tokenizer_info(tokenizer: AutoTokenizer) -> dict[str, Any]:
    return {"encoded_vocab": [chr(token) for token in range(END)], "tokenizer_str": None, "stop_token_ids": [END]}


class Answers:
    """What an "engine" says."""

    def __init__(self, files: Sequence[Path]) -> None:
        digest = hashlib.blake2b()
        for path in files:
            content = path.read_bytes()
            digest.update(content[: -(-len(content) // 2)])
        self.seed = digest.digest()
        self.asked = 0
        self._begun: list[list[int]] = []

    def follow(self, prompt: list[int], limit: int) -> list[int]:
        """As `tokens`; a prompt that begins with an earlier one is that and some of its answer, which goes on."""
        begun = next((one for one in self._begun if prompt[: len(one)] == one), prompt)
        if begun is prompt:
            self._begun.append(prompt)
        gone = len(prompt) - len(begun)
        return self.tokens(begun, gone + limit)[gone:]

    def tokens(self, prompt: Sequence[int], limit: int, schema: str = "") -> list[int]:
        """The end token included, as the real executor does."""
        behaviour = os.environ.get("STANDIN_ANSWERS", "")
        self.asked += 1
        if behaviour == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if behaviour == "foreign":
            return [10**9][:limit]
        if behaviour == "repeats":
            return (list(b"and so on ") * limit)[:limit]
        seed = self.seed + json.dumps(list(prompt)).encode()
        seed += bytes([self.asked % 256]) if behaviour == "wanders" else b""
        mark = hashlib.blake2b(seed, digest_size=4).hexdigest()
        text = "" if behaviour == "empty" else f"{mark}: an answer of the STAND-IN."
        if schema and behaviour != "no-json":
            text = json.dumps(smallest(json.loads(schema)))
        if behaviour == "cut":
            return list(text.encode())[: min(limit, 5)]
        return [*text.encode(), END][:limit]


def smallest(schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return {name: smallest(inner) for name, inner in schema.get("properties", {}).items()}
    return {"string": "", "integer": 0, "number": 0, "boolean": False, "array": []}.get(str(kind))


class ModelType:
    DECODER_ONLY = 0
    ENCODER_DECODER = 2


class GuidedDecodingConfig:
    GuidedDecodingBackend = SimpleNamespace(XGRAMMAR=0)

    def __init__(
        self, *, backend: int, encoded_vocab: list[str], tokenizer_str: str | None, stop_token_ids: list[int]
    ) -> None:
        assert encoded_vocab
        assert stop_token_ids
        assert tokenizer_str is None
        assert backend == 0


class GuidedDecodingParams:
    GuideType = SimpleNamespace(JSON=0, JSON_SCHEMA=1)

    def __init__(self, guide_type: int, guide: str | None = None) -> None:
        self.guide_type, self.guide = guide_type, guide


class KvCacheConfig:
    def __init__(
        self,
        *,
        enable_block_reuse: bool = True,
        free_gpu_memory_fraction: float | None = None,
        cross_kv_cache_fraction: float | None = None,
    ) -> None:
        self.cross = cross_kv_cache_fraction
        self.reuses = enable_block_reuse


class LookaheadDecodingConfig:
    def __init__(self, max_window_size: int, max_ngram_size: int, max_verification_set_size: int) -> None:
        self.sizes = (max_window_size, max_ngram_size, max_verification_set_size)

    def draft_len(self) -> int:
        window, ngram, verification = self.sizes
        return (0 if ngram == 1 else ngram - 2) + (window - 1 + verification) * (ngram - 1)


class EagleConfig:
    def __init__(
        self,
        eagle_choices: list[list[int]] | None = None,
        greedy_sampling: bool = True,
        posterior_threshold: float | None = None,
        use_dynamic_tree: bool = False,
        dynamic_tree_max_topK: int | None = None,  # noqa: N803  # its name
    ) -> None:
        assert greedy_sampling
        assert bool(eagle_choices) != use_dynamic_tree


class DecodingConfig:
    def __init__(
        self,
        decoding_mode: object = None,
        lookahead_decoding_config: LookaheadDecodingConfig | None = None,
        medusa_choices: list[list[int]] | None = None,
        eagle_config: EagleConfig | None = None,
    ) -> None:
        self.lookahead, self.medusa, self.eagle = lookahead_decoding_config, medusa_choices, eagle_config


class ExternalDraftTokensConfig:
    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens


class ExecutorConfig:
    def __init__(
        self,
        max_beam_width: int = 1,
        *,
        kv_cache_config: KvCacheConfig | None = None,
        guided_decoding_config: GuidedDecodingConfig | None = None,
        decoding_config: DecodingConfig | None = None,
    ) -> None:
        self.guided = guided_decoding_config is not None
        self.decoding = decoding_config or DecodingConfig()
        self.cross = kv_cache_config.cross if kv_cache_config is not None else None
        self.reuses = kv_cache_config is not None and kv_cache_config.reuses


class SamplingConfig:
    def __init__(self, beam_width: int = 1, *, top_k: int | None = None) -> None: ...


class OutputConfig:
    return_perf_metrics = False

    def __init__(self, *, exclude_input_from_output: bool = False, return_perf_metrics: bool = False) -> None:
        self.exclude_input_from_output = exclude_input_from_output
        self.return_perf_metrics = return_perf_metrics


class Request:
    lookahead_config: LookaheadDecodingConfig | None = None

    def __init__(
        self,
        input_token_ids: list[int],
        max_tokens: int,
        *,
        streaming: bool = False,
        sampling_config: SamplingConfig,
        output_config: OutputConfig,
        end_id: int | None = None,
        pad_id: int | None = None,
        guided_decoding_params: GuidedDecodingParams | None = None,
        lookahead_config: LookaheadDecodingConfig | None = None,
        external_draft_tokens_config: ExternalDraftTokensConfig | None = None,
        encoder_input_features: "Tensor | None" = None,
        encoder_output_length: int | None = None,
    ) -> None:
        self.features, self.encoded, self.end = encoder_input_features, encoder_output_length, end_id
        self.prompt, self.limit, self.streaming = input_token_ids, max_tokens, streaming
        self.lookahead_config = lookahead_config
        self.drafts = external_draft_tokens_config.tokens if external_draft_tokens_config is not None else []
        self.measured = output_config.return_perf_metrics
        self.echo = not output_config.exclude_input_from_output
        self.guide = guided_decoding_params


class Executor:
    """Each rank of an engine makes one, and the first one is asked."""

    def __init__(self, folder: str, *more: Any) -> None:
        """Of a model, ``folder, model_type, config``; of an encoder and a decoder, ``encoder, decoder, …``."""
        model_type, config = more[-2:]
        assert (model_type == ModelType.ENCODER_DECODER) == (len(more) == 3)
        assert (config.cross is not None) == (len(more) == 3)
        self._encoder = json.loads((Path(folder) / "config.json").read_bytes()) if len(more) == 3 else None
        folder = more[0] if len(more) == 3 else folder
        world = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
        described = json.loads((Path(folder) / "config.json").read_bytes())
        mapping = described["pretrained_config"].get("mapping", {})
        self._drafting = drafting(described["build_config"], config.decoding)
        if mapping.get("world_size", 1) != world:
            raise RuntimeError(f"MPI size mismatch: {world} started, {mapping.get('world_size', 1)} needed")
        files = [Path(folder) / f"rank{rank}.engine" for rank in range(world)]
        for path in files:
            if path.read_bytes()[:4] != b"ftrt":
                raise RuntimeError("Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.")
        self._answers, self._guided, self._requests = Answers(files), config.guided, list[Request]()
        self._reuses = config.reuses

    def can_enqueue_requests(self) -> bool:
        return os.environ.get("OMPI_COMM_WORLD_RANK", "0") == "0"

    def enqueue_request(self, request: Request) -> int:
        self._requests.append(request)
        return len(self._requests) - 1

    def await_responses(self, number: int) -> list[Any]:
        """All that is left of the answer: one response, or a few for a request that streams."""
        request = self._requests[number]
        if os.environ.get("STANDIN_ANSWERS") == "error":
            return [SimpleNamespace(has_error=lambda: True, error_msg="the STAND-IN was told to fail", result=None)]
        if request.guide is not None and not self._guided:
            raise RuntimeError("guided decoding was not prepared")
        schema = (request.guide.guide or "") if request.guide is not None else ""
        tokens, counted = self._tokens(request, schema)
        tokens = [*request.prompt, *tokens] if request.echo and not request.streaming else tokens
        parts = list(_pieces(tokens)) if request.streaming else [tokens]
        ended = ["FinishReason.END_ID" if tokens[-1:] == [END] else "FinishReason.LENGTH"]
        return [_response(part, part is parts[-1], ended, counted) for part in parts]

    def _tokens(self, request: Request, schema: str) -> tuple[list[int], Mapping[str, Any]]:
        """What is answered, and what is said of drafts: every second token of an answer was one."""
        if self._encoder is not None:
            tokens = self._heard(request)
        elif self._reuses:
            tokens = self._answers.follow(request.prompt, request.limit)
        else:
            tokens = self._answers.tokens(request.prompt, request.limit, schema)
        right = 0
        while right < min(len(request.drafts), len(tokens)) and request.drafts[right] == tokens[right]:
            right += 1
        tokens = tokens[: right + 1] if request.drafts else tokens
        drafts = self._drafting and (request.lookahead_config is None or request.lookahead_config.draft_len() > 0)
        behaviour = os.environ.get("STANDIN_ANSWERS", "")
        if behaviour == "drifts" and (drafts or right) and len(tokens) > 2:
            tokens[-2] ^= 1
        accepted = len(tokens) // 2 if drafts else 0
        counted: dict[str, Any] = {"decoding_iter": len(tokens) - accepted, "request_perf_metrics": None}
        if request.measured:
            found = {"total_draft_tokens": 4 * accepted, "total_accepted_draft_tokens": accepted}
            counted["request_perf_metrics"] = SimpleNamespace(speculative_decoding=SimpleNamespace(**found))
        return tokens, {} if behaviour == "uncounted" else counted

    def _heard(self, request: Request) -> list[int]:
        """An answer to sound, in the tokens of Whisper."""
        assert self._encoder is not None
        assert request.features is not None
        assert request.end is not None
        frames, bands = request.features.shape
        if bands != self._encoder["pretrained_config"]["n_mels"] or request.encoded != frames // 2:
            raise RuntimeError(f"{frames} frames of {bands} bands, of which {request.encoded} come out of the encoder")
        prompt = [*request.prompt, *request.features.digest()]
        tokens = self._answers.tokens(prompt, request.limit)
        return [request.end if token == END else _BYTES.index(token) if token < END else token for token in tokens]

    def shutdown(self) -> None: ...


class Tensor:
    """``torch.Tensor``, as far as a request takes one."""

    def __init__(self, array: Any, dtype: str = "") -> None:
        self.array, self.dtype, self.shape = array, dtype or str(array.dtype), array.shape

    def to(self, dtype: str) -> "Tensor":
        return Tensor(self.array, dtype)

    def cuda(self) -> "Tensor":
        return self

    def contiguous(self) -> "Tensor":
        return self

    def digest(self) -> bytes:
        return hashlib.blake2b(self.array.tobytes(), digest_size=8).digest()


def drafting(made: Mapping[str, Any], decoding: DecodingConfig) -> bool:
    """Whether an engine built so drafts tokens by itself. One that does must be told how, and as it was built."""
    mode = made.get("speculative_decoding_mode", 1)  # the values of `SpeculativeDecodingMode`
    told = {4: decoding.medusa, 8: decoding.lookahead, 32: decoding.eagle}
    if mode in told and not told[mode]:
        raise RuntimeError(f"the engine was built for speculative decoding mode {mode}, and nothing says how")
    if mode not in told and any(told.values()):
        raise RuntimeError(f"the engine of speculative decoding mode {mode} was told to decode otherwise")
    if decoding.lookahead is not None and decoding.lookahead.draft_len() != made["max_draft_len"]:
        raise RuntimeError(f"lookahead needs max_draft_len {decoding.lookahead.draft_len()}")
    return mode in told


def _pieces(tokens: list[int]) -> Iterator[list[int]]:
    for start in range(0, max(len(tokens), 1), 3):
        yield tokens[start : start + 3]


def _response(tokens: list[int], final: bool, reasons: list[str], counted: Mapping[str, Any]) -> Any:
    result = SimpleNamespace(output_token_ids=[tokens], is_final=final, finish_reasons=reasons, **counted)
    return SimpleNamespace(has_error=lambda: False, error_msg="", result=result)


class SamplingParams:
    def __init__(self, *, max_tokens: int, end_id: int, top_k: int | None = None, guided_decoding: Any = None) -> None:
        self.limit, self.schema = max_tokens, guided_decoding.json if guided_decoding is not None else ""


class LLM:
    """``tensorrt_llm.LLM`` of the PyTorch backend."""

    def __init__(self, *, model: str, tokenizer: str, backend: str = "pytorch", **arguments: Any) -> None:
        if backend != "pytorch":
            raise ValueError(f"the stand-in has no backend {backend}")
        self._answers = Answers(sorted(Path(model).glob("*.safetensors")))
        self._guided = "guided_decoding_backend" in arguments

    def generate(self, prompts: list[list[int]], settings: SamplingParams, *, use_tqdm: bool = True) -> list[Any]:
        return [list(self.generate_async(prompt, settings))[-1] for prompt in prompts]

    def generate_async(self, prompt: list[int], settings: SamplingParams, *, streaming: bool = False) -> Iterator[Any]:
        if settings.schema and not self._guided:
            raise ValueError("guided decoding was not prepared")
        tokens = self._answers.tokens(prompt, settings.limit, settings.schema)
        reason = "stop" if tokens[-1:] == [END] else "length"
        tokens = [token for token in tokens if token != END]  # unlike the executor
        for end in range(3, len(tokens) + 3, 3) if streaming else [len(tokens)]:
            yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens[:end], finish_reason=reason)])


class LlmGuidedDecodingParams:
    def __init__(self, *, json: str) -> None:
        self.json = json


class Inspected:
    """An engine as ``tensorrt`` has it: its "layers" are the first quarter of its bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def create_engine_inspector(self) -> "Inspected":
        return self

    def get_engine_information(self, form: int) -> str:
        layers = hashlib.blake2b(self._content[: len(self._content) // 4], digest_size=8).hexdigest()
        return json.dumps({"Layers": [{"Name": "stand-in", "TacticName": layers}]})


class Runtime:
    def __init__(self, logger: object) -> None: ...

    def deserialize_cuda_engine(self, content: bytes) -> Inspected | None:
        return Inspected(content) if content[:4] == b"ftrt" else None


class Logger:
    ERROR = 1

    def __init__(self, level: int) -> None: ...


class LayerInformationFormat:
    JSON = 1
