"""The calibration samples that a stage `calibration` chose, as token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stage_file import Refused, read_json


def read_samples(folder: Path, tokenizer: Path) -> tuple[list[list[int]], dict[str, Any]]:
    """Every sample, cut to the length in tokens that its stage was given, and how the samples were chosen.

    Raises `Refused` where `folder` is not the output of a stage `calibration`, or a sample is empty.
    """
    if not (folder / "calibration.json").is_file():
        raise Refused("calibration is not the output of calibration(...): it has no calibration.json")
    chosen = read_json(folder / "calibration.json")
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    texts = [json.loads(line)["text"] for line in lines if line]
    if len(texts) != chosen["count"]:
        raise Refused(f"the calibration set has {len(texts)} samples, but its own record says {chosen['count']}")
    from tokenizers import Tokenizer  # noqa: PLC0415  # the record is checked without it

    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_padding()
    encoder.no_truncation()
    encoded = [encoder.encode(text).ids[: chosen["max_length"]] for text in texts]
    if not all(encoded):
        raise Refused(f"calibration sample {encoded.index([])} has no tokens")
    return encoded, chosen
