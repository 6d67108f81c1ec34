"""Stage `engine`: the compiled model, tokenizer and settings in one folder, which is loaded once before it counts."""

from __future__ import annotations

import os
import shutil
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from aoti_compile import compile_package, news, take_cache
from aoti_run import Engine
from aoti_settings import NAME
from stage_file import StageFile, read_json, run, say, write_json

_FROM_MODEL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def build(stage: StageFile) -> None:
    stage.out.mkdir(exist_ok=True)
    take_cache(stage)
    found = compile_package(stage, stage.out / NAME)
    if "tuned" in stage.inputs:
        say(f"not in the cache: {news(stage)}")
    for name in _FROM_MODEL:
        shutil.copyfile(stage.input("model") / name, stage.out / name)
    names = ("longest", "tuning")
    write_json(stage.out / "engine.json", found | {name: stage.parameters[name] for name in names})
    _load(stage)


def _load(stage: StageFile) -> None:
    engine = Engine(stage.out)
    vocabulary = read_json(stage.out / "config.json")["vocab_size"]
    shape = tuple(engine.logits([0, 1, 2]).shape)
    assert shape == (3, vocabulary), shape
    say("the engine loads and computes")


if __name__ == "__main__":
    run(build)
