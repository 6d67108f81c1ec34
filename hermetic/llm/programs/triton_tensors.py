"""The tensors of TensorRT-LLM's Triton models, which every engine kind here is served with. Standard library only.

Names, types and shapes are those of ``all_models/inflight_batcher_llm`` of the backend's releases 0.12 to 0.19 and of
``triton_backend/all_models`` of TensorRT-LLM from 0.20; `since` and `until` are the releases that have one.
"""

from __future__ import annotations

from dataclasses import dataclass

from triton_config import Model, Tensor

RENAMED = {"seed": "random_seed", "min_tokens": "min_length"}  # of new names, what they were before 0.20


@dataclass(frozen=True)
class Setting:
    """An optional input of one value. `ours` is its name in the model `tensorrt_llm`, if that is another."""

    name: str
    type: str
    ours: str = ""
    since: str = "0"
    until: str = ""

    @property
    def inner(self) -> str:
        return self.ours or self.name


#: What a client may ask of one request, in the order of the ensemble's inputs.
SETTINGS = (
    Setting("end_id", "INT32"),
    Setting("pad_id", "INT32"),
    Setting("top_k", "INT32", "runtime_top_k"),
    Setting("top_p", "FP32", "runtime_top_p"),
    Setting("temperature", "FP32"),
    Setting("length_penalty", "FP32", "len_penalty"),
    Setting("repetition_penalty", "FP32"),
    Setting("min_tokens", "INT32"),
    Setting("presence_penalty", "FP32"),
    Setting("frequency_penalty", "FP32"),
    Setting("seed", "UINT64"),
    Setting("return_log_probs", "BOOL"),
    Setting("return_context_logits", "BOOL"),
    Setting("return_generation_logits", "BOOL"),
    Setting("return_kv_cache_reuse_stats", "BOOL", since="0.16", until="0.19"),
    Setting("return_perf_metrics", "BOOL", since="0.19"),
    Setting("return_num_input_tokens", "BOOL", since="0.20"),
    Setting("return_num_output_tokens", "BOOL", since="0.20"),
    Setting("num_return_sequences", "INT32", since="0.14"),
    Setting("beam_width", "INT32"),
    Setting("stream", "BOOL", "streaming"),
    Setting("guided_decoding_guide_type", "STRING", since="0.19"),
    Setting("guided_decoding_guide", "STRING", since="0.19"),
)
#: Those that the model for OpenVINO engines understands; Triton refuses a request with any other.
OPENVINO = frozenset(
    {
        "end_id", "top_k", "top_p", "temperature", "repetition_penalty", "min_tokens", "presence_penalty",
        "frequency_penalty", "seed", "return_log_probs", "return_perf_metrics", "stream",
        "guided_decoding_guide_type", "guided_decoding_guide",
    }
)  # fmt: skip

TIMES = tuple(
    Tensor(f"{what}_time_ns", "INT64", (1,)) for what in ("arrival", "first_scheduled", "first_token", "last_token")
)
TOKENS = (Tensor("output_ids", "INT32", (-1, -1)), Tensor("sequence_length", "INT32", (-1,)))
LOG_PROBS = Tensor("output_log_probs", "FP32", (-1, -1))


def bls_of(ensemble: Model) -> Model:
    """The same from one model that calls the others, and so can put tokens together before they become text."""
    return Model(
        name="tensorrt_llm_bls",
        backend="python",
        max_batch_size=ensemble.max_batch_size,
        decoupled=ensemble.decoupled,
        inputs=ensemble.inputs,
        outputs=ensemble.outputs,
        parameters={"accumulate_tokens": "true", "tensorrt_llm_model_name": "tensorrt_llm"},
    )
