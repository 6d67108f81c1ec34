"""Stage `tensorrt-llm.whisper-smoke`: does the engine hear, and does it write what was said?

* the recording is transcribed twice with the same tokens, which are in the vocabulary, end with an end token, are not
  nothing and do not go round in circles;
* of the words of the golden transcript no larger share than the tolerance is missing, wrong or too much. Case and
  punctuation do not count.

The first check that fails fails the stage. ``report.json`` has what was found, and nothing of when.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from repetition import repetition
from stage_file import Refused, StageFile, run, say, write_json
from trtllm_session import leaving, own_stdout
from trtllm_smoke import distance
from trtllm_whisper_session import Heard, WhisperSession, recording


def build(stage: StageFile) -> None:
    parameters = stage.parameters
    own_stdout()
    session = WhisperSession(stage.input("engine"), parameters["language"], parameters["task"])
    features = session.heard(recording(stage.input("sound")))
    first, second = (session.transcribed(features) for _ in range(2))
    say(f"{first.text!r} ({len(first.tokens)} tokens)")
    if first != second:
        raise Refused(f"the second time the sound is {second.text!r}, and the first time it was {first.text!r}")
    loop = _check(session, first, allowed=parameters["allow_repetition"])
    report: dict[str, Any] = {
        "tensorrt_llm": session.version,
        "pieces": len(features),
        "text": first.text,
        "tokens": len(first.tokens),
        "repetition": loop,
        "golden": _golden(first.text, parameters["transcript"], parameters["tolerance"]),
    }
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "report.json", report)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # an executor's threads may wait for one another for ever


def _check(session: WhisperSession, heard: Heard, *, allowed: bool) -> int:
    """The length of a loop, 0 without one."""
    if any(not 0 <= token < session.vocabulary for token in heard.tokens):
        raise Refused(f"the sound is answered with tokens outside the vocabulary of {session.vocabulary}")
    if not heard.text:
        raise Refused("the transcript is empty")
    loop = repetition(heard.tokens)
    if loop and not allowed:
        raise Refused(f"the transcript goes round in circles of {loop} tokens: {heard.text[-80:]!r}")
    if not heard.whole:
        raise Refused(f"the transcript was cut off at the engine's {session.limits[1]} tokens: {heard.text[-80:]!r}")
    return loop


def _golden(text: str, transcript: str, allowed: str) -> dict[str, str]:
    wanted = words(transcript)
    if not wanted:
        raise Refused("the golden transcript has no words")
    share = distance(words(text), wanted) / len(wanted)
    if share > float(allowed):
        raise Refused(f"heard was {text!r} instead of {transcript!r}: word error rate {share:.2f}, allowed {allowed}")
    return {"word_error_rate": f"{share:.2f}", "allowed": allowed}


def words(text: str) -> list[str]:
    """In lower case and without punctuation; an apostrophe belongs to its word."""
    plain = text.casefold().replace("\u2019", "'")
    kept = (one if one == "'" or unicodedata.category(one)[0] not in "PS" else " " for one in plain)
    return "".join(kept).split()


if __name__ == "__main__":
    run(leaving(build))
