"""Stage `tensorrt-llm.whisper`: an encoder, a decoder and the vocabulary, as TensorRT-LLM's own runner and Triton read
them: ``encoder/``, ``decoder/``, each with one rank, and a ``.tiktoken`` file.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import Refused, StageFile, read_json, run, say
from whisper_halves import HALVES
from whisper_words import FILES, Unknown, Words


def build(stage: StageFile) -> None:
    parts = {half: stage.input(half) for half in HALVES}
    described = {half: half_config(folder, half) for half, folder in parts.items()}
    releases = {half: config.get("version") for half, config in described.items()}
    if len(set(releases.values())) > 1:
        raise Refused(f"the encoder is of TensorRT-LLM {releases['encoder']}, the decoder of {releases['decoder']}")
    size = described["decoder"]["pretrained_config"].get("vocab_size", 0)
    try:
        Words(stage.input("vocabulary"), size)
    except Unknown as error:
        raise Refused(f"the vocabulary does not fit the decoder: {error}") from None
    for half, folder in parts.items():
        (stage.out / half).mkdir(parents=True)
        for name in ("config.json", "rank0.engine"):
            shutil.copyfile(folder / name, stage.out / half / name)
    for name in FILES:
        if (stage.input("vocabulary") / name).is_file():
            shutil.copyfile(stage.input("vocabulary") / name, stage.out / name)
    say(f"Whisper for {described['encoder']['pretrained_config'].get('n_mels')} mel bands and {size} tokens")


def half_config(folder: Path, half: str) -> dict[str, Any]:
    """``config.json`` of an engine that is this half of a Whisper. Raises `Refused` if it is not."""
    config: dict[str, Any] = read_json(folder / "config.json")
    found = (config.get("pretrained_config") or {}).get("architecture")
    if found != HALVES[half]:
        raise Refused(f"the {half}'s config.json names the architecture {found!r}, not {HALVES[half]}")
    if not (folder / "rank0.engine").is_file() or (folder / "rank1.engine").is_file():
        raise Refused(f"the {half} is no engine of one rank")
    return config


if __name__ == "__main__":
    run(build)
