"""The Triton models of an engine of the kind `tensorrt-llm`, by the release of its backend. Standard library only.

Parameters and tensors are those of ``all_models/inflight_batcher_llm`` (tensorrtllm_backend up to 0.19, TensorRT-LLM's
``triton_backend`` from 0.20); which release has which is from comparing the templates of its tags. What a template
leaves unfilled the backend takes as not set, so here it is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stage_file import Refused
from triton_config import Batching, Model, Step, Tensor
from triton_tensors import LOG_PROBS, RENAMED, SETTINGS, TIMES, TOKENS, Setting, bls_of

FIRST, RENAMING = "0.12", "0.20"
WORKER = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"
#: Parameters of the model `tensorrt_llm` that a deployment may set, and the first release that has each.
PARAMETERS = {
    "max_beam_width": FIRST,
    "gpt_model_type": FIRST,
    "max_tokens_in_paged_kv_cache": FIRST,
    "max_attention_window_size": FIRST,
    "batch_scheduler_policy": FIRST,
    "kv_cache_free_gpu_mem_fraction": FIRST,
    "cross_kv_cache_fraction": "0.14",
    "kv_cache_host_memory_bytes": FIRST,
    "exclude_input_in_output": FIRST,
    "cancellation_check_period_ms": FIRST,
    "iter_stats_max_iterations": FIRST,
    "request_stats_max_iterations": FIRST,
    "enable_kv_cache_reuse": FIRST,
    "normalize_log_probs": FIRST,
    "enable_chunked_context": FIRST,
    "gpu_device_ids": FIRST,
    "lora_cache_optimal_adapter_size": FIRST,
    "lora_cache_max_adapter_size": FIRST,
    "lora_cache_gpu_memory_fraction": FIRST,
    "lora_cache_host_memory_bytes": FIRST,
    "decoding_mode": FIRST,
    "medusa_choices": FIRST,
    "eagle_choices": "0.16",
    "num_nodes": "0.19",
    "lora_prefetch_dir": "0.19",
    "lookahead_window_size": "0.19",
    "lookahead_ngram_size": "0.19",
    "lookahead_verification_set_size": "0.19",
    "guided_decoding_backend": "0.19",
    "xgrammar_tokenizer_info_path": "0.19",
    "tokenizer_dir": "0.19",
}
#: Looks like a parameter in much that is copied around, and is a field of its own.
ELSEWHERE = {"max_queue_delay_microseconds": "dynamic_batching", "max_queue_size": "dynamic_batching"}
STATISTICS = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
COUNTS = ("num_input_tokens", "num_output_tokens")


def is_older(release: str, other: str) -> bool:
    """Whether `release` comes before `other`, both as "major.minor…"."""
    return _number(release) < _number(other)


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")[:2])


def speculation(told: Mapping[str, Any]) -> dict[str, str]:
    """Parameters for an engine that drafts tokens as it is `told`; the backend reads the sizes of lookahead only under
    its decoding mode (inflight_batcher_llm/src/model_instance_state.cc at v0.19.0). Raises `Refused`.
    """
    if not told:
        return {}
    if told["mode"] == "lookahead_decoding":
        names = {"window": "window", "ngram": "ngram", "verification": "verification_set"}
        sizes = {f"lookahead_{name}_size": str(told[ours]) for ours, name in names.items()}
        return {"decoding_mode": "lookahead", **sizes}
    if not told["choices"]:
        raise Refused("Triton's backend is told the choices of a tree, and not to let one grow: Eagle(choices=...)")
    tree = ", ".join("{" + ", ".join(map(str, branch)) + "}" for branch in told["choices"])
    return {"decoding_mode": told["mode"], f"{told['mode']}_choices": tree}


@dataclass(frozen=True)
class Backend:
    """One engine's backend. `decoupled` lets it stream; the delay is in µs."""

    release: str
    max_batch_size: int
    tokenizer: str
    parameters: Mapping[str, str]
    batching: Batching = field(default_factory=Batching)
    decoupled: bool = True
    bls: bool = False

    def settings(self) -> tuple[Setting, ...]:
        """What a request may ask of it, by the names that this release has."""
        found = (one for one in SETTINGS if not is_older(self.release, one.since))
        found = (one for one in found if not one.until or is_older(self.release, one.until))
        return tuple(self._named(one) for one in found)

    def _named(self, setting: Setting) -> Setting:
        if setting.name in RENAMED and is_older(self.release, RENAMING):
            return Setting(RENAMED[setting.name], setting.type)
        return setting

    def outputs(self) -> tuple[Tensor, ...]:
        """Of `tensorrt_llm` besides tokens and their number."""
        logits = (Tensor("context_logits", "FP32", (-1, -1)), Tensor("generation_logits", "FP32", (-1, -1, -1)))
        found = [Tensor("cum_log_probs", "FP32", (-1,)), LOG_PROBS, *logits]
        if not is_older(self.release, "0.16"):
            found += [Tensor(name, "INT32", (1,)) for name in STATISTICS]
        if not is_older(self.release, "0.19"):
            found += [*TIMES, Tensor("acceptance_rate", "FP32", (1,))]
            found += [Tensor(f"total_{what}_tokens", "INT32", (1,)) for what in ("accepted_draft", "draft")]
        if not is_older(self.release, RENAMING):
            found += [Tensor(name, "INT32", (1,)) for name in COUNTS]
        return tuple(found)


