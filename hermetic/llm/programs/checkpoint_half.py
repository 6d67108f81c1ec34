"""Stage `tensorrt-llm.half`: one of the two checkpoints that a conversion wrote, as a checkpoint of its own."""

from __future__ import annotations

import os
import shutil
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import Refused, StageFile, run


def build(stage: StageFile) -> None:
    place = stage.input("checkpoint") / stage.parameters["half"]
    if not (place / "config.json").is_file():
        raise Refused(f"the checkpoint has no {place.name}; is it one of an encoder and a decoder?")
    stage.out.mkdir(exist_ok=True)
    for path in sorted(place.iterdir()):
        shutil.copyfile(path, stage.out / path.name)


if __name__ == "__main__":
    run(build)
