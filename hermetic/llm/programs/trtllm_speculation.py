"""Engines that draft tokens: what their executor is told, how often a draft was right, and drafts of a second engine.

Names and meanings are those of ``tensorrt_llm.runtime.ModelRunnerCpp`` and ``examples/prompt_lookup/run_dtm_pld.py``
(NVIDIA/TensorRT-LLM at 03832911 and 46ea5256), which drive the same executor. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stage_file import Refused

#: Of ``SpeculativeDecodingMode``, whose numbers config.json has (tensorrt_llm/models/modeling_utils.py).
_MUST_BE_TOLD = {4: "medusa", 8: "lookahead_decoding", 32: "eagle"}
#: A request with these sizes drafts nothing (examples/lookahead/README.md).
_ALONE = (1, 1, 0)


def executor_settings(api: Any, told: dict[str, Any], made: dict[str, Any], version: str) -> dict[str, Any]:
    """Arguments of ``ExecutorConfig`` for an engine whose build configuration is `made`.

    Raises `Refused` if the release has no such decoding, or if nobody said how an engine drafts that must be told.
    """
    if not told:
        mode = _MUST_BE_TOLD.get(made.get("speculative_decoding_mode", 0))
        if mode:
            raise Refused(f"the engine was built for {mode}, and the recipe does not say how: give it speculation=")
        return {}
    try:
        return {"decoding_config": api.DecodingConfig(**_decoding(api, told))}
    except (AttributeError, TypeError) as error:
        mode = told["mode"]
        raise Refused(f"TensorRT-LLM {version} cannot be told to decode with {mode} like this: {error}") from None


def _decoding(api: Any, told: dict[str, Any]) -> dict[str, Any]:
    if told["mode"] == "lookahead_decoding":
        sizes = (told["window"], told["ngram"], told["verification"])
        return {"lookahead_decoding_config": api.LookaheadDecodingConfig(*sizes)}
    if told["mode"] == "medusa":
        return {"medusa_choices": told["choices"]}
    if told["choices"]:  # greedy, without a threshold: what is accepted is what the model would have said
        return {"eagle_config": api.EagleConfig(told["choices"])}
    return {"eagle_config": api.EagleConfig(None, True, None, True, told["dynamic_top_k"])}


def alone(api: Any, told: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments of a ``Request`` that drafts nothing; None where an engine cannot be asked so."""
    if told.get("mode") != "lookahead_decoding" or not hasattr(api.Request, "lookahead_config"):
        return None
    return {"lookahead_config": api.LookaheadDecodingConfig(*_ALONE)}


def counts(result: Any) -> dict[str, int]:
    """What the release says of one answer: steps, tokens drafted and accepted. What it does not say is not there."""
    found = {"steps": int(getattr(result, "decoding_iter", 0) or 0)}
    said = getattr(getattr(result, "request_perf_metrics", None), "speculative_decoding", None)
    if said is not None and said.total_draft_tokens:  # 0: nothing was counted
        found |= {"drafted": int(said.total_draft_tokens), "accepted": int(said.total_accepted_draft_tokens)}
    return {name: count for name, count in found.items() if count or name == "accepted"}


def rate(found: list[dict[str, int]]) -> dict[str, Any]:
    """The sums of several answers, and the share of drafted tokens that was accepted."""
    names = ("steps", "drafted", "accepted")
    sums: dict[str, Any] = {
        name: sum(one[name] for one in found) for name in names if all(name in one for one in found)
    }
    if sums.get("drafted"):
        sums["acceptance"] = f"{sums['accepted'] / sums['drafted']:.2f}"
    return sums


def with_drafts(
    draft: Callable[[list[int], int], list[int]],
    verify: Callable[[list[int], list[int]], tuple[list[int], bool]],
    asked: list[int],
    limit: int,
    length: int,
) -> tuple[list[int], bool, dict[str, int]]:
    """The answer to `asked`, whether it came to its end, and the counts, with up to `length` drafted tokens in a step.

    `draft` guesses up to so many tokens, `verify` says which tokens follow if these are guessed, and whether that is
    the end: as many of the guessed as are right, and one more.
    """
    tokens: list[int] = []
    found = {"steps": 0, "drafted": 0, "accepted": 0}
    ended = False
    while not ended and len(tokens) < limit:
        most = min(length, limit - len(tokens) - 1)
        guessed = draft(asked + tokens, most) if most else []
        new, ended = verify(asked + tokens, guessed)
        if not new and not ended:
            raise Refused("the engine answers drafts with nothing")
        step = {"steps": 1, "drafted": len(guessed), "accepted": _alike(guessed, new)}
        found = {name: count + step[name] for name, count in found.items()}
        tokens += new
    return tokens, ended, found


def _alike(one: list[int], other: list[int]) -> int:
    """How many of their first tokens are the same."""
    pairs = enumerate(zip(one, other))  # noqa: B905  # the shorter one counts
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
