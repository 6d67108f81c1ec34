"""Options of ``trtllm-build`` that exclude or need each other; the tool would say so only after hours, or never."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from hermetic.llm.findings import Finding, Severity
from hermetic.llm.trtllm.options import Value

__all__ = ["NEEDS_PAGED_CONTEXT", "coupled"]

#: What serving wants of an engine only if it was built with paged-context attention, and who says so.
NEEDS_PAGED_CONTEXT: Final = (
    "tensorrtllm_backend issue 251: with KV cache block reuse the model has to be built with it"
)

_DRAFT: Final = "NVIDIA/TensorRT-LLM examples/draft_target_model/README.md, Build draft and target engines"
_LOOKAHEAD: Final = "NVIDIA/TensorRT-LLM examples/lookahead/README.md"
_MEDUSA: Final = "NVIDIA/TensorRT-LLM examples/medusa/README.md: beam search is not compatible with Medusa"
_BUILD: Final = "NVIDIA/TensorRT-LLM tensorrt_llm/commands/build.py"
_MODES: Final = frozenset({"draft_tokens_external", "lookahead_decoding"})  # others read the length from the checkpoint
#: Limits without which an engine could do nothing.
_COUNTS: Final = ("max_batch_size", "max_seq_len", "max_input_len", "max_num_tokens", "max_beam_width")
_LORA: Final = ("lora_target_modules",)


def coupled(options: Mapping[str, Value]) -> list[Finding]:
    """Findings about `options` under their canonical names, with the release's defaults."""
    return [*_build(options), *_cache(options), *_speculation(options), *_lora(options)]


def _build(options: Mapping[str, Value]) -> Iterator[Finding]:
    for name in _COUNTS:
        value = options.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            yield Finding("out-of-range", Severity.ERROR, name, f"{name} is {value}, and should be 1 or more")
    if options.get("opt_num_tokens") and options.get("multiple_profiles") == "enable":
        yield _error("opt_num_tokens", "the tool refuses opt_num_tokens with multiple profiles", "leave it out", _BUILD)
    if options.get("weight_streaming") and options.get("gemm_plugin") not in (None, "disable"):
        yield _error("weight_streaming", "weight streaming needs the GEMM plugin off", "gemm_plugin='disable'")
    if options.get("streamingllm") == "enable":
        yield _error("streamingllm", "StreamingLLM is no longer supported", "leave it out")
    longest, context = options.get("max_seq_len"), options.get("max_input_len")
    if isinstance(longest, int) and isinstance(context, int) and context > longest:
        yield _error("max_input_len", f"max_input_len {context} is over max_seq_len {longest}", "lower it")
    if options.get("fast_build"):
        text = "fast_build writes weights after the line that proves an engine whole, so they could not be taken"
        yield _error("fast_build", text, "leave it out")


def _cache(options: Mapping[str, Value]) -> Iterator[Finding]:
    kind = options.get("kv_cache_type", options.get("paged_kv_cache", "paged"))
    if kind not in ("paged", "enable") and options.get("use_paged_context_fmha") == "enable":
        text = "paged context attention needs a paged key-value cache"
        yield _error("use_paged_context_fmha", text, "kv_cache_type='paged', or switch it off")
    if options.get("use_paged_context_fmha") == "enable" and options.get("context_fmha") == "disable":
        text = "paged context attention is a kind of fused context attention, which is off"
        yield _error("use_paged_context_fmha", text, "context_fmha='enable'")


def _speculation(options: Mapping[str, Value]) -> Iterator[Finding]:
    mode, length = options.get("speculative_decoding_mode"), options.get("max_draft_len") or 0
    if length and mode is None:
        text = f"max_draft_len is {length}, and no speculative_decoding_mode says what drafts"
        yield _error("max_draft_len", text, "speculative_decoding_mode='draft_tokens_external', or another one")
    if mode in _MODES and not length:
        source = _DRAFT if mode == "draft_tokens_external" else _LOOKAHEAD
        yield _error("max_draft_len", f"{mode} needs the greatest number of draft tokens", "max_draft_len=...", source)
    if mode == "draft_tokens_external" and options.get("use_paged_context_fmha") == "disable":
        text = "drafts from another model need a cache whose blocks are reused, and so paged context attention"
        yield _error("use_paged_context_fmha", text, "use_paged_context_fmha='enable'", _DRAFT)
    beams = options.get("max_beam_width") or 1
    if mode is not None and isinstance(beams, int) and beams > 1:
        yield _error("max_beam_width", f"{mode} does not go with beam search", "max_beam_width=1", _MEDUSA)


def _lora(options: Mapping[str, Value]) -> Iterator[Finding]:
    plugin = options.get("lora_plugin") not in (None, "disable")
    asked = [name for name in _LORA if options.get(name)]
    if asked and not plugin:
        text = f"{asked[0]} has no effect without the LoRA plugin"
        yield Finding("coupled-options", Severity.ERROR, "lora_plugin", text, "lora_plugin='auto'")


def _error(where: str, message: str, hint: str, source: str = "") -> Finding:
    return Finding("coupled-options", Severity.ERROR, where, message, hint, source)
