"""What an engine, a checkpoint or one of its files says of itself, read without a GPU and without its toolchain.

What a format does not say is "unknown". The header of a TensorRT plan is not documented by NVIDIA: that it begins with
``ftrt``, and that bytes 24 to 26 are TensorRT's version, is what others found (NVIDIA/TensorRT issue 3073, and
autoware_universe's ``tensorrt_common.hpp``, which reads them so); nothing in it is known to name the GPU.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.llm.programs.build_options import plan_version

__all__ = ["Inspection", "inspect"]

UNKNOWN: Final = "unknown"

_MAGIC: Final = b"ftrt"
_LARGEST_JSON: Final = 64 << 20
_LARGEST_HEADER: Final = 100 << 20  # the safetensors format's own limit
_HALVES: Final = ("encoder", "decoder")
_RANK: Final = re.compile(r"rank(\d+)\.(engine|safetensors)")
_LIMITS: Final = (
    "max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "opt_num_tokens", "max_beam_width",
    "max_draft_len", "max_encoder_input_len", "max_prompt_embedding_table_size",
)  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """`kind` in a word or two, `facts` as JSON values, `problems` as sentences; `files` are sizes in bytes by name."""

    kind: str
    facts: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def inspect(path: Path) -> Inspection:
    """Look at a folder or a file.

    Raises `HermeticError`: usage/not-an-engine where nothing is recognised, usage/no-such-path,
    recipe/unreadable-config for a config.json that is no JSON object.
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise HermeticError(Domain.USAGE, "no-such-path", f"there is no {path}")
    if path.suffix == ".safetensors":
        return Inspection("safetensors", _tensors(path), files={path.name: path.stat().st_size})
    if path.suffix in (".engine", ".plan") or _starts_with_magic(path):
        facts, problems = _plan(path)
        return Inspection("tensorrt plan", facts, tuple(problems), {path.name: path.stat().st_size})
    raise _unrecognised(path)


def _folder(folder: Path) -> Inspection:
    files = dict(sorted(_files(folder)))
    config = _json(folder / "config.json") if "config.json" in files else {}
    for kind, is_one, reader in _KINDS:
        if is_one(config, files):
            facts, problems = reader(folder, config, files)
            return Inspection(kind, facts, tuple(problems), files)
    raise _unrecognised(folder)


def _unrecognised(path: Path) -> HermeticError:
    message = f"{path} is no engine or checkpoint of a kind that hermetic knows"
    hint = "known are TensorRT-LLM engines and checkpoints, TensorRT plans, OpenVINO folders, Hugging Face checkpoints"
    return HermeticError(Domain.USAGE, "not-an-engine", message, hint=hint)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            if file.exists():  # not a link that leads nowhere
                yield file.relative_to(folder).as_posix(), file.stat().st_size


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError("it is too large")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise TypeError("it is no object")
    except (ValueError, TypeError, RecursionError) as error:
        raise HermeticError(Domain.RECIPE, "unreadable-config", f"{path} cannot be read as JSON: {error}") from error
    return value


_Found = tuple[dict[str, Any], list[str]]


def _engine(folder: Path, config: dict[str, Any], files: Mapping[str, int]) -> _Found:
    """``config.json`` holds what the engine was really built with; GPU and TensorRT version are not in it."""
    model, build = _part(config, "pretrained_config"), _part(config, "build_config")
    ranks, problems = _ranks(model, files, "engine")
    tensorrt = set()
    for rank in ranks["present"]:
        facts, wrong = _plan(folder / f"rank{rank}.engine")
        tensorrt.add(facts["tensorrt"])
        problems += [f"rank{rank}.engine: {text}" for text in wrong]
    problems += (
        [] if len(tensorrt) < 2 else [f"the ranks were built by different TensorRT versions: {sorted(tensorrt)}"]
    )
    plugins = _part(build, "plugin_config")
    facts = _model(model) | {
        "tensorrt_llm": config.get("version", UNKNOWN),
        "tensorrt": tensorrt.pop() if len(tensorrt) == 1 else UNKNOWN,
        "gpu": UNKNOWN,
        "ranks": ranks,
        "limits": {name: build[name] for name in _LIMITS if build.get(name) not in (None, 0)},
        "kv_cache": {
            "type": build.get("kv_cache_type", UNKNOWN),
            "tokens_per_block": plugins.get("tokens_per_block", UNKNOWN),
            "paged_context_fmha": plugins.get("use_paged_context_fmha", UNKNOWN),
        },
        "speculative_decoding": build.get("speculative_decoding_mode") or None,
        "tokenizer": any(name.startswith("tokenizer") for name in files),
    }
    return facts, problems


def _checkpoint(folder: Path, config: dict[str, Any], files: Mapping[str, int]) -> _Found:  # noqa: ARG001  # as others
    ranks, problems = _ranks(config, files, "safetensors")
    return _model(config) | {"ranks": ranks}, problems


def _model(config: Mapping[str, Any]) -> dict[str, Any]:
    quantisation = _part(config, "quantization")
    return {
        "architecture": config.get("architecture", UNKNOWN),
        "dtype": config.get("dtype", UNKNOWN),
        "quantisation": quantisation.get("quant_algo") or "none",
        "kv_cache_quantisation": quantisation.get("kv_cache_quant_algo") or "none",
    }


