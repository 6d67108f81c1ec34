"""What runs where: data with sources in ``*.toml`` beside this file, and the questions that are asked of it."""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["BACKENDS", "FORMATS", "Refusal", "Target", "refusals", "unlisted"]

_HERE: Final = os.path.dirname(os.path.abspath(__file__))
FORMATS: Final = ("int4_awq", "w4a8_awq", "fp8", "nvfp4", "int8_sq")
BACKENDS: Final = ("tensorrt-llm", "tensorrt-llm-pytorch", "vllm", "sglang")


@dataclass(frozen=True, slots=True)
class Target:
    """What a quantised checkpoint is for: a backend, the compute capability of a GPU ("9.0", "90"; "" for any), whether
    the engine will use paged-context attention, which block reuse and chunked prefill need.
    """

    backend: str
    sm: str = ""
    paged_context_fmha: bool = True

    @property
    def capability(self) -> str:
        """`sm` as the table writes it."""
        return self.sm.replace(".", "")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something can't run: `reason` in kebab-case, what it is, what would do instead, and where that is from."""

    reason: str
    message: str
    instead: str
    source: str


def refusals(target: Target, format: str, kv_cache: str, export: str) -> Iterator[Refusal]:  # noqa: A002
    """What speaks against running a checkpoint of `format` with a cache of `kv_cache`, exported so, on `target`."""
    table = _table()
    backend = table["backends"].get(target.backend)
    if backend is None:
        return
    source = table["sources"][backend["source"]]
    if export != backend["export"]:
        message = f"{target.backend} reads the export {backend['export']!r}, not {export!r}"
        yield Refusal("export-for-backend", message, f"use export={backend['export']!r}", source)
    yield from _formats(backend, target, format, source)
    sm = target.capability
    if kv_cache != "none" and sm and sm not in backend["kv_cache"].get(kv_cache, [sm]):
        able = ", ".join(backend["kv_cache"][kv_cache])
        message = f"{target.backend} has no {kv_cache} cache on sm {sm}"
        yield Refusal("cache-for-gpu", message, f"it has one on sm {able}", source)
    for pair in table["refused"]:
        if _matches(pair, target, format, kv_cache):
            message = f"{target.backend}: {format} weights with a cache of {kv_cache}: {pair['why']}"
            yield Refusal("format-and-cache", message, pair["instead"], table["sources"][pair["source"]])


def unlisted(backend: str, architecture: str, format: str) -> Refusal | None:  # noqa: A002
    """What its maker's table of models and formats leaves out, which is not to say that it cannot run; None if it is
    listed, or if the table says nothing of the model or the format.
    """
    for row in _table()["listed"]:
        if row["backend"] == backend and architecture in row["architectures"] and format in row["judged"]:
            if format in row["formats"]:
                return None
            message = f"NVIDIA does not list {format} for {architecture} with {backend}"
            return Refusal(
                "format-not-listed",
                message,
                f"listed are {', '.join(row['formats'])}",
                _table()["sources"][row["source"]],
            )
    return None


def _formats(backend: Mapping[str, Any], target: Target, name: str, source: str) -> Iterator[Refusal]:
    able, sm = backend["formats"].get(name), target.capability
    if able is None:
        runs = ", ".join(backend["formats"])
        yield Refusal("format-for-backend", f"{target.backend} does not run {name}", f"it runs {runs}", source)
    elif sm and sm not in able:
        others = [other for other, sms in backend["formats"].items() if sm in sms]
        message = f"{target.backend} does not run {name} on sm {sm}, but on {', '.join(able)}"
        instead = f"on sm {sm} it runs {', '.join(others)}" if others else "nothing is known to run there"
        yield Refusal("format-for-gpu", message, instead, source)


def _matches(pair: Mapping[str, Any], target: Target, name: str, kv_cache: str) -> bool:
    return (
        pair["backend"] == target.backend
        and name in pair["formats"]
        and pair["kv_cache"] == kv_cache
        and pair["paged_context_fmha"] == target.paged_context_fmha
    )


@functools.cache
def _table() -> dict[str, Any]:
    with open(os.path.join(_HERE, "quantisation.toml"), "rb") as stream:
        return tomllib.load(stream)
