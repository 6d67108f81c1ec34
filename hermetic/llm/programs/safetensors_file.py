"""safetensors files, read without trusting their headers and without loading them.

Headers need the standard library only; values need NumPy.

The format: eight bytes with the length of the header (little-endian), a JSON object that gives each tensor's dtype,
shape and byte range, then the data. https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stage_file import Refused, read_json, unique_keys

try:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
except ImportError:  # where only headers are looked at, as in an image of somebody else's
    pass

#: Bytes of one element of each dtype that a checkpoint may use.
DTYPES: dict[str, int] = {"BF16": 2, "F16": 2, "F32": 4}
#: The same of a checkpoint that may be quantised.
QUANTISED = DTYPES | {"F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "I32": 4, "I64": 8}
#: What the bits of each are read as.
_READ_AS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "I8": "<i1", "U8": "<u1", "F8_E4M3": "<u1", "F8_E5M2": "<u1"}
_HEADER_LIMIT = 100_000_000
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies. `begin` and `end` count from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def bits(self) -> Array:
        """A read-only view of the file; bfloat16 comes as uint16."""
        return np.memmap(self.file, dtype=_READ_AS[self.dtype], mode="r", offset=self.begin, shape=self.shape)

    def float32(self) -> Array:
        return as_float32(self.bits(), self.dtype)

    def rows(self, indices: list[int]) -> Array:
        """Some rows of a matrix as float32, without reading the others."""
        return as_float32(self.bits()[indices], self.dtype)


def as_float32(bits: Array, dtype: str) -> Array:
    """A copy as float32, exact for all three dtypes."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(bits, dtype=np.float32)


def read_checkpoint(folder: Path, dtypes: Mapping[str, int] = DTYPES) -> dict[str, Tensor]:
    """Every tensor of a Hugging Face checkpoint folder, sharded or not, by name; `dtypes` are those allowed.

    Raises `Refused` on a missing shard, an index that disagrees with the shards, or a header that lies.
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return read_header(single, dtypes)
    if not index.is_file():
        others = sorted(path.name for path in folder.glob("*.bin")) or sorted(p.name for p in folder.glob("*.gguf"))
        found = f"; found {', '.join(others[:3])}, which is another format" if others else ""
        raise Refused(f"no model.safetensors and no model.safetensors.index.json in the checkpoint{found}")
    return _read_shards(folder, read_json(index), dtypes)


def _read_shards(folder: Path, index: Any, dtypes: Mapping[str, int]) -> dict[str, Tensor]:
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise Refused("model.safetensors.index.json has no weight_map of tensor names to file names")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise Refused(f"the shard {shard} is named in model.safetensors.index.json and is missing")
        for name, tensor in read_header(folder / shard, dtypes).items():
            if places.get(name) != shard:
                raise Refused(f"{shard} holds {name}, but the index places it in {places.get(name, 'no file')}")
            tensors[name] = tensor
    missing = sorted(set(places) - set(tensors))
    if missing:
        raise Refused(f"the index names tensors that no shard holds: {_some(missing)}")
    return tensors


def read_header(path: Path, dtypes: Mapping[str, int] = DTYPES) -> dict[str, Tensor]:
    """The tensors of one file, after checking that the header accounts for every byte exactly once."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise Refused(f"{path.name} is cut off or is no safetensors file (header of {length} bytes in {size})")
        try:
            header = json.loads(stream.read(length), object_pairs_hook=unique_keys)
        except (UnicodeDecodeError, ValueError) as error:
            raise Refused(f"the header of {path.name} is not valid JSON: {error}") from None
    if not isinstance(header, dict):
        raise Refused(f"the header of {path.name} is not a JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, 8 + length, dtypes) for name, entry in header.items()}
    _check_ranges(path.name, tensors, 8 + length, size)
    return tensors


def _tensor(path: Path, name: str, entry: Any, start: int, dtypes: Mapping[str, int]) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise Refused(f"{path.name}: the entry of {name} has no dtype, shape and data_offsets") from None
    if dtype not in dtypes:
        *most, last = dtypes
        raise Refused(f"{path.name}: {name} is stored as {dtype}; {', '.join(most)} and {last} are supported")
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise Refused(f"{path.name}: the shape or the range of {name} holds something other than natural numbers")
    expected = math.prod(shape) * dtypes[dtype]
    if end - begin != expected:
        raise Refused(f"{path.name}: {name} has {end - begin} bytes, but {dtype} {list(shape)} needs {expected}")
    return Tensor(path, dtype, shape, start + begin, start + end)


def _check_ranges(file: str, tensors: dict[str, Tensor], start: int, size: int) -> None:
    position, previous = start, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            problem = "overlaps" if tensor.begin < position else "leaves a hole after"
            raise Refused(f"{file}: {name} {problem} {previous}")
        position, previous = tensor.end, name
    if position != size:
        raise Refused(f"{file} is {size} bytes long, but its header describes {position}")


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity: one of them makes every logit NaN."""
    mask = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}[tensor.dtype]
    bits: Array = tensor.bits().reshape(-1)
    bits = bits.view(np.uint32) if tensor.dtype == "F32" else bits.view(np.uint16)
    for begin in range(0, bits.size, _CHUNK):
        if bool(np.any((bits[begin : begin + _CHUNK] & mask) == mask)):
            raise Refused(f"{name} holds NaN or infinity")


def write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    """Copy `tensors` into one file in the order of their names, 16 MiB at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in sorted(tensors.items()):
        length = tensor.end - tensor.begin
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, position + length]}
        position += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight, as every other writer does it
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in sorted(tensors.items()):
            _copy(stream, tensor)


def _copy(stream: BinaryIO, tensor: Tensor) -> None:
    left = tensor.end - tensor.begin
    with tensor.file.open("rb") as source:
        source.seek(tensor.begin)
        while left:
            data = source.read(min(left, _CHUNK))
            if not data:
                raise Refused(f"{tensor.file.name} became shorter while it was read")
            stream.write(data)
            left -= len(data)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def same_bytes(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same bits."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    one, other = (tensor.bits().reshape(-1) for tensor in (first, second))
    return all(np.array_equal(one[at : at + _CHUNK], other[at : at + _CHUNK]) for at in range(0, one.size, _CHUNK))
