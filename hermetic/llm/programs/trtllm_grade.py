"""Comparator of TensorRT-LLM engines: the same layers and tactics (structural), or the same answers (numeric)?

Both must have the same build and model configuration, ranks, and TensorRT version in the plans' headers; then, with
``profiling_verbosity`` ``detailed``, TensorRT's own inspector names every layer with its tactic. Where it can't, each
engine answers the same tokens with 32 of its own, and all must be equal: the tolerance is none.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import StageFile, read_json, run, say, write_json
from trtllm_session import ExecutorSession, leaving, own_stdout, under_mpirun

_ANSWER = 32
_LENGTHS = (8, 32, 96)
#: Fields of a build configuration that are places.
_PLACES = frozenset({"input_timing_cache", "output_timing_cache"})
_HEADER = (slice(0, 4), slice(24, 27))  # the magic word; major, minor and patch of TensorRT


def build(stage: StageFile) -> None:
    first, second = stage.input("first"), stage.input("second")
    unlike = list(_unlike(first, second))
    if unlike:
        _say(stage, "different", {"unlike": unlike})
        return
    sizes = [[_size(folder, rank) for rank in _ranks(folder)] for folder in (first, second)]
    evidence: dict[str, Any] = {"sizes": sizes}
    layers = _same_layers(first, second)
    if layers is not None:
        evidence["layers"] = "equal, tactics included" if layers else "different"
    if layers:
        _say(stage, "structural", evidence)
        return
    under_mpirun(first)
    own_stdout()
    told = stage.parameters.get("speculation")
    one, other = _answers(first, told), _answers(second, told)
    if one is None or other is None:  # this process is no leader
        return
    same = sum(a == b for a, b in zip(one, other, strict=True))
    evidence |= {"answers": len(one), "equal": same, "tokens": _ANSWER}
    _say(stage, "numeric" if same == len(one) else "different", evidence)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # an executor's threads may wait for one another for ever


def _say(stage: StageFile, grade: str, evidence: dict[str, Any]) -> None:
    say(f"{grade}: {evidence}")
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "grade.json", {"grade": grade, "evidence": evidence})


def _unlike(first: Path, second: Path) -> Iterator[str]:
    """What makes further questions pointless."""
    one, other = (_config(folder) for folder in (first, second))
    for part in sorted({*one, *other}):
        inner, outer = one.get(part), other.get(part)
        if isinstance(inner, dict) and isinstance(outer, dict):
            yield from (f"{part}.{name}" for name in sorted({*inner, *outer}) if inner.get(name) != outer.get(name))
        elif inner != outer:
            yield part
    if _ranks(first) != _ranks(second):
        yield "ranks"
        return
    for rank in _ranks(first):
        if _header(first / rank) != _header(second / rank):
            yield f"{rank}: its header"


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(folder / "config.json")
    made = config.get("build_config")
    if isinstance(made, dict):
        config["build_config"] = {name: value for name, value in made.items() if name not in _PLACES}
    return config


def _ranks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("rank*.engine"))


def _size(folder: Path, rank: str) -> int:
    return (folder / rank).stat().st_size


def _header(path: Path) -> tuple[bytes, ...]:
    with path.open("rb") as stream:
        head = stream.read(32)
    return tuple(head[part] for part in _HEADER)


def _same_layers(first: Path, second: Path) -> bool | None:
    """None where the plans do not say."""
    made = _config(first).get("build_config") or {}
    if str(made.get("profiling_verbosity", "")).lower() != "detailed":
        return None
    try:
        import tensorrt  # noqa: PLC0415  # the image's own
        import tensorrt_llm  # noqa: F401, PLC0415  # registers its plugins
    except ImportError:
        return None
    found = [_layers(tensorrt, first / rank) == _layers(tensorrt, second / rank) for rank in _ranks(first)]
    return all(found)


def _layers(tensorrt: Any, path: Path) -> Any:
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        return path.name, os.urandom(8)  # equal to nothing
    return json.loads(engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON))


def _answers(folder: Path, told: dict[str, Any] | None) -> list[list[int]] | None:
    session = ExecutorSession(folder, words=False, told=told)
    found = None
    if session.leads:
        vocabulary = session.vocabulary or 1000
        most = session.limits[1] - _ANSWER if session.limits[1] else _LENGTHS[-1]
        lengths = [length for length in _LENGTHS if length <= most] or [1]
        prompts = [[number * 37 % vocabulary for number in range(1, length + 1)] for length in lengths]
        found = [session.answer(prompt, _ANSWER).tokens for prompt in prompts]
    session.close(free=True)
    return found


if __name__ == "__main__":
    run(leaving(build))
