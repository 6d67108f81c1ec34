"""What ``hermetic run`` starts: an engine of TensorRT-LLM, of either kind, answers one prompt on stdout as it goes.

What TensorRT-LLM itself prints goes to stderr. Parameters: ``prompt``; optional ``system``, ``max_new_tokens``, and
``speculation`` of an engine that drafts tokens.
"""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import Refused, StageFile, run
from trtllm_session import leaving, open_session, own_stdout, under_mpirun


def answer(stage: StageFile) -> None:
    prompt = stage.parameters.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise Refused("there is no prompt")
    engine = stage.input("engine")
    under_mpirun(engine)
    answers = own_stdout()
    session = open_session(engine, guided=False, told=stage.parameters.get("speculation"))
    if session.leads:
        asked = session.asked(prompt, stage.parameters.get("system") or "")
        limit, longest = stage.parameters.get("max_new_tokens") or 128, session.limits[1]
        if longest and len(asked) >= longest:
            raise Refused(f"the prompt has {len(asked)} tokens, and the engine takes {longest}, answer included")
        shown = ""
        for tokens in session.stream(asked, min(limit, longest - len(asked)) if longest else limit):
            text = session.text(tokens)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # the first half of a character
                answers.write(text[len(shown) :])
                answers.flush()
                shown = text
    session.close()
    answers.flush()
    sys.stderr.flush()
    os._exit(0)  # an executor's threads may wait for one another for ever


if __name__ == "__main__":
    run(leaving(answer))
