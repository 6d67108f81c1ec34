"""What a config.json means, and the parts of the reference that can be checked without an engine."""

from __future__ import annotations

import math
from typing import Any

import by_hand  # noqa: F401  # makes the programs importable
import checkpoints
import numpy as np
import pytest
from architecture import parse_config
from reference_forward import difference, logits
from repetition import repetition


def test_sizes_that_are_left_out() -> None:
    settings = checkpoints.config("llama")
    for key in ("head_dim", "num_key_value_heads", "rope_theta"):
        del settings[key]
    found = parse_config(settings | {"hidden_size": 192})
    assert (found.head_dim, found.kv_heads, found.theta) == (32, 6, 10000.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}},
    ],
)
def test_theta_in_every_spelling(changes: dict[str, Any]) -> None:
    found = parse_config(checkpoints.config("llama") | changes)
    assert (found.theta, found.rope) == (5e5, None)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_llama3_frequencies(key: str) -> None:
    """By the three cases of Llama 3.1's own description: long waves, short waves, and those between."""
    architecture = parse_config(checkpoints.config("llama", **{key: checkpoints.LLAMA3}))
    for index, found in enumerate(architecture.frequencies()):
        plain = 10000.0 ** (-2 * index / 32)
        wave = 2 * math.pi / plain
        if wave > 64 / 1.0:
            expected = plain / 8.0
        elif wave < 64 / 4.0:
            expected = plain
        else:
            smooth = (64 / wave - 1.0) / (4.0 - 1.0)
            expected = (1 - smooth) * plain / 8.0 + smooth * plain
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_the_reference_looks_at_no_later_token(kind: str) -> None:
    settings = checkpoints.config(kind)
    architecture = parse_config(settings)
    rng = np.random.default_rng(1)
    tensors = {n: checkpoints.random_tensor(rng, n, shape) for n, shape in checkpoints.shapes(settings).items()}
    one = logits(architecture, tensors.__getitem__, [5, 6, 7, 8])
    other = logits(architecture, tensors.__getitem__, [5, 6, 9, 10, 11])
    assert difference(other[:2], one[:2]) < 1e-6
    assert difference(other[2:4], one[2:4]) > 0.1


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        ([], 0),
        (list(range(200)), 0),
        ([7] * 15, 0),
        ([7] * 16, 1),
        ([1, 2] * 7, 0),
        ([1, 2] * 8, 2),
        ([9, 8, 1, 2, 3, 4, 5] + [1, 2, 3, 4, 5] * 3, 5),
        ([9, 8, 1, 2, 3, 4, 5] + [1, 2, 3, 4, 5] * 2, 0),
        (list(range(16)) * 4, 16),
        (list(range(17)) * 4, 0),
        ([1, 2] * 8 + list(range(50, 90)), 2),
    ],
)
def test_repetition(tokens: list[int], loop: int) -> None:
    assert repetition(tokens) == loop
