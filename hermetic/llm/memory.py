"""Does an engine fit into the memory of the GPUs that its stage declares? Said before anything is fetched or built.

Of a checkpoint in a folder beside the recipe everything is known from its ``config.json``, of one that is fetched from
what the lock file keeps of that. A lock file that has none of it (older ones, cited ones) has the sizes of the weights:
they say whether the weights fit and what is left for the key-value cache, but not how much cache a request takes. What
neither says is not guessed, and then there are no findings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

from hermetic.errors import HermeticError
from hermetic.llm.capacity import KV_FORMATS, WEIGHT_FORMATS, Serving, estimate, read_shape
from hermetic.llm.capacity.estimate import CACHE_SHARE, CONTEXT_BYTES
from hermetic.llm.findings import Finding, Severity
from hermetic.recipe import FixedOutput, Gpu, Source, Stage

__all__ = ["Need", "config_of", "disk_findings", "findings", "need", "ranks", "towards", "weights_of"]

GIB: Final = 1 << 30
#: Roles that lead from a stage to the checkpoint that it began with.
_TOWARDS: Final = ("checkpoint", "snapshot", "base", "model", "weights")
_WEIGHTS: Final = ".safetensors"
_QUANTISED: Final = "hf_quant_config.json"  # of ModelOpt
#: Of convert_checkpoint.py, and of trtllm-bench: the weights' format.
_WEIGHT_ONLY: Final = {"int8": "int8_wo", "int4": "int4_wo", "int4_gptq": "int4_awq"}
_BENCH: Final = {
    "W8A16": "int8_wo",
    "W4A16": "int4_wo",
    "W4A16_AWQ": "int4_awq",
    "W4A16_GPTQ": "int4_awq",
    "W4A8_AWQ": "w4a8_awq",
    "FP8": "fp8",
    "INT8": "int8_sq",
    "NVFP4": "nvfp4",
}
_SOURCE: Final = "the serving guide: at least 25 % of device memory for the key-value cache"


@dataclass(frozen=True)
class Need:
    """Bytes of one device: its memory, `weights`, what is left for the cache, and what the largest batch at full length
    and one request of it need (0: not known). Of the machine that builds: `host`, the weights as stored and the engine
    beside them.
    """

    device: int
    weights: int
    left: int
    cache: int = 0
    request: int = 0
    host: int = 0

    @property
    def share(self) -> Fraction:
        return Fraction(self.left, self.device)


def findings(engine: Any) -> Iterator[Finding]:
    """Of a stage whose result is run on a GPU (`run_gpu`), an engine or a checkpoint for the LLM API: ``does-not-fit``
    (error); ``little-cache``, ``request-over-cache``, ``host-memory`` (warnings); ``batch-over-cache`` (note).

    The runtime's own memory is an allowance of 1 GiB.
    """
    found = need(engine)
    if found is not None:
        if engine.gpu is not None:  # else nothing but files is moved where it is built
            yield from _of_host(engine, found)
        yield from _of_device(found)


def _of_host(engine: Any, found: Need) -> Iterator[Finding]:
    limit = engine.memory_limit_mb
    if limit is not None and limit << 20 < found.host:
        message = f"the builder may hold {_gib(found.host)} in memory, and the stage lets it have {_gib(limit << 20)}"
        hint = f"memory_mb={-(-found.host >> 20)} or more, or leave it out"
        yield Finding("host-memory", Severity.WARNING, "memory_mb", message, hint)


def _of_device(found: Need) -> Iterator[Finding]:
    weights, device, left = (_gib(size) for size in (found.weights, found.device, found.left))
    if found.left <= 0:
        message = f"its weights take at least {weights} of the {device} of each GPU, and the runtime about 1 GiB more"
        hint = "a smaller weight format, more GPUs (tp), or another GPU"
        yield Finding("does-not-fit", Severity.ERROR, "gpu", message, hint)
        return
    if found.share < CACHE_SHARE:
        message = f"of {device} of each GPU {left} are left for the key-value cache ({float(found.share):.0%})"
        hint = "a smaller weight format, more GPUs (tp), or another GPU"
        yield Finding("little-cache", Severity.WARNING, "gpu", message, hint, _SOURCE)
    if found.request > found.left:
        message = f"one request of the full length needs {_gib(found.request)} of cache, and {left} are left"
        hint = "a smaller max_seq_len, a smaller cache format, more GPUs (tp), or another GPU"
        yield Finding("request-over-cache", Severity.WARNING, "options", message, hint)
    elif found.cache > found.left:
        message = f"the largest batch at full length needs {_gib(found.cache)} of cache, and {left} are left"
        yield Finding("batch-over-cache", Severity.NOTE, "options", message, "requests will wait for one another")


def need(engine: Any) -> Need | None:
    """None if the recipe names no GPU with its memory, or what the weights are is not known."""
    gpu: Gpu | None = engine.run_gpu
    if gpu is None or not (gpu.memory_gib or gpu.at_least_gib):
        return None
    device = (gpu.memory_gib or gpu.at_least_gib) * GIB  # of any GPU that will do, the smallest
    chain = list(towards(engine))
    origin = chain[-1]
    made = _format(chain, engine)
    cache = next((name for item in chain if (name := getattr(item, "kv_cache", ""))), _cache_of_options(engine))
    tp, pp = (_count(chain, engine, name) for name in ("tp", "pp"))
    whole = _from_config(origin, engine, Serving(made or "none", cache, tp=tp, pp=pp, device_bytes=device))
    if whole is not None:
        return whole
    stored = _stored(origin)
    if not stored:
        return None
    bits = WEIGHT_FORMATS[made].bits if made else Fraction(16)  # what is not quantised here is taken as it is stored
    weights = int(stored * bits / 16) // (tp * pp)
    return Need(device, weights, device - weights - CONTEXT_BYTES, host=stored + weights * tp * pp)


def _format(chain: list[Stage | Source], engine: Any) -> str:
    """How a stage of the recipe stores the weights, as `WEIGHT_FORMATS` names it; "" if none changes them."""
    if _is_quantised(chain[-1], config_of(chain[-1]) or {}):
        return ""  # what is quantised already, its files say what it weighs
    asked = [getattr(item, "format", "") for item in chain]
    asked += [_WEIGHT_ONLY.get(getattr(item, "options", {}).get("weight_only_precision", ""), "") for item in chain]
    asked.append(_BENCH.get(str(getattr(engine, "options", {}).get("quantization", "")), ""))
    return next((name for name in asked if name in WEIGHT_FORMATS), "")


def towards(engine: Any) -> Iterator[Stage | Source]:
    """The stages from the engine's checkpoint to where its weights came from, which is last."""
    yield from _from(engine.checkpoint)


