"""What a quantised checkpoint really holds, read from its files, and whether that is what was asked for.

Toolkits fall back without a word: a tensor that they can't quantise is written in 16 bits, a rank without a
configuration of its own loads as if nothing were quantised. So nothing here is believed but dtypes, shapes, scales
and the configuration in the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from architecture import Architecture
from safetensors_file import QUANTISED, Tensor, read_checkpoint, read_header
from stage_file import Refused, read_json

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Format:
    """How a matrix of `rows` x `width` is stored: dtype and shape of the weight and of each of its scales.

    `algorithm` is the name that both exporters write, `group` the weights that share a scale (0: none do).
    """

    algorithm: str
    dtype: str
    packed_rows: int = 1
    packed_width: int = 1
    group: int = 0
    group_dtype: str = "F32"
    per_row: bool = False
    activations: bool = False
    second: bool = False

    def tensors(self, rows: int, width: int) -> dict[str, tuple[str, Shape]]:
        """By the names of a Hugging Face export, without the matrix's own."""
        found: dict[str, tuple[str, Shape]] = {
            "weight": (self.dtype, (rows // self.packed_rows, width // self.packed_width))
        }
        if self.group:
            found["weight_scale"] = (self.group_dtype, (rows, width // self.group))
        else:
            found["weight_scale"] = ("F32", (rows,) if self.per_row else ())
        if self.second:
            found["weight_scale_2"] = ("F32", ())
        if self.activations:
            found["input_scale"] = ("F32", ())
        return found


#: As ModelOpt 0.47.0 writes them, read off its files.
FORMATS = {
    "int4_awq": Format("W4A16_AWQ", "U8", packed_rows=2, group=128),
    "w4a8_awq": Format("W4A8_AWQ", "U8", packed_rows=2, group=128, activations=True, second=True),
    "fp8": Format("FP8", "F8_E4M3", activations=True),
    "nvfp4": Format("NVFP4", "U8", packed_width=2, group=16, group_dtype="F8_E4M3", activations=True, second=True),
    "int8_sq": Format("W8A8_SQ_PER_CHANNEL", "I8", per_row=True, activations=True),
}
#: Names of a TensorRT-LLM export for those of a Hugging Face one.
_SUFFIXES = {
    "weight": "weight",
    "weight_scale": "weights_scaling_factor",
    "weight_scale_2": "weights_scaling_factor_2",
    "input_scale": "activation_scaling_factor",
}
_STILL_WHOLE = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Asked:
    """What the stage was asked for; `ranks` are those of a TensorRT-LLM checkpoint, which is split over `tp` x `pp`."""

    format: str
    kv_cache: str
    export: str
    tp: int = 1
    pp: int = 1

    @property
    def ranks(self) -> int:
        return self.tp * self.pp


def read_back(folder: Path, asked: Asked, architecture: Architecture) -> dict[str, Any]:
    """What the files hold, for the record. Raises `Refused`, naming the tensor, where it is not what was asked for."""
    _check_config(_quantisation(folder, asked), asked)
    files = [read_checkpoint(folder, QUANTISED)] if asked.export == "hf" else list(_ranks(folder, asked))
    wanted = dict(_wanted(asked, architecture))
    for rank, tensors in enumerate(files):
        where = f"rank {rank}: " if len(files) > 1 else ""
        for name, (dtype, shape) in wanted.items():
            _check(where + name, tensors.get(name), dtype, shape)
        _check_rest(where, tensors, wanted)
        _check_scales(where, tensors)
    every = [tensor for tensors in files for tensor in tensors.values()]
    held = sum(tensor.end - tensor.begin for tensor in every)
    _check_size(held, architecture, asked)
    kinds = sorted({tensor.dtype for tensor in every})
    by_type = {kind: sum(t.end - t.begin for t in every if t.dtype == kind) for kind in kinds}
    return {"bytes": held, "bytes_by_type": by_type, "ranks": len(files), "tensors": len(every)}


def _quantisation(folder: Path, asked: Asked) -> Mapping[str, Any]:
    name = "hf_quant_config.json" if asked.export == "hf" else "config.json"
    config = read_json(folder / name)
    found = config.get("quantization") if isinstance(config, dict) else None
    if not isinstance(found, dict):
        raise Refused(f"{name} says nothing of quantisation")
    return found


def _check_config(found: Mapping[str, Any], asked: Asked) -> None:
    fmt = FORMATS[asked.format]
    wanted = {
        "quant_algo": fmt.algorithm,
        "kv_cache_quant_algo": "FP8" if asked.kv_cache == "fp8" else None,
        "group_size": fmt.group or None,
    }
    for key, value in wanted.items():
        if found.get(key) != value:
            raise Refused(f"{asked.format} was asked for, but the files say {key} {found.get(key)!r}, not {value!r}")
    left_out = set(found.get("exclude_modules") or ()) - {"lm_head", "model.embed_tokens"}
    if left_out:
        raise Refused(f"{asked.format} was asked for, but {', '.join(sorted(left_out))} was left out")


def _ranks(folder: Path, asked: Asked) -> Iterator[dict[str, Tensor]]:
    names = {path.name for path in folder.glob("rank*.safetensors")}
    wanted = [f"rank{rank}.safetensors" for rank in range(asked.ranks)]
    if names != set(wanted):
        raise Refused(f"{asked.ranks} ranks were asked for, but the files are {', '.join(sorted(names)) or 'none'}")
    mapping = read_json(folder / "config.json").get("mapping") or {}
    found = tuple(mapping.get(key, 1) for key in ("world_size", "tp_size", "pp_size"))
    if found != (asked.ranks, asked.tp, asked.pp):
        wanted_mapping = (asked.ranks, asked.tp, asked.pp)
        raise Refused(f"config.json maps {found} ranks (all, tp, pp), but {wanted_mapping} are asked for")
    for name in wanted:
        yield read_header(folder / name, QUANTISED)


def _wanted(asked: Asked, architecture: Architecture) -> Iterator[tuple[str, tuple[str, Shape]]]:
    if asked.export == "hf":
        for layer in range(architecture.layers):
            prefix = f"model.layers.{layer}."
            for name, (rows, width) in architecture.linears().items():
                for suffix, what in FORMATS[asked.format].tensors(rows, width).items():
                    yield f"{prefix}{name}.{suffix}", what
            if asked.kv_cache == "fp8":
                yield f"{prefix}self_attn.k_proj.k_scale", ("F32", ())
                yield f"{prefix}self_attn.v_proj.v_scale", ("F32", ())
        return
    for layer in range(architecture.layers // asked.pp):
        prefix = f"transformer.layers.{layer}."
        for name, (rows, width) in _fused(architecture, asked.tp).items():
            for suffix, what in FORMATS[asked.format].tensors(rows, width).items():
                yield f"{prefix}{name}.{_SUFFIXES[suffix]}", what
        if asked.kv_cache == "fp8":
            yield f"{prefix}attention.kv_cache_scaling_factor", ("F32", ())


def _fused(architecture: Architecture, tp: int) -> dict[str, tuple[int, int]]:
    """Rows and width of each matrix of one rank, by TensorRT-LLM's names."""
    shapes = architecture.linears()
    queries, pairs = shapes["self_attn.q_proj"][0], shapes["self_attn.k_proj"][0]
    return {
        "attention.qkv": ((queries + 2 * pairs) // tp, architecture.hidden),
        "attention.dense": (architecture.hidden, queries // tp),
        "mlp.fc": (architecture.inner // tp, architecture.hidden),
        "mlp.gate": (architecture.inner // tp, architecture.hidden),
        "mlp.proj": (architecture.hidden, architecture.inner // tp),
    }


def _check(name: str, tensor: Tensor | None, dtype: str, shape: Shape) -> None:
    if tensor is None:
        raise Refused(f"{name} is missing, so its matrix was not quantised as asked")
    scalar = shape == () and tensor.shape in ((), (1,))
    # The two exporters pack integers into signed or unsigned bytes.
    same = tensor.dtype == dtype or {tensor.dtype, dtype} == {"I8", "U8"}
    if not same or (tensor.shape != shape and not scalar):
        found, wanted = f"{tensor.dtype} {list(tensor.shape)}", f"{dtype} {list(shape)}"
        raise Refused(f"{name} was to be stored as {wanted}, but the file holds {found}")


def _check_rest(where: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> None:
    """Whatever else there is must be whole: embeddings, norms, the head, and factors of activations."""
    for name, tensor in tensors.items():
        if name not in wanted and tensor.dtype not in _STILL_WHOLE:
            raise Refused(f"{where}{name} is stored as {tensor.dtype}, but was not to be quantised")


def _check_scales(where: str, tensors: Mapping[str, Tensor]) -> None:
    import numpy as np  # noqa: PLC0415  # headers are read without it

    for name, tensor in tensors.items():
        if tensor.dtype != "F32" or not name.endswith(("scale", "scale_2", "scaling_factor", "scaling_factor_2")):
            continue
        values = tensor.bits()
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise Refused(f"{where}{name} holds a scale that is not a positive number")


def _check_size(held: int, architecture: Architecture, asked: Asked) -> None:
    """A floor: the weights alone can't take less than this, however they are split."""
    fmt = FORMATS[asked.format]
    weights = sum(rows * width for rows, width in architecture.linears().values()) * architecture.layers
    floor = weights // (fmt.packed_rows * fmt.packed_width)
    if held < floor:
        raise Refused(f"the files hold {held} bytes, but the weights alone need {floor}")
