"""Models that fit into a test, and fetching without a store."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from hermetic.errors import HermeticError
from hermetic.fetch.fixed import Fetch, resolve
from hermetic.recipe.fixed import FixedOutput
from hermetic.recipe.lockfile import FixedEntry, LockedFile
from hermetic.recipe.pins import locking

MEGABYTE = 1 << 20


def safetensors(size: int, seed: int = 0) -> bytes:
    """A safetensors file of one tensor with `size` bytes, which differ from seed to seed."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    pattern = bytes((number * 7 + seed * 31) % 251 for number in range(4096))
    return len(header).to_bytes(8, "little") + header + (pattern * (size // 4096 + 1))[:size]


def tokenizer(tokens: int) -> bytes:
    return json.dumps({"model": {"vocab": {f"t{number}": number for number in range(tokens)}}}).encode()


def model(shards: int = 2, size: int = MEGABYTE, seed: int = 0) -> dict[str, bytes]:
    """A checkpoint's files; only the shards are large to the Hub."""
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    places = {f"weight.{number}": name for number, name in enumerate(names)}
    return {
        "config.json": json.dumps({"vocab_size": 8, "seed": seed}).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": places}).encode(),
        "tokenizer.json": tokenizer(8),
        **{name: safetensors(size, seed * 100 + number) for number, name in enumerate(names)},
    }


def output(uri: str = "hf://acme/tiny@main", entry: FixedEntry | None = None, **options: Any) -> FixedOutput:
    """A fixed output as a recipe that is being locked makes it, or with what the lock file says."""
    with locking():
        return FixedOutput(uri, entry=entry, **options)


def locked(uri: str = "hf://acme/tiny@main", **options: Any) -> FixedOutput:
    """A fixed output with what its address stands for now."""
    return output(uri, resolve([output(uri, **options)], None), **options)


def fetch(
    item: FixedOutput, folder: Path, *, nearby: Iterable[Path] = (), told: list[int] | None = None
) -> dict[str, bytes]:
    """Bring `item` to `folder`; what is there then, by name."""
    guard = threading.Lock()
    counts = told if told is not None else []

    def tell(count: int) -> None:
        with guard:
            counts.append(count)

    def near(_: LockedFile) -> list[str]:
        return [str(place) for place in nearby]

    work = Fetch(item, str(folder / "work"), str(folder / "quarantine"), tell=tell, nearby=near)
    out = Path(work.bring())
    work.check(str(out))
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def reason(work: Callable[[], object]) -> str:
    """What `work` is refused with: domain and reason."""
    with pytest.raises(HermeticError) as caught:
        work()
    return f"{caught.value.domain.value}/{caught.value.reason}"
