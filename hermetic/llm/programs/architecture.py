"""What a ``config.json`` means: the shape of a Qwen2, Qwen3 or Llama decoder, or a refusal by name.

Everything that would change the arithmetic and is not implemented is refused here, before any weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from stage_file import Refused

#: Architectures by the name in ``architectures``.
KINDS = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "LlamaForCausalLM": "llama"}


@dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's stretching of the slow rotations; the names are those of ``rope_scaling``."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Architecture:
    """A decoder with grouped-query attention, rotary positions, RMS norms and a SwiGLU."""

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    epsilon: float
    theta: float
    rope: Llama3Rope | None
    tied: bool
    context: int

    @property
    def qkv_bias(self) -> bool:
        return self.kind == "qwen2"

    @property
    def qk_norm(self) -> bool:
        return self.kind == "qwen3"

    def frequencies(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Radians per position of each of the head_dim / 2 rotations."""
        plain = self.theta ** (-np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim)
        return plain if self.rope is None else _stretch(plain, self.rope)

    def linears(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of each matrix of a decoder layer, by its name within the layer."""
        queries, pairs = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (pairs, self.hidden),
            "self_attn.v_proj": (pairs, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that a checkpoint must hold, by name."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            for name, shape in self.linears().items():
                shapes[f"{prefix}{name}.weight"] = shape
                if self.qkv_bias and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                    shapes[f"{prefix}{name}.bias"] = shape[:1]
            if self.qk_norm:
                shapes[f"{prefix}self_attn.q_norm.weight"] = (self.head_dim,)
                shapes[f"{prefix}self_attn.k_norm.weight"] = (self.head_dim,)
            shapes[f"{prefix}input_layernorm.weight"] = (self.hidden,)
            shapes[f"{prefix}post_attention_layernorm.weight"] = (self.hidden,)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        return shapes

    @property
    def head_name(self) -> str:
        """The tensor that turns the last hidden state into logits."""
        return "model.embed_tokens.weight" if self.tied else "lm_head.weight"


def _stretch(plain: np.ndarray[Any, Any], rope: Llama3Rope) -> np.ndarray[Any, Any]:
    """Llama 3.1: slow rotations are slowed by `factor`, fast ones kept, those between blended."""
    turns = rope.original_max_position_embeddings * plain / (2 * np.pi)
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    stretched: np.ndarray[Any, Any] = plain * (blend + (1 - blend) / rope.factor)
    return stretched


def parse_config(config: Any) -> Architecture:
    """The architecture that `config` describes. Raises `Refused`, naming the key, on anything unsupported."""
    if not isinstance(config, dict):
        raise Refused("config.json is not a JSON object")
    kind = _kind(config)
    _refuse_unsupported(config, kind)
    hidden, heads = _natural(config, "hidden_size"), _natural(config, "num_attention_heads")
    kv_heads = _natural(config, "num_key_value_heads", heads)
    head_dim = _natural(config, "head_dim", hidden // heads)
    if heads % kv_heads:
        raise Refused(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        raise Refused(f"head_dim {head_dim} is odd, which rotary positions do not allow")
    theta, rope = _rope(config)
    return Architecture(
        kind=kind,
        hidden=hidden,
        layers=_natural(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=_natural(config, "intermediate_size"),
        vocabulary=_natural(config, "vocab_size"),
        epsilon=_positive(config, "rms_norm_eps", 1e-6),
        theta=theta,
        rope=rope,
        tied=bool(config.get("tie_word_embeddings", False)),
        context=_natural(config, "max_position_embeddings", 2048),
    )


def _kind(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not isinstance(name, str) or name not in KINDS:
        raise Refused(f"the architecture {name!r} is not supported; {', '.join(KINDS)} are")
    if config.get("model_type", KINDS[name]) != KINDS[name]:
        raise Refused(f"model_type {config['model_type']!r} does not fit the architecture {name}")
    return KINDS[name]


def _refuse_unsupported(config: dict[str, Any], kind: str) -> None:
    if config.get("quantization_config"):
        method = _of(config["quantization_config"], "quant_method")
        raise Refused(f"quantization_config: the checkpoint is already quantised ({method}); give the original one")
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        raise Refused("sliding-window attention (use_sliding_window, layer_types) is not supported")
    if kind == "llama" and config.get("sliding_window"):
        raise Refused(f"sliding_window {config['sliding_window']} is not supported")
    experts = [key for key in ("num_experts", "num_local_experts", "n_routed_experts") if config.get(key)]
    if experts:
        raise Refused(f"mixture of experts ({experts[0]} {config[experts[0]]}) is not supported")
    if config.get("attention_bias"):
        raise Refused(f"attention_bias is not supported for {kind}")
    if config.get("mlp_bias"):
        raise Refused("mlp_bias is not supported")
    if config.get("hidden_act", "silu") != "silu":
        raise Refused(f"hidden_act {config['hidden_act']!r} is not supported; silu is")
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        raise Refused(f"partial_rotary_factor {config['partial_rotary_factor']} is not supported")


def _rope(config: dict[str, Any]) -> tuple[float, Llama3Rope | None]:
    """Theta and the scaling, from ``rope_theta`` and ``rope_scaling`` or from the newer ``rope_parameters``."""
    newer, older = config.get("rope_parameters"), config.get("rope_scaling")
    scaling = newer if newer is not None else older
    theta = config.get("rope_theta", 10000.0)
    if scaling is None:
        return _number(theta, "rope_theta"), None
    if not isinstance(scaling, dict):
        raise Refused("rope_scaling is not a JSON object")
    if newer is not None and older is not None and _rope_type(newer) != _rope_type(older):
        raise Refused("rope_parameters and rope_scaling contradict each other")
    theta = _number(scaling.get("rope_theta", theta), "rope_theta")
    kind = _rope_type(scaling)
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise Refused(f"rope scaling of type {kind!r} is not supported; default and llama3 are")
    return theta, _llama3(scaling)


def _rope_type(scaling: Mapping[str, Any]) -> Any:
    return scaling.get("rope_type", scaling.get("type", "default"))


def _llama3(scaling: Mapping[str, Any]) -> Llama3Rope:
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    missing = [key for key in keys if key not in scaling]
    if missing:
        raise Refused(f"rope scaling of type llama3 lacks {', '.join(missing)}")
    factor, low, high, original = (_number(scaling[key], key) for key in keys)
    if high <= low or factor < 1:
        raise Refused("rope scaling: high_freq_factor must exceed low_freq_factor, and factor must be at least 1")
    return Llama3Rope(factor, low, high, int(original))


def _natural(config: dict[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if type(value) is not int or value < 1:
        raise Refused(f"config.json: {key} is {value!r}, expected a positive whole number")
    return value


def _positive(config: dict[str, Any], key: str, default: float) -> float:
    return _number(config.get(key, default), key)


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise Refused(f"config.json: {key} is {value!r}, expected a positive number")
    return float(value)


def _of(value: Any, key: str) -> Any:
    return value.get(key, "of unknown kind") if isinstance(value, dict) else "of unknown kind"
