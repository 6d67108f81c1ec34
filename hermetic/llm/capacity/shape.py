"""How many weights a ``config.json`` implies, which of them a quantiser touches, and what a token leaves in the cache.

The counts are those of Hugging Face's model classes; `tests/llm/test_capacity.py` holds them against the totals that
the transformers library counts itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hermetic.errors import Domain, HermeticError

__all__ = ["Shape", "read_shape"]

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """Counts of elements, of the whole model.

    `linear` are the weights of the linear layers inside the blocks, which every weight format stores; `embedding` is
    the table of input embeddings, `head` the output projection (0 where it is the same table), `other` norms, biases,
    routers and convolutions, which stay in the model's own type. `cache_per_token` are the elements that one token
    leaves in the key-value cache, `cache_per_request` what a request leaves once (the cross attention of an encoder),
    `cache_heads` over how many heads those can be divided among devices (0: each device has all of it).
    """

    architecture: str
    layers: int
    hidden: int
    widest: int
    vocabulary: int
    context: int
    linear: int
    embedding: int
    head: int
    other: int
    cache_per_token: int
    cache_per_request: int
    cache_heads: int

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.linear + self.embedding + self.head + self.other


def read_shape(config: Config) -> Shape:
    """The shape that a ``config.json`` describes.

    Raises `HermeticError`: recipe/unknown-architecture, recipe/config-incomplete, recipe/config-invalid.
    """
    (architecture, *_) = config.get("architectures") or ("",)
    reader = _READERS.get(architecture)
    if reader is None:
        message = f"nothing is known of how much memory the architecture {architecture or '(none)'!r} takes"
        raise HermeticError(
            Domain.RECIPE, "unknown-architecture", message, hint=f"known are {', '.join(sorted(_READERS))}"
        )
    try:
        return reader(architecture, config)
    except KeyError as error:
        message = f"config.json of a {architecture} has no field {error.args[0]!r}"
        raise HermeticError(Domain.RECIPE, "config-incomplete", message) from error


def _count(config: Config, name: str, default: int | None = None) -> int:
    value = config[name] if default is None else config.get(name, default)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise HermeticError(Domain.RECIPE, "config-invalid", f"config.json: {name} is {value!r}, not a count")
    return value


def _decoder(architecture: str, config: Config) -> Shape:
    """Grouped-query attention and a gated feed-forward network, dense or of experts."""
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    pairs = _count(config, "num_key_value_heads", heads)
    width = _count(config, "head_dim", hidden // max(heads, 1))
    layers = _count(config, "num_hidden_layers")
    attention = hidden * width * (2 * heads + 2 * pairs)
    norms = 2 * hidden + (2 * width if architecture.startswith("Qwen3") else 0)
    biases = width * (heads + 2 * pairs) if _has_qkv_bias(architecture, config) else 0
    dense, sparse = _feed_forward(config, hidden, layers)
    return _assembled(
        architecture,
        config,
        linear=layers * attention + dense + sparse[0],
        other=layers * (norms + biases) + hidden + sparse[1],
        cache_per_token=layers * 2 * pairs * width,
        cache_heads=pairs,
    )


def _latent(architecture: str, config: Config) -> Shape:
    """DeepSeek's multi-head latent attention: one compressed vector a token, shared by all heads."""
    hidden, heads, layers = (
        _count(config, name) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    plain, rotated, values = (_count(config, f"{name}_head_dim") for name in ("qk_nope", "qk_rope", "v"))
    rank, asked = _count(config, "kv_lora_rank"), _count(config, "q_lora_rank", 0)
    queries = heads * (plain + rotated)
    attention = hidden * asked + asked * queries if asked else hidden * queries
    attention += hidden * (rank + rotated) + rank * heads * (plain + values) + heads * values * hidden
    dense, sparse = _feed_forward(config, hidden, layers)
    return _assembled(
        architecture,
        config,
        linear=layers * attention + dense + sparse[0],
        other=layers * (2 * hidden + rank + asked) + hidden + sparse[1],
        cache_per_token=layers * (rank + rotated),
        cache_heads=0,
    )


def _feed_forward(config: Config, hidden: int, layers: int) -> tuple[int, tuple[int, int]]:
    """Weights of the dense layers, and of those with experts: linear ones, and routers."""
    experts = next(
        (_count(config, n) for n in ("num_experts", "num_local_experts", "n_routed_experts") if n in config), 0
    )
    inner = _count(config, "intermediate_size")
    if not experts:
        return layers * 3 * hidden * inner, (0, 0)
    dense = _count(config, "first_k_dense_replace", 0)
    each = _count(config, "moe_intermediate_size", inner)
    shared = _count(config, "n_shared_experts", 0)
    sparse = layers - dense
    corrections = experts if config.get("topk_method") == "noaux_tc" else 0
    return dense * 3 * hidden * inner, (
        sparse * (experts + shared) * 3 * hidden * each,
        sparse * (hidden * experts + corrections),
    )


def _has_qkv_bias(architecture: str, config: Config) -> bool:
    return architecture.startswith("Qwen2") or bool(config.get("attention_bias"))


def _assembled(
    architecture: str, config: Config, *, linear: int, other: int, cache_per_token: int, cache_heads: int
) -> Shape:
    hidden, vocabulary = _count(config, "hidden_size"), _count(config, "vocab_size")
    table = vocabulary * hidden
    return Shape(
        architecture=architecture,
        layers=_count(config, "num_hidden_layers"),
        hidden=hidden,
        widest=max(hidden, _count(config, "intermediate_size")),
        vocabulary=vocabulary,
        context=_count(config, "max_position_embeddings", 0),
        linear=linear,
        embedding=table,
        head=0 if config.get("tie_word_embeddings") else table,
        other=other,
        cache_per_token=cache_per_token,
        cache_per_request=0,
        cache_heads=cache_heads,
    )


def _whisper(architecture: str, config: Config) -> Shape:
    """An encoder over log-mel frames, and a decoder that attends to its output; the head is the embedding table."""
    hidden, vocabulary = _count(config, "d_model"), _count(config, "vocab_size")
    encoders, decoders = _count(config, "encoder_layers"), _count(config, "decoder_layers")
    inner, outer = _count(config, "encoder_ffn_dim"), _count(config, "decoder_ffn_dim")
    frames, tokens = _count(config, "max_source_positions"), _count(config, "max_target_positions")
    linear = encoders * (4 * hidden**2 + 2 * hidden * inner) + decoders * (8 * hidden**2 + 2 * hidden * outer)
    # Of each attention's four projections all but the keys' have a bias; each norm has two vectors.
    small = encoders * (3 * hidden + inner + hidden + 4 * hidden) + decoders * (
        6 * hidden + outer + hidden + 6 * hidden
    )
    bands = _count(config, "num_mel_bins")
    convolutions = 3 * hidden * bands + hidden + 3 * hidden**2 + hidden
    return Shape(
        architecture=architecture,
        layers=encoders + decoders,
        hidden=hidden,
        widest=max(hidden, inner, outer),
        vocabulary=vocabulary,
        context=tokens,
        linear=linear,
        embedding=vocabulary * hidden,
        head=0,
        other=small + convolutions + (frames + tokens) * hidden + 4 * hidden,
        cache_per_token=decoders * 2 * hidden,
        cache_per_request=decoders * 2 * hidden * frames,
        cache_heads=_count(config, "decoder_attention_heads"),
    )


_READERS: Final[Mapping[str, Callable[[str, Config], Shape]]] = {
    "DeepseekV2ForCausalLM": _latent,
    "DeepseekV3ForCausalLM": _latent,
    "LlamaForCausalLM": _decoder,
    "MistralForCausalLM": _decoder,
    "MixtralForCausalLM": _decoder,
    "Qwen2ForCausalLM": _decoder,
    "Qwen3ForCausalLM": _decoder,
    "Qwen3MoeForCausalLM": _decoder,
    "WhisperForConditionalGeneration": _whisper,
}
