"""How much of each matrix quantising took away, from the written files and the original ones alone.

Values are decoded here, not by the toolkit that encoded them. What AWQ and SmoothQuant move from one matrix into
another, a factor for each input and each output, is no loss: it is fitted and set aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from architecture import Architecture
from quantised_checkpoint import FORMATS
from safetensors_file import Tensor, as_float32
from stage_file import Refused

Array = np.ndarray[Any, np.dtype[Any]]

#: Rows of each matrix that are looked at, an even number: rounding is the same everywhere, and models are large.
_ROWS = 256
#: Share of a matrix's norm that rounding may take. Normally distributed weights lose 0.03 in E4M3, 0.01 to 0.02 in
#: eight bits, 0.1 in E2M1 with sixteen to a scale and 0.12 to 0.14 in four bits with 128; nonsense loses all.
_LARGEST_LOSS = {"fp8": 0.06, "int8_sq": 0.1, "nvfp4": 0.2, "int4_awq": 0.3, "w4a8_awq": 0.3}
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)


def _e4m3(bits: int) -> float:
    """One sign, four bits of exponent, three of mantissa; no infinity, and two patterns for NaN."""
    sign, exponent, mantissa = bits >> 7, bits >> 3 & 15, bits & 7
    if bits & 127 == 127:
        return float("nan")
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if sign else size


_E4M3 = np.array([_e4m3(bits) for bits in range(256)], dtype=np.float32)


def losses(name: str, architecture: Architecture, original: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> float:
    """The largest loss of any matrix of a Hugging Face export in the format `name`, relative to its norm.

    Raises `Refused` where a matrix is not the original one rounded.
    """
    worst = 0.0
    for layer in range(architecture.layers):
        for module, (rows, _) in architecture.linears().items():
            prefix = f"model.layers.{layer}.{module}"
            count = min(rows, _ROWS)
            weights = original[f"{prefix}.weight"]
            expected = as_float32(weights.bits()[:count], weights.dtype)
            found = decoded(name, prefix, held, count)
            loss = _loss(found, expected)
            if not loss <= _LARGEST_LOSS[name]:
                raise Refused(f"{prefix} lost {loss:.2f} of itself when it was stored as {name}")
            worst = max(worst, loss)
    return worst


def decoded(name: str, prefix: str, held: Mapping[str, Tensor], rows: int) -> Array:
    """The first `rows` rows of a matrix as the files have it, in float32."""
    fmt = FORMATS[name]
    bits = held[f"{prefix}.weight"].bits()[: rows // fmt.packed_rows]
    scale = held[f"{prefix}.weight_scale"].bits()
    if name == "fp8":
        return _E4M3[bits] * scale
    if name == "int8_sq":
        return bits.astype(np.float32) * scale[:rows, None]
    low, high = bits & 15, bits >> 4
    if name == "nvfp4":
        values = _E2M1[np.stack([low, high], axis=-1).reshape(rows, -1)]
        second = held[f"{prefix}.weight_scale_2"].bits()
        return values * np.repeat(_E4M3[scale[:rows]], fmt.group, axis=1) * second
    signed = np.stack([low, high], axis=1).reshape(rows, -1).astype(np.int8)
    values = np.where(signed > 7, signed - 16, signed).astype(np.float32)
    result: Array = values * np.repeat(scale[:rows], fmt.group, axis=1)
    return result


def _loss(found: Array, expected: Array) -> float:
    """What remains when `expected` is given the positive factors of rows and columns that bring it closest to `found`.

    A row or column that vanished is given none, so it counts as lost.
    """
    fitted = expected
    for _ in range(3):
        for axis in (0, 1):
            square = np.maximum(np.square(fitted).sum(axis=axis, keepdims=True), 1e-30)
            factor = (found * fitted).sum(axis=axis, keepdims=True) / square
            fitted = fitted * np.where(factor > 0, factor, 1)
    norm = float(np.linalg.norm(fitted))
    return float(np.linalg.norm(found - fitted)) / norm if norm else float(found.any())
