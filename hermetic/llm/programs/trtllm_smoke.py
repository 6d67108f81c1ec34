"""Stage `tensorrt-llm.smoke`: does the engine work, and does it say what it should?

* prefill: a prompt as long as asked for gives a token; each prompt alone gives the first token of its answer;
* generation: each prompt is answered twice with the same tokens, which are in the vocabulary, are not nothing and do
  not go round in circles;
* guided decoding: the answer is JSON that has the schema's properties in their types, twice the same;
* golden answers: of the tokens of each, no larger share than the tolerance is missing, wrong or too much;
* drafts: where the engine can also be asked without them, each answer is the same then, within that tolerance.

The first check that fails fails the stage. ``report.json`` has what was found, and nothing of when.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from repetition import repetition
from stage_file import Refused, StageFile, run, say, write_json
from trtllm_session import Answer, DraftedSession, Session, leaving, open_session, own_stdout, under_mpirun
from trtllm_speculation import rate

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "object": (dict,), "array": (list,)
}  # fmt: skip


def build(stage: StageFile) -> None:
    engine, parameters = stage.input("engine"), stage.parameters
    under_mpirun(engine)
    own_stdout()
    session = _session(stage, engine)
    if not session.leads:
        session.close()
        return
    report = _tested(session, parameters)
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "report.json", report)
    session.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # an executor's threads may wait for one another for ever


def _session(stage: StageFile, engine: Path) -> Session:
    parameters = stage.parameters
    if "draft" in stage.inputs:
        return DraftedSession(engine, stage.input("draft"), parameters["draft_tokens"])
    return open_session(engine, guided=bool(parameters["json_schema"]), told=parameters.get("speculation"))


def _tested(session: Session, parameters: dict[str, Any]) -> dict[str, Any]:
    golden: dict[str, str] = parameters["golden"]
    prompts = list(dict.fromkeys([*parameters["prompts"], *golden]))
    if not prompts:
        raise Refused("there are no prompts to test the engine with")
    report: dict[str, Any] = {"tensorrt_llm": session.version, "prefill": _prefill(session, parameters["prefill"])}
    answers = [_answer(session, prompt, golden.get(prompt), parameters) for prompt in prompts]
    report["answers"] = answers
    if any("drafts" in answer for answer in answers):
        report["drafts"] = rate([answer.get("drafts", {}) for answer in answers])
    if parameters["json_schema"]:
        report["guided"] = _guided(session, parameters)
    return report


def _prefill(session: Session, wanted: int) -> dict[str, int]:
    """One long prompt, and a token after it."""
    longest = session.limits[0]
    length = min(wanted, longest - 1) if longest else wanted
    text = session.encoded("The quick brown fox jumps over the lazy dog. ")
    if not text or length < 1:
        raise Refused("the tokenizer makes no tokens of a plain sentence")
    asked = (text * (length // len(text) + 1))[:length]
    answer = session.answer(asked, 1)
    _check_tokens(session, "the long prompt", answer)
    say(f"prefill of {length} tokens")
    return {"tokens": length}


def _answer(session: Session, prompt: str, golden: str | None, parameters: dict[str, Any]) -> dict[str, Any]:
    limit: int = parameters["max_new_tokens"]
    asked = session.asked(prompt)
    first, second = (session.answer(asked, limit) for _ in range(2))
    text = session.text(first.tokens)
    say(f"{prompt!r}: {text!r} ({len(first.tokens)} tokens)")
    if first != second:
        raise Refused(f"{prompt!r} is answered differently the second time")
    _check_tokens(session, repr(prompt), first)
    if not text.strip():
        raise Refused(f"{prompt!r} has an empty answer")
    if not first.ended and len(first.tokens) < limit:
        raise Refused(f"{prompt!r}: the answer stops after {len(first.tokens)} tokens without an end token")
    loop = repetition(first.tokens)
    if loop and not parameters["allow_repetition"]:
        raise Refused(f"{prompt!r}: the answer goes round in circles of {loop} tokens: {text[-80:]!r}")
    alone = session.answer(asked, 1)
    if alone.tokens != first.tokens[:1]:
        raise Refused(f"{prompt!r}: its first token alone is another one than the first of its answer")
    found = {"prompt": prompt, "text": text, "tokens": len(first.tokens), "repetition": loop}
    found["end"] = "end token" if first.ended else "limit"
    allowed: str = parameters["golden_tolerance"]
    if golden is not None:
        found["golden"] = _alike(session, prompt, first, session.encoded(golden), allowed, "")
    if first.drafts:
        found["drafts"] = first.drafts
    plain = session.alone(asked, limit)
    if plain is not None:
        found["without_drafts"] = _alike(session, prompt, first, plain.tokens, allowed, " that it has without drafts")
    return found


def _alike(
    session: Session, prompt: str, answer: Answer, wanted: list[int], allowed: str, whose: str
) -> dict[str, str]:
    share = distance(answer.tokens, wanted) / max(len(wanted), 1)
    if share > float(allowed):
        text, golden = session.text(answer.tokens), session.text(wanted)
        raise Refused(
            f"{prompt!r} is answered with {text!r} instead of {golden!r}{whose}: {share:.2f} of it, allowed {allowed}"
        )
    return {"distance": f"{share:.2f}", "allowed": allowed}


def distance(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items must be put in, taken out or replaced to make `other` of `one`."""
    row = list(range(len(other) + 1))
    for place, token in enumerate(one, 1):
        above, row[0] = row[0], place
        for column, wanted in enumerate(other, 1):
            above, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, above + (token != wanted)),
            )
    return row[-1]


def _guided(session: Session, parameters: dict[str, Any]) -> dict[str, Any]:
    schema, limit = parameters["json_schema"], parameters["max_json_tokens"]
    asked = session.asked(parameters["json_prompt"])
    first, second = (session.answer(asked, limit, schema) for _ in range(2))
    text = session.text(first.tokens)
    say(f"guided: {text!r}")
    if first != second:
        raise Refused("under guided decoding the same prompt is answered differently the second time")
    try:
        found = json.loads(text)
    except ValueError as error:
        why = "" if first.ended else f"; it was cut off at {limit} tokens: max_json_tokens=..."
        raise Refused(f"under guided decoding the answer is not JSON: {error}{why}") from None
    _check_json(found, json.loads(schema))
    return {"schema": json.loads(schema), "answer": found}


def _check_json(found: Any, schema: dict[str, Any]) -> None:
    """The outermost level: that the grammar was in force at all is what can be shown."""
    kind = _TYPES.get(schema.get("type", ""), (object,))
    if not isinstance(found, kind):
        raise Refused(f"under guided decoding the answer is {found!r}, not of type {schema['type']}")
    if not isinstance(found, dict):
        return
    missing = [name for name in schema.get("required", ()) if name not in found]
    if missing:
        raise Refused(f"under guided decoding the answer lacks {', '.join(missing)}")
    for name, inner in schema.get("properties", {}).items():
        if name in found and not isinstance(found[name], _TYPES.get(inner.get("type", ""), (object,))):
            raise Refused(f"under guided decoding {name} is {found[name]!r}, not of type {inner['type']}")


def _check_tokens(session: Session, what: str, answer: Answer) -> None:
    if not answer.tokens and not answer.ended:
        raise Refused(f"{what} has no answer")
    if session.vocabulary and any(not 0 <= token < session.vocabulary for token in answer.tokens):
        raise Refused(f"{what} is answered with tokens outside the vocabulary of {session.vocabulary}")


if __name__ == "__main__":
    run(leaving(build))
