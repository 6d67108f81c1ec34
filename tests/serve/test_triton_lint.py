"""Findings about repositories, before anything is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic.llm.policy import Policy
from hermetic.llm.triton_lint import promises

RECIPE = """
from hermetic import Image, Source
from hermetic.llm import openvino, tensorrt_llm
from hermetic.llm.triton import triton_repository

image = Image("docker.io/example/trtllm:1.2.1")
checkpoint = Source("checkpoint")
engine = tensorrt_llm.Engine(
    environment=image, checkpoint=checkpoint, release="1.2.1", options={"max_seq_len": 5120, "max_batch_size": 4},
)
good = triton_repository(engine, manifest=checkpoint, max_seq_len=5120, queue_delay_us=2500)
bad = triton_repository(
    engine, max_seq_len=6000, max_batch_size=8, parameters={"max_queue_delay_microseconds": "3000"},
)
small = openvino.Engine(weights=checkpoint, quantised=checkpoint)
other = triton_repository(small, manifest=checkpoint, queue_size=3)
default = good
"""


def test_repositories(cli, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").touch()
    (tmp_path / "recipe.py").write_text(RECIPE)
    done = cli("lint", tmp_path / "recipe.py", "--json")
    assert done.exit_code == 3, done.stderr
    found = {
        (one["where"], one["code"])
        for one in map(json.loads, done.lines)
        if "repository" in one["code"] or "queue" in one["code"]
    }
    assert found == {
        ("bad: parameters.max_queue_delay_microseconds", "queue-parameter"),
        ("bad: max_seq_len", "repository-over-engine"),
        ("bad: max_batch_size", "repository-over-engine"),
        ("bad: manifest", "repository-without-manifest"),
        ("other: queue_size", "repository-setting"),
    }


POLICY = """
policy: 1
thresholds:
  max_prompt_tokens: {limit: 4000, action: reject}
  max_tokens: {limit: 6000, action: reject}
"""


def test_a_policy_beside_a_recipe(cli, tmp_path: Path) -> None:
    """The serving guide's 6,000 tokens on an engine that was built for 5,120."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").touch()
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "policy.yaml").write_text(POLICY)
    done = cli("lint", tmp_path / "recipe.py", "--json", "--policy", tmp_path / "policy.yaml")
    assert done.exit_code == 3, done.stderr
    found = [one for one in map(json.loads, done.lines) if one["code"] == "policy-over-engine"]
    assert [one["message"] for one in found if one["where"].startswith("good")] == [
        "max_tokens is 6000, and the engine refuses more than 5120",
        "max_prompt_tokens is 4000, and the engine refuses more than 1024",  # what trtllm-build takes if not told
    ]


@pytest.mark.parametrize(
    ("tokens", "prompt", "action", "wrong"),
    [
        (6000, 4000, "reject", ["thresholds.max_tokens.limit"]),
        (5120, 4096, "reject", []),
        (6000, 4000, "alert", []),
        (5120, 4097, "reject", ["thresholds.max_prompt_tokens.limit"]),
    ],
)
def test_a_policy_can_not_promise_more_than_the_engine(tokens: int, prompt: int, action: str, wrong: list[str]) -> None:
    limits = {"max_seq_len": 5120, "max_input_len": 4096, "max_batch_size": 4}
    kind = {"action": action, "recipient": "somebody"}
    thresholds = {"max_tokens": {"limit": tokens, **kind}, "max_prompt_tokens": {"limit": prompt, **kind}}
    policy = Policy.model_validate({"policy": 1, "thresholds": thresholds, "recipients": {"somebody": {}}})
    assert [one.where for one in promises(limits, policy)] == wrong


def test_no_policy_promises_nothing() -> None:
    assert list(promises({"max_seq_len": 10}, Policy(policy=1))) == []


REUSE = """
from hermetic import Image, Source
from hermetic.llm import tensorrt_llm
from hermetic.llm.triton import triton_repository

engine = tensorrt_llm.Engine(
    environment=Image("docker.io/example/trtllm:1.2.1"), checkpoint=Source("checkpoint"), release="1.2.1",
    options={"use_paged_context_fmha": "disable"},
)
bad = triton_repository(engine, manifest=Source("checkpoint"))
good = triton_repository(engine, manifest=Source("checkpoint"), kv_cache_reuse=False, chunked_context=False)
plan = triton_repository(Source("qwen3-32b-w4a8.plan"), manifest=Source("checkpoint"))
default = good
"""


def test_reuse_of_a_cache_that_the_engine_was_not_built_for_and_a_plan_for_an_engine(cli, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "qwen3-32b-w4a8.plan").touch()
    (tmp_path / "recipe.py").write_text(REUSE)
    found = [json.loads(line) for line in cli("lint", "recipe.py", "--json").lines]
    assert [(one["where"], one["code"]) for one in found if one["severity"] == "error"] == [
        ("bad: kv_cache_reuse", "reuse-and-engine"),
        ("bad: chunked_context", "reuse-and-engine"),
        ("plan: engine", "plan-file"),
    ]


def test_three_numbers_for_one_delay(cli, tmp_path: Path) -> None:
    """The serving guide: 3000 µs in config.pbtxt, 2500 until an alert, 1500 as the service level."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").touch()
    (tmp_path / "recipe.py").write_text(RECIPE.replace("queue_delay_us=2500", "queue_delay_us=3000"))
    (tmp_path / "policy.yaml").write_text(
        "policy: 1\nrecipients: {somebody: {}}\n"
        "thresholds: {max_queue_delay_us: {limit: 2500, action: alert, recipient: somebody}}\n"
        "readiness: {windows: [{metric: llm.queue_delay_us, at_most: 1500}]}\n"
    )
    done = cli("lint", "recipe.py", "--json", "--policy", "policy.yaml")
    found = [one for one in map(json.loads, done.lines) if one["code"].startswith("delay")]
    assert {(one["where"], one["code"], one["severity"]) for one in found if one["where"].startswith("good")} == {
        ("good: thresholds.max_queue_delay_us.limit", "delay-over-policy", "error"),
        ("good: readiness.windows[0].at_most", "delay-over-policy", "error"),
        ("good: readiness.windows[0].at_most", "delays-differ", "warning"),
    }