def _from(item: Stage | Source | None) -> Iterator[Stage | Source]:
    while item is not None:
        yield item
        roles = item.inputs_by_role() if isinstance(item, Stage) else {}
        item = next((roles[role] for role in _TOWARDS if role in roles), None)


def ranks(engine: Any) -> int:
    """How many the recipe says that the engine will have."""
    chain = list(towards(engine))
    return _count(chain, engine, "tp") * _count(chain, engine, "pp")


def _count(chain: list[Stage | Source], engine: Any, name: str) -> int:
    """Ranks of a checkpoint for the LLM API are its own matter, those of an engine were decided on the way to it."""
    options, places = engine.options, [engine, *chain]
    given = next((getattr(item, name) for item in places if isinstance(getattr(item, name, None), int)), 0)
    return int(given or options.get(f"{name}_size") or 1)


def _cache_of_options(engine: Any) -> str:
    """What ``kv_cache_config`` of the LLM API says, where that is a format that is known here."""
    config = engine.options.get("kv_cache_config")
    said = str(config.get("dtype", "")) if isinstance(config, dict) else ""
    return said if said in KV_FORMATS else "none"


def weights_of(stage: Stage) -> int | None:
    """Bytes of the model's weights in what `stage`, an engine or a checkpoint on the way to one, leaves; None if not
    known.
    """
    chain = list(_from(stage))
    made, origin = _format(chain, stage), chain[-1]
    if getattr(stage, "options", {}).get("strip_plan"):
        return None
    config = config_of(origin)
    if config is not None and not _is_quantised(origin, config):
        with suppress(HermeticError):  # not a model that is known
            return estimate(read_shape(config), Serving(made or "none")).engine
    return int(_stored(origin) * (WEIGHT_FORMATS[made].bits if made else 16) / 16) or None


def disk_findings(stage: Stage) -> Iterator[Finding]:
    """``disk-limit`` (a warning): what the stage will leave is more than it may hold."""
    expected = stage.expected_bytes()
    if stage.disk_mb and expected is not None and stage.disk_mb << 20 < expected:
        message = f"it leaves about {_gib(expected)}, and may hold {_gib(stage.disk_mb << 20)}"
        hint = f"disk_mb={-(-expected >> 20)} or more, or leave it out"
        yield Finding("disk-limit", Severity.WARNING, "disk_mb", message, hint)


def _from_config(origin: Stage | Source, engine: Any, serving: Serving) -> Need | None:
    config = config_of(origin)
    if config is None or _is_quantised(origin, config):
        return None
    options = engine.options
    serving = replace(
        serving,
        max_batch_size=options.get("max_batch_size") or 1,
        max_seq_len=options.get("max_seq_len") or 0,
        max_num_tokens=options.get("max_num_tokens") or 8192,
    )
    try:
        found = estimate(read_shape(config), serving)
    except HermeticError:
        return None  # not a model that is known: the program that reads it will say so
    request = -(-found.cache_needed // serving.max_batch_size)
    return Need(serving.device_bytes, found.weights, found.cache_left, found.cache_needed, request, found.host_peak)


def config_of(origin: Stage | Source) -> dict[str, Any] | None:
    """``config.json`` of a Hugging Face checkpoint that lies beside the recipe, or what the lock file keeps of one that
    is fetched; None if there is neither.
    """
    if isinstance(origin, FixedOutput):
        return (origin.entry.config or None) if origin.entry is not None else None
    if not isinstance(origin, Source):
        return None
    try:
        with open(os.path.join(origin.path, "config.json"), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_quantised(origin: Stage | Source, config: dict[str, Any]) -> bool:
    if "quantization_config" in config:
        return True
    if isinstance(origin, FixedOutput):
        return origin.entry is not None and _QUANTISED in origin.entry.files
    return isinstance(origin, Source) and os.path.exists(os.path.join(origin.path, _QUANTISED))


def _stored(origin: Stage | Source) -> int:
    """Bytes of the weights as they are stored; 0 if nobody can say without fetching."""
    if isinstance(origin, FixedOutput):
        if origin.entry is None:
            return 0
        return sum(file.size for name, file in origin.selected(origin.entry).items() if name.endswith(_WEIGHTS))
    if not isinstance(origin, Source) or not os.path.isdir(origin.path):
        return 0
    names = [name for name in os.listdir(origin.path) if name.endswith(_WEIGHTS)]
    return sum(os.path.getsize(os.path.join(origin.path, name)) for name in names)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
