"""What ``hermetic run`` starts for a Whisper engine: the transcript of a recording, on stdout.

What TensorRT-LLM itself prints goes to stderr. Input: ``sound``. Parameters: ``language``, ``task``.
"""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import Refused, StageFile, run
from trtllm_session import leaving, own_stdout
from trtllm_whisper_session import WhisperSession, recording


def answer(stage: StageFile) -> None:
    answers = own_stdout()
    session = WhisperSession(stage.input("engine"), stage.parameters["language"], stage.parameters["task"])
    heard = session.transcribed(session.heard(recording(stage.input("sound"))))
    answers.write(heard.text)
    answers.flush()
    if not heard.whole:
        raise Refused(f"the transcript is not whole: a piece was cut off at the engine's {session.limits[1]} tokens")
    sys.stderr.flush()
    os._exit(0)  # an executor's threads may wait for one another for ever


if __name__ == "__main__":
    run(leaving(answer))
