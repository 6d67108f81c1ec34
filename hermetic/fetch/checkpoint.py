"""Is it a checkpoint at all? What the small files tell about the large ones, before and right after these are brought.

Only what would make every later stage fail is refused: a shard that the index names and nobody has, a header that
does not account for the bytes of its file, a tokenizer with tokens that the model has no row for. Folders without
these files are left alone. The stages look much closer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from hermetic.errors import Domain, HermeticError

__all__ = [
    "CONFIG",
    "INDEXES",
    "check_file",
    "check_folder",
    "check_header",
    "check_index",
    "dimensions",
    "header_length",
]

#: The file that says what the model is.
CONFIG: Final = "config.json"
#: Files that list shards.
INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
#: What of ``config.json`` is a word and not a number, and matters to how large the model is.
_WORDS: Final = ("model_type", "topk_method")
_LONGEST: Final = 100_000_000  # bytes of a header; the library's own limit

Read = Callable[[str, int], bytes]


def check_index(described: str, content: bytes, names: Collection[str], index: str) -> None:
    """Every shard that `index` (with `content`) names is among the files `names`, all of one folder.

    If none is, the weights were left out on purpose: a repository may hold them in two formats.

    Raises `HermeticError` (hash/checkpoint-shard-missing, hash/checkpoint-index).
    """
    document = _json(content)
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise _refused("checkpoint-index", f"{index} of {described} has no weight_map of tensors to files")
    folder = index.rpartition("/")[0]
    shards = set(places.values())
    missing = sorted(shard for shard in shards if (f"{folder}/{shard}" if folder else shard) not in names)
    if 0 < len(missing) < len(shards):
        message = f"{index} of {described} names {len(missing)} shards that are not there: {', '.join(missing[:3])}"
        raise _refused("checkpoint-shard-missing", message)


def header_length(described: str, name: str, start: bytes, size: int) -> int:
    """How long the header of the safetensors file `name` is, by its first eight bytes; `size` is the file's.

    Raises `HermeticError` (hash/checkpoint-header).
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(size - 8, _LONGEST):
        message = f"{name} of {described} is no whole safetensors file: a header of {length} bytes in a file of {size}"
        raise _refused("checkpoint-header", message)
    return length


def check_header(described: str, name: str, header: bytes, size: int) -> None:
    """The header accounts for the bytes of the file, `size` of them, each once.

    Raises `HermeticError` (hash/checkpoint-header).
    """
    document = _json(header)
    if not isinstance(document, dict):
        raise _refused("checkpoint-header", f"the header of {name} of {described} is no JSON object")
    ranges = sorted(_range(described, name, entry) for key, entry in document.items() if key != "__metadata__")
    at = 0
    for begin, end in ranges:
        if begin != at or end < begin:
            message = f"the header of {name} of {described} lies: bytes {at} to {begin} belong to no tensor, or to two"
            raise _refused("checkpoint-header", message)
        at = end
    if at != size - 8 - len(header):
        message = (
            f"the header of {name} of {described} speaks of {at:,} bytes, and there are {size - 8 - len(header):,}"
        )
        raise _refused("checkpoint-header", message)


def check_file(described: str, name: str, path: str) -> None:
    """The file `name`, which is whole and lies at `path`."""
    if not name.endswith(".safetensors"):
        return
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        length = header_length(described, name, stream.read(8), size)
        check_header(described, name, stream.read(length), size)


def check_folder(described: str, read: Read, names: Mapping[str, int]) -> None:
    """The files `names` (with their sizes), of which `read` gives the first bytes of those that are small.

    Raises `HermeticError`: as above, and hash/checkpoint-tokenizer.
    """
    for index in (name for name in names if name.rpartition("/")[2] in INDEXES):
        check_index(described, read(index, names[index]), names, index)
    if CONFIG in names and "tokenizer.json" in names:
        config = read(CONFIG, names[CONFIG])
        _check_tokenizer(described, config, read("tokenizer.json", names["tokenizer.json"]))


def dimensions(config: bytes) -> dict[str, Any]:
    """The fields of a ``config.json`` that say how large the model is: its architecture, every whole number and switch,
    and how it is quantised, if it is. {} if this is no model's.
    """
    found = _json(config)
    names = found.get("architectures") if isinstance(found, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return {}
    kept: dict[str, Any] = {
        name: value
        for name, value in found.items()
        if isinstance(value, int) or (name in _WORDS and isinstance(value, str))
    }
    quantised = found.get("quantization_config")
    if isinstance(quantised, dict):
        kept["quantization_config"] = {"quant_method": str(quantised.get("quant_method", ""))}
    return {"architectures": names} | kept


def _check_tokenizer(described: str, config: bytes, tokenizer: bytes) -> None:
    rows = _vocabulary(_json(config))
    tokens = _tokens(_json(tokenizer))
    if rows is None or not tokens:
        return
    last = max(tokens, key=lambda token: tokens[token])
    if tokens[last] >= rows:
        message = (
            f"the tokenizer of {described} does not fit: {last!r} is token {tokens[last]}, and the model has "
            f"{rows} (vocab_size of config.json)"
        )
        raise _refused("checkpoint-tokenizer", message)


def _vocabulary(config: Any) -> int | None:
    """Also of models whose text part has a configuration of its own."""
    if not isinstance(config, dict):
        return None
    inner = config.get("text_config")
    found = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else None)
    return found if isinstance(found, int) else None


def _tokens(tokenizer: Any) -> dict[str, int]:
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        return {}
    added = {item["content"]: item["id"] for item in tokenizer.get("added_tokens") or () if isinstance(item, dict)}
    return {token: number for token, number in (vocabulary | added).items() if isinstance(number, int)}


def _range(described: str, name: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or [type(offset) for offset in offsets] != [int, int]:
        raise _refused("checkpoint-header", f"the header of {name} of {described} has a tensor without its place")
    return offsets[0], offsets[1]


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (UnicodeDecodeError, ValueError):
        return None


def _refused(reason: str, message: str) -> HermeticError:
    hint = "whoever published it must mend it; check=False fetches it as it is"
    return HermeticError(Domain.HASH, reason, message, hint=hint)