def models(backend: Backend) -> tuple[Model, ...]:
    """All of the repository, in the order in which a request goes through it."""
    found = (_preprocessing(backend), engine_model(backend), _postprocessing(backend), _ensemble(backend))
    return (*found, bls_of(found[-1])) if backend.bls else found


_WORDS = (("STOP_WORDS_DICT", "STOP_WORDS_IDS", "stop_words"), ("BAD_WORDS_DICT", "BAD_WORDS_IDS", "bad_words"))


def _preprocessing(backend: Backend) -> Model:
    return Model(
        name="preprocessing",
        backend="python",
        max_batch_size=backend.max_batch_size,
        inputs=(
            Tensor("QUERY", "STRING", (1,)),
            Tensor("REQUEST_OUTPUT_LEN", "INT32", (1,)),
            *(Tensor(words, "STRING", (-1,), optional=True) for words, _, _ in _WORDS),
        ),
        outputs=(
            Tensor("INPUT_ID", "INT32", (-1,)),
            Tensor("REQUEST_INPUT_LEN", "INT32", (1,)),
            Tensor("REQUEST_OUTPUT_LEN", "INT32", (1,)),
            *(Tensor(ids, "INT32", (2, -1)) for _, ids, _ in _WORDS),
        ),
        parameters={"tokenizer_dir": backend.tokenizer},
    )


def engine_model(backend: Backend) -> Model:
    """The engine itself, by NVIDIA's backend."""
    lengths = (Tensor(name, "INT32", (1,), scalar=True) for name in ("input_lengths", "request_output_len"))
    words = (Tensor(f"{name}_list", "INT32", (2, -1), optional=True, ragged=True) for _, _, name in _WORDS)
    settings = (
        Tensor(one.inner, one.type, (1,), optional=True, scalar=one.type != "STRING", ragged=one.type == "STRING")
        for one in backend.settings()
    )
    return Model(
        name="tensorrt_llm",
        backend="tensorrtllm",
        max_batch_size=backend.max_batch_size,
        decoupled=backend.decoupled,
        batching=backend.batching,
        inputs=(
            Tensor("input_ids", "INT32", (-1,), ragged=True),
            *lengths,
            *words,
            *settings,
            Tensor("stop", "BOOL", (1,), optional=True, scalar=True),
        ),
        outputs=(*TOKENS, *backend.outputs()),
        parameters={"FORCE_CPU_ONLY_INPUT_TENSORS": "no", "executor_worker_path": WORKER} | dict(backend.parameters),
    )


def _postprocessing(backend: Backend) -> Model:
    return Model(
        name="postprocessing",
        backend="python",
        max_batch_size=backend.max_batch_size,
        inputs=(Tensor("TOKENS_BATCH", "INT32", (-1, -1)), Tensor("SEQUENCE_LENGTH", "INT32", (-1,))),
        outputs=(Tensor("OUTPUT", "STRING", (-1,)),),
        parameters={"tokenizer_dir": backend.tokenizer, "skip_special_tokens": "true"},
    )


def _asked(backend: Backend) -> tuple[Tensor, ...]:
    """What the models that speak text are asked with."""
    return (
        Tensor("text_input", "STRING", (1,)),
        Tensor("max_tokens", "INT32", (1,)),
        *(Tensor(name, "STRING", (-1,), optional=True) for _, _, name in _WORDS),
        *(Tensor(one.name, one.type, (1,), optional=True) for one in backend.settings()),
    )


def _ensemble(backend: Backend) -> Model:
    words = {f"{name}_list": f"_{ids}" for _, ids, name in _WORDS}
    passed = {tensor.name: tensor.name for tensor in backend.outputs()}
    tokenized = {"INPUT_ID": "_INPUT_ID", "REQUEST_INPUT_LEN": "_INPUT_LEN", "REQUEST_OUTPUT_LEN": "_OUTPUT_LEN"}
    return Model(
        name="ensemble",
        max_batch_size=backend.max_batch_size,
        decoupled=backend.decoupled,
        inputs=_asked(backend),
        outputs=(Tensor("text_output", "STRING", (-1,)), *backend.outputs()),
        steps=(
            Step(
                "preprocessing",
                {"QUERY": "text_input", "REQUEST_OUTPUT_LEN": "max_tokens"}
                | {outer: name for outer, _, name in _WORDS},
                tokenized | {ids: f"_{ids}" for _, ids, _ in _WORDS},
            ),
            Step(
                "tensorrt_llm",
                {"input_ids": "_INPUT_ID", "input_lengths": "_INPUT_LEN", "request_output_len": "_OUTPUT_LEN"}
                | words
                | {one.inner: one.name for one in backend.settings()},
                {"output_ids": "_TOKENS", "sequence_length": "_LENGTH"} | passed,
            ),
            Step(
                "postprocessing", {"TOKENS_BATCH": "_TOKENS", "SEQUENCE_LENGTH": "_LENGTH"}, {"OUTPUT": "text_output"}
            ),
        ),
    )
