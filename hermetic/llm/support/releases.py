"""Which toolchain is in which image, and what a GPU or a model family asks of it: questions to `releases.toml`."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "Contents",
    "First",
    "contents",
    "cuda_for",
    "driver_for",
    "driver_for_gpu",
    "first_release",
    "first_release_of_model",
    "is_older",
    "newest_cuda",
    "numbers",
    "of_release",
    "release_for",
]

_HERE: Final = os.path.dirname(os.path.abspath(__file__))
_RELEASE: Final = re.compile(r"(?:^|/)tensorrt-llm/release:(\d+\.\d+\.\d+[^@]*)")
_TRITON: Final = re.compile(r"(?:^|/)tritonserver:(\d\d\.\d\d)-trtllm-python-py3")
_RELEASE_WITH_TRITON: Final = re.compile(r"(?:^|/)tensorrt-llm/release:(\d\d\.\d\d)-trtllm-python-py3")


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image holds; "" is not known. `driver` is the one that its maker names beside it. `source` says who."""

    tensorrt_llm: str
    tensorrt: str = ""
    cuda: str = ""
    driver: str = ""
    source: str = ""


def contents(reference: str) -> Contents | None:
    """What an image of NVIDIA's holds by its tag, wherever it is mirrored; None if the tag tells nothing."""
    if (match := _TRITON.search(reference) or _RELEASE_WITH_TRITON.search(reference)) is not None:
        return _triton(match[1])
    if (match := _RELEASE.search(reference)) is not None:
        return of_release(match[1]) or Contents(match[1])
    return None


def of_release(release: str) -> Contents | None:
    """TensorRT and CUDA that a TensorRT-LLM release comes with in NVIDIA's containers."""
    row = next((row for row in _table()["triton"] if row["tensorrt_llm"] == release), None)
    return _contents(row) if row is not None else None


def cuda_for(sm: str) -> tuple[str, str]:
    """The first CUDA that knows a compute capability such as "90", and where that is from; "" if not known."""
    row = _table()["cuda_for"].get(sm)
    return (row["since"], _table()["sources"][row["source"]]) if row is not None else ("", "")


def release_for(sm: str) -> First | None:
    """The first TensorRT-LLM for GPUs of a compute capability such as "103"; None if that is not known."""
    row = _table()["release_for"].get(sm)
    return _first(f"sm {sm}", row) if row is not None else None


def driver_for(cuda: str) -> tuple[str, str]:
    """The oldest driver that serves a CUDA such as "12.8", and where that is from; "" if not known."""
    table = _table()["driver_for"]
    return table.get(cuda.partition(".")[0], ""), _table()["sources"][table["source"]]


def driver_for_gpu(sm: str) -> tuple[str, str]:
    """The oldest driver that knows a compute capability such as "120", and where that is from; "" if not known."""
    table = _table()["driver_for_gpu"]
    return table.get(sm, ""), _table()["sources"][table["source"]]


def newest_cuda(driver: str) -> str:
    """The last major version of CUDA, of those known here, that `driver` serves; "" if none, or no driver is given."""
    known = ((int(cuda), least) for cuda, least in _table()["driver_for"].items() if cuda.isdigit())
    return str(max((cuda for cuda, least in known if driver and not is_older(driver, least)), default=""))


@dataclass(frozen=True, slots=True)
class First:
    """The first release that builds engines of `what`, or for GPUs that are `what`; "" if none does. `source` says who
    says so.
    """

    what: str
    since: str
    source: str


def first_release(architecture: str) -> First | None:
    """The first TensorRT-LLM that builds engines of `architecture`; None if that is not known."""
    found = _table()["architectures"].get(architecture)
    return _first(architecture, found) if found is not None else None


def first_release_of_model(repository: str) -> First | None:
    """As `first_release`, of a model by what its repository (``owner/name``) is called."""
    name = repository.rpartition("/")[2]
    found = next((row for row in _table()["models"] if re.match(row["name"], name.lower())), None)
    if found is None or "architecture" not in found:
        return _first(name, found) if found is not None else None
    return first_release(found["architecture"])


def _first(what: str, row: dict[str, str]) -> First:
    return First(what, row["since"], f"{_table()['sources'][row['source']]} ({row['says']})")


def is_older(version: str, than: str) -> bool:
    """Whether one dotted version is before another; what follows the numbers (``.post1``, ``rc2``) does not count."""
    return numbers(version) < numbers(than)


def numbers(version: str) -> tuple[int, ...]:
    """Of a dotted version, to compare; () if it does not begin with one."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found is not None else ()


def _triton(tag: str) -> Contents | None:
    row = next((row for row in _table()["triton"] if tag in row["tags"]), None)
    return _contents(row) if row is not None else None


def _contents(row: dict[str, Any]) -> Contents:
    source = _table()["sources"]["triton"]
    return Contents(row["tensorrt_llm"], row["tensorrt"], row["cuda"], row["driver"], source)


@functools.cache
def _table() -> dict[str, Any]:
    with open(os.path.join(_HERE, "releases.toml"), "rb") as stream:
        return tomllib.load(stream)