def _ranks(model: Mapping[str, Any], files: Mapping[str, int], ending: str) -> _Found:
    mapping = _part(model, "mapping")
    world = mapping.get("world_size", 1)
    found = {int(match[1]) for name in files if (match := _RANK.fullmatch(name)) is not None and match[2] == ending}
    problems = [] if isinstance(world, int) and world > 0 else [f"world_size is {world!r}"]
    missing = sorted(set(range(world)) - found) if not problems else []
    problems += [f"rank{rank}.{ending} is missing" for rank in missing]
    problems += [f"rank{rank}.{ending} belongs to no rank" for rank in sorted(found) if not problems and rank >= world]
    sizes = {"world": world, "tp": mapping.get("tp_size", 1), "pp": mapping.get("pp_size", 1)}
    return {**sizes, "present": sorted(found)}, problems


def _openvino(folder: Path, config: dict[str, Any], files: Mapping[str, int]) -> _Found:
    made = _json(folder / "engine.json") if "engine.json" in files else {}
    quantised = _part(_json(folder / "quantisation.json"), "asked") if "quantisation.json" in files else {}
    problems = [] if "openvino_model.bin" in files else ["openvino_model.bin is missing"]
    facts = {
        "architecture": _first(config.get("architectures")),
        "quantisation": quantised.get("mode", UNKNOWN),
        "tools": made.get("tools", UNKNOWN),
        "context": config.get("max_position_embeddings", UNKNOWN),
        "tokenizer": "openvino_tokenizer.xml" in files,
    }
    return facts, problems


def _hugging_face(folder: Path, config: dict[str, Any], files: Mapping[str, int]) -> _Found:
    exported = _json(folder / "hf_quant_config.json") if "hf_quant_config.json" in files else {}
    given = _part(config, "quantization_config") or _part(exported, "quantization")
    shards = [name for name in files if name.endswith(".safetensors")]
    problems, dtypes = [], set()
    for name in shards:
        try:
            dtypes.update(_tensors(folder / name)["dtypes"])
        except HermeticError as error:
            problems.append(error.message)
    if "model.safetensors.index.json" in files:
        listed = set(_part(_json(folder / "model.safetensors.index.json"), "weight_map").values())
        problems += [f"{name} is in the index and missing" for name in sorted(listed - files.keys())]
    facts = {
        "architecture": _first(config.get("architectures")),
        "dtype": config.get("dtype") or config.get("torch_dtype") or UNKNOWN,
        "stored": sorted(dtypes),
        "quantisation": given.get("quant_algo") or given.get("quant_method") or "none",
        "kv_cache_quantisation": given.get("kv_cache_quant_algo") or "none",
        "context": config.get("max_position_embeddings", UNKNOWN),
        "shards": len(shards),
        "tokenizer": any(name.startswith("tokenizer") for name in files),
    }
    return facts, problems


def _whisper(folder: Path, _: dict[str, Any], files: Mapping[str, int]) -> _Found:
    """An encoder and a decoder, each as the engine that it is."""
    facts: dict[str, Any] = {}
    problems: list[str] = []
    for half in _HALVES:
        own = {name.removeprefix(f"{half}/"): size for name, size in files.items() if name.startswith(f"{half}/")}
        facts[half], wrong = _engine(folder / half, _json(folder / half / "config.json"), own)
        problems += [f"{half}: {text}" for text in wrong]
    vocabulary = [name for name in files if name.endswith(".tiktoken")]
    problems += [] if vocabulary else ["it has no vocabulary"]
    return facts | {"vocabulary": _first(vocabulary)}, problems


_KINDS: Final[tuple[tuple[str, Callable[[dict[str, Any], Mapping[str, int]], bool], Callable[..., _Found]], ...]] = (
    ("tensorrt-llm engine", lambda config, _: "build_config" in config and "pretrained_config" in config, _engine),
    ("tensorrt-llm whisper", lambda _, files: all(f"{half}/config.json" in files for half in _HALVES), _whisper),
    ("openvino engine", lambda _, files: "openvino_model.xml" in files, _openvino),
    (
        "tensorrt-llm checkpoint",
        lambda config, files: "architecture" in config and any(_RANK.fullmatch(name) for name in files),
        _checkpoint,
    ),
    (
        "hugging face checkpoint",
        lambda config, files: "architectures" in config and any(name.endswith(".safetensors") for name in files),
        _hugging_face,
    ),
)


def _plan(path: Path) -> _Found:
    with open(path, "rb") as stream:
        head = stream.read(27)
    if head[:4] != _MAGIC:
        return {"tensorrt": UNKNOWN}, [f"it begins with {head[:4].hex() or 'nothing'}, a TensorRT plan with 'ftrt'"]
    return {"tensorrt": plan_version(head) or UNKNOWN}, []


def _starts_with_magic(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(4) == _MAGIC


def _tensors(path: Path) -> dict[str, Any]:
    """Header of a safetensors file: 8 bytes of little-endian length, then JSON."""
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(_LARGEST_HEADER, path.stat().st_size - 8):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        tensors = {name: item for name, item in header.items() if name != "__metadata__"}
        dtypes = sorted({str(item["dtype"]) for item in tensors.values()})
        end = max((item["data_offsets"][1] for item in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, struct.error, RecursionError) as error:
        message = f"{path.name} has no header of safetensors: {error}"
        raise HermeticError(Domain.RECIPE, "unreadable-config", message) from error
    if 8 + length + end != path.stat().st_size:
        message = f"{path.name} has {path.stat().st_size} bytes, and its header speaks of {8 + length + end}"
        raise HermeticError(Domain.RECIPE, "unreadable-config", message)
    return {"tensors": len(tensors), "dtypes": dtypes}


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _first(values: object) -> str:
    return str(values[0]) if isinstance(values, list) and values else UNKNOWN
