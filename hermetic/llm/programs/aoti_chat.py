"""What ``hermetic run`` starts: the engine answers one prompt on stdout as it goes, and nothing else comes there."""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from aoti_run import Engine
from stage_file import Refused, StageFile, run


def answer(stage: StageFile) -> None:
    prompt = stage.parameters.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise Refused("there is no prompt")
    engine = Engine(stage.input("engine"))
    asked = engine.asked(prompt, stage.parameters.get("system") or "")
    limit = stage.parameters.get("max_new_tokens") or engine.generation.get("max_new_tokens") or 128
    tokens: list[int] = []
    shown = ""
    for token in engine.answer(asked, limit):
        tokens.append(token)
        text = engine.tokenizer.decode(tokens)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):  # the first half of a character
            continue
        sys.stdout.write(text[len(shown) :])
        sys.stdout.flush()
        shown = text


if __name__ == "__main__":
    run(answer)
