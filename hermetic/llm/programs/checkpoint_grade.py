"""Comparator of checkpoints: the same tensors in other files (structural), or nearly the same values (numeric)?

Numeric is granted where names, dtypes and shapes are the same, floating-point tensors differ by a hundredth of their
largest value at most, and of the bytes of packed integers no more than one in a hundred differs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

import numpy as np
from safetensors_file import DTYPES, QUANTISED, Tensor, as_float32, read_header
from stage_file import StageFile, run, write_json

_NUMERIC = 0.01


def build(stage: StageFile) -> None:
    one, other = (_tensors(stage.input(role)) for role in ("first", "second"))
    described = [{name: (item.dtype, item.shape) for name, item in tensors.items()} for tensors in (one, other)]
    evidence: dict[str, Any]
    if described[0] != described[1]:
        unlike = sorted(name for name in {**one, **other} if described[0].get(name) != described[1].get(name))
        grade, evidence = "different", {"unlike_tensors": unlike[:20]}
    else:
        far = {name: _distance(one[name], other[name]) for name in one}
        worst = max(far, key=lambda name: far[name], default="")
        largest = far.get(worst, 0.0)
        grade = "structural" if largest == 0 else "numeric" if largest <= _NUMERIC else "different"
        unequal = sum(distance > 0 for distance in far.values())
        evidence = {"largest_distance": f"{largest:.1e}", "of": worst, "unequal_tensors": unequal, "allowed": "1e-02"}
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "grade.json", {"grade": grade, "evidence": evidence})


def _tensors(folder: Path) -> dict[str, Tensor]:
    """By name, ranks apart; which shard holds a tensor does not matter."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        rank = f"{path.stem}:" if path.stem.startswith("rank") else ""
        found |= {f"{rank}{name}": tensor for name, tensor in read_header(path, QUANTISED).items()}
    return found


def _distance(one: Tensor, other: Tensor) -> float:
    """Relative to the largest value, or the share of bytes that differ."""
    first, second = one.bits(), other.bits()
    if np.array_equal(first, second):
        return 0.0
    if one.dtype not in DTYPES:
        return float(np.mean(first != second))
    values: list[np.ndarray[Any, Any]] = [as_float32(np.asarray(bits), one.dtype) for bits in (first, second)]
    largest = float(np.abs(values[0]).max())
    return float(np.abs(values[0] - values[1]).max()) / largest if largest else float("inf")


if __name__ == "__main__":
    run(build)
