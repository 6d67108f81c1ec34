"""The decoder in plain NumPy, written from the papers and not from the graph: what the engine is compared with.

One call is one prompt without a cache. Weights are asked for one matrix at a time, so that only one is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from architecture import Architecture

Array = np.ndarray[Any, np.dtype[Any]]
#: Gives a tensor by its name in the checkpoint, as float32.
Weights = Callable[[str], Array]


def logits(architecture: Architecture, weights: Weights, tokens: list[int]) -> Array:
    """[length, vocabulary], float32: the scores of the next token after each prefix of `tokens`."""
    x = weights("model.embed_tokens.weight")[tokens].astype(np.float32)
    angles = np.arange(len(tokens))[:, None] * architecture.frequencies()[None, :]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    for index in range(architecture.layers):
        x = _layer(architecture, weights, f"model.layers.{index}", x, cos, sin)
    x = _norm(x, weights("model.norm.weight"), architecture.epsilon)
    result: Array = x @ weights(architecture.head_name).T
    return result


def _layer(architecture: Architecture, weights: Weights, name: str, x: Array, cos: Array, sin: Array) -> Array:
    normed = _norm(x, weights(f"{name}.input_layernorm.weight"), architecture.epsilon)
    x = x + _attention(architecture, weights, f"{name}.self_attn", normed, cos, sin)
    normed = _norm(x, weights(f"{name}.post_attention_layernorm.weight"), architecture.epsilon)
    gate = normed @ weights(f"{name}.mlp.gate_proj.weight").T
    up = normed @ weights(f"{name}.mlp.up_proj.weight").T
    with np.errstate(over="ignore"):  # exp of a very negative gate is infinite, and its silu rightly zero
        inner = gate / (1 + np.exp(-gate)) * up
    result: Array = x + inner @ weights(f"{name}.mlp.down_proj.weight").T
    return result


def _attention(architecture: Architecture, weights: Weights, name: str, x: Array, cos: Array, sin: Array) -> Array:
    length, size = len(x), architecture.head_dim

    def project(which: str) -> Array:
        product = x @ weights(f"{name}.{which}_proj.weight").T
        if architecture.qkv_bias:
            product = product + weights(f"{name}.{which}_proj.bias")
        heads: Array = product.reshape(length, -1, size)
        if architecture.qk_norm and which != "v":
            heads = _norm(heads, weights(f"{name}.{which}_norm.weight"), architecture.epsilon)
        return heads if which == "v" else _rotate(heads, cos[:, None], sin[:, None])

    q, k, v = project("q"), project("k"), project("v")
    share = architecture.heads // architecture.kv_heads
    future = np.triu(np.full((length, length), -np.inf, dtype=np.float32), 1)
    out = np.empty_like(q)
    for head in range(architecture.heads):
        scores = q[:, head] @ k[:, head // share].T / np.float32(np.sqrt(size)) + future
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = scores / scores.sum(axis=-1, keepdims=True) @ v[:, head // share]
    result: Array = out.reshape(length, -1) @ weights(f"{name}.o_proj.weight").T
    return result


def _norm(x: Array, scale: Array, epsilon: float) -> Array:
    mean = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
    result: Array = (x / np.sqrt(mean + epsilon)).astype(np.float32) * scale
    return result


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def difference(found: Array, expected: Array) -> float:
    """The largest deviation of any logit, relative to the largest logit."""
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())
