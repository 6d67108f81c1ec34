"""Stage `calibration`: the samples that a quantiser will see, chosen from a data set and written out.

``samples.jsonl`` has one ``{"row": number, "text": ...}`` a line, in the order in which they will be used, and
``calibration.json`` says how they were chosen. Which rows those are depends on the seed and on the number of rows and
on nothing else: rows are ordered by SHA-256 of seed and row number, empty ones are passed over.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import Refused, StageFile, run, say, write_json

_ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".txt")
_PARQUET = b"PAR1"


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    count: int
    column: str
    max_length: int
    seed: int
    split: str


def build(stage: StageFile) -> None:
    wanted = Wanted(**stage.parameters)
    files = data_files(stage.input("dataset"), wanted.split)
    texts = [text for path in files for text in _column(path, wanted.column)]
    chosen = choose(texts, wanted)
    say(f"{len(chosen)} of {len(texts)} rows from {len(files)} files")
    stage.out.mkdir(exist_ok=True)
    with (stage.out / "samples.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
        for row, text in chosen:
            stream.write(json.dumps({"row": row, "text": text}, ensure_ascii=False, sort_keys=True) + "\n")
    write_json(stage.out / "calibration.json", {**stage.parameters, "characters": sum(len(t) for _, t in chosen)})


def choose(texts: Sequence[str], wanted: Wanted) -> list[tuple[int, str]]:
    """`count` rows with text in them, in an order that the seed decides.

    Raises `Refused` if there are fewer: nothing must be calibrated with less than its recipe says.
    """

    def place(row: int) -> bytes:
        return hashlib.sha256(f"{wanted.seed}:{row}".encode()).digest()

    filled = [row for row, text in enumerate(texts) if text.strip()]
    if len(filled) < wanted.count:
        raise Refused(f"the data set has {len(filled)} rows with text, but {wanted.count} samples are asked for")
    return [(row, texts[row]) for row in sorted(filled, key=place)[: wanted.count]]


def data_files(source: Path, split: str) -> list[Path]:
    """The file that `source` is, or the files of `split` in a folder in the layout that the Hub uses.

    A file belongs to a split if a part of its path below the folder, cut at whatever is no letter or digit, is the
    split's name: ``data/train-00000-of-00002.parquet``, ``train.jsonl``, ``en/train/0.csv``. Raises `Refused` if the
    folder has none, or has them in several formats or configurations.
    """
    if source.is_file():
        if split:
            raise Refused(f"the data set is one file, which has no split {split!r}; leave split empty")
        return [source]
    every = sorted(path for path in source.rglob("*") if path.suffix in _ENDINGS and path.is_file())
    found = [path for path in every if split in re.split(r"[^A-Za-z0-9]+", str(path.relative_to(source)))]
    if not found:
        shown = ", ".join(str(path.relative_to(source)) for path in every[:4]) or "no data files"
        raise Refused(f"no file of the data set belongs to the split {split!r}; it holds {shown}")
    groups = {(path.parent, path.suffix) for path in found}
    if len(groups) > 1:
        shown = ", ".join(sorted(f"{place.relative_to(source)}/*{ending}" for place, ending in groups))
        raise Refused(f"the split {split!r} lies in several places ({shown}); give the folder of one of them")
    return found


def _column(path: Path, column: str) -> Iterator[str]:
    """The text of every row of a file, whose format is known by its content: the file may have no name here."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    if head.startswith(_PARQUET):
        return _from_parquet(path, column)
    if _is_json(head, column):
        return _from_json(path, column, head.lstrip()[:1] == b"[")
    if path.suffix == ".csv" or (column and column in _first_row(head)):
        return _from_csv(path, column)
    return _from_text(path, column)


def _is_json(head: bytes, column: str) -> bool:
    """Prompts may begin with a bracket too, so without a column a list is no JSON."""
    start = head.lstrip()[:1]
    if start == b"[":
        return bool(column)
    if start != b"{":
        return False
    try:
        return bool(column) or isinstance(json.loads(head.lstrip().splitlines()[0]), dict)
    except ValueError:
        return False


def _first_row(head: bytes) -> list[str]:
    line = head.decode("utf-8", "replace").splitlines()[0] if head.strip() else ""
    return next(csv.reader([line]), [])


def _from_parquet(path: Path, column: str) -> Iterator[str]:
    from pyarrow import ArrowInvalid  # noqa: PLC0415  # other formats need no reader
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    try:
        file = ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise Refused(f"{path.name} is no whole Parquet file: {error}") from None
    _has_column(path, column, file.schema_arrow.names)
    for batch in file.iter_batches(columns=[column]):
        for number, value in enumerate(batch.column(0).to_pylist()):
            yield _text(path, number, column, value)


def _from_json(path: Path, column: str, is_list: bool) -> Iterator[str]:
    text = _decoded(path)
    for number, row in enumerate(_rows(path, text, is_list)):
        if not isinstance(row, dict):
            raise Refused(f"{path.name}: row {number} is no JSON object")
        _has_column(path, column, list(row))
        yield _text(path, number, column, row[column])


def _rows(path: Path, text: str, is_list: bool) -> list[Any]:
    number = 0
    try:
        if is_list:
            return list(json.loads(text))
        rows = []
        for number, line in enumerate(text.split("\n"), 1):  # noqa: B007  # splitlines would cut at U+2028 too
            if line.strip():
                rows.append(json.loads(line))
        return rows
    except ValueError as error:
        raise Refused(f"{path.name}:{number}: not valid JSON: {error}") from None


def _from_csv(path: Path, column: str) -> Iterator[str]:
    reader = csv.DictReader(io.StringIO(_decoded(path), newline=""))
    _has_column(path, column, list(reader.fieldnames or ()))
    for number, row in enumerate(reader):
        yield _text(path, number, column, row[column])


def _from_text(path: Path, column: str) -> Iterator[str]:
    if column:
        raise Refused(f"the calibration set has no column {column!r}: it is plain text; leave column empty")
    yield from (part.strip("\n") for part in _decoded(path).replace("\r\n", "\n").split("\n\n") if part.strip())


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{path.name} is not UTF-8 text: {error}") from None


def _has_column(path: Path, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise Refused(f"the calibration set has no column {column!r}: {path.name} has {', '.join(columns) or 'none'}")


def _text(path: Path, number: int, column: str, value: Any) -> str:
    if not isinstance(value, str):
        kind = type(value).__name__
        raise Refused(f"the column {column!r} of the calibration set is no text: {path.name} row {number} has {kind}")
    return value


if __name__ == "__main__":
    run(build)
