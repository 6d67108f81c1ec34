"""Comparator of engines: the same code with the same weights (structural), or the same logits (numeric)?

A package is a zip archive whose members are named by their content. What differs between two builds of the same code
is listed in `evidence`. Logits are those of 32 tokens, compared relative to the largest.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

import torch
from aoti_run import Engine
from aoti_settings import NAME
from stage_file import StageFile, read_json, run, write_json

_NUMERIC = 1e-3
#: Members that hold no code: the archive's own checksum.
_NO_CODE = re.compile(r"\.data/serialization_id$")


def build(stage: StageFile) -> None:
    first, second = stage.input("first"), stage.input("second")
    unlike = sorted({*_members(first)} ^ {*_members(second)})
    vocabulary = read_json(first / "config.json")["vocab_size"]
    tokens = [number * 37 % vocabulary for number in range(32)]
    one, other = (Engine(folder).logits(tokens).to(torch.float32).cpu() for folder in (first, second))
    deviation = float((one - other).abs().max() / one.abs().max())
    grade = "structural" if not unlike else "numeric" if deviation <= _NUMERIC else "different"
    stage.out.mkdir(exist_ok=True)
    evidence = {
        "deviation": f"{deviation:.1e}",
        "allowed": f"{_NUMERIC:.0e}",
        "unlike": [list(item) for item in unlike],
    }
    write_json(stage.out / "grade.json", {"grade": grade, "evidence": evidence})


def _members(folder: Path) -> Iterator[tuple[str, str]]:
    """Kind and digest of every member that is code or data, and of the files beside the package."""
    with zipfile.ZipFile(folder / NAME) as archive:
        for name in archive.namelist():
            if not _NO_CODE.search(name):
                yield name.rpartition(".")[2], sha256(archive.read(name)).hexdigest()[:16]
    for path in sorted(folder.iterdir()):
        if path.name != NAME:
            yield path.name, sha256(path.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    run(build)
