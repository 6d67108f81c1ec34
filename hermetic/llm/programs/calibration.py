"""Calibration text to token ids."""

from __future__ import annotations

import json
from pathlib import Path

from stage_file import Refused
from tokenizers import Tokenizer


def read_samples(source: Path, tokenizer: Path, count: int, length: int) -> list[list[int]]:
    """The first `count` samples of the text, each cut to `length` tokens.

    A ``.jsonl`` file holds one ``{"text": ...}`` a line; in any other file blank lines separate the samples. Special
    tokens that are written out are recognised, so a sample may be a chat as the model sees it. Raises `Refused` if
    there are fewer than `count`: an engine must not be calibrated with less than its recipe says.
    """
    path = _file(source)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"the calibration file {path.name} is not UTF-8 text: {error}") from None
    samples = _lines(path.name, text) if path.suffix == ".jsonl" else _paragraphs(text)
    if len(samples) < count:
        raise Refused(f"{path.name} has {len(samples)} calibration samples, but {count} are asked for")
    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_padding()
    encoder.no_truncation()
    encoded = [encoder.encode(sample).ids[:length] for sample in samples[:count]]
    if any(not ids for ids in encoded):
        raise Refused(f"{path.name}: a calibration sample is empty")
    return encoded


def _file(source: Path) -> Path:
    """The file itself, whether the input is the file or a folder with only it, however deep: a dataset's, say."""
    if source.is_file():
        return source
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if len(files) != 1:
        raise Refused(f"the calibration set is a folder of {len(files)} files; give one file")
    return files[0]


def _paragraphs(text: str) -> list[str]:
    return [part.strip("\n") for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]


def _lines(name: str, text: str) -> list[str]:
    samples = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise Refused(f"{name}:{number}: not valid JSON: {error}") from None
        if entry is None:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise Refused(f'{name}:{number}: expected {{"text": "..."}}')
        samples.append(entry["text"])
    return samples
