"""A policy before a real Triton: what clients see, what recipients get, the page, roll-back and canary."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import triton_kit
from blake3 import blake3
from openai_kit import ANSWER, MODEL, QUESTION, Api, everything, running
from test_policy_watch import webhook
from triton_kit import Tiny, hermetic, serving

from hermetic.testing.ports import free_ports

pytestmark = pytest.mark.slow

POLICY = """
policy = 1

[thresholds]
max_prompt_tokens = {limit = 100, action = "reject"}
max_tokens = {limit = 400, action = "reject"}
max_cost_usd = {limit = 0.10, action = "alert", recipient = "finance"}
max_queue_delay_us = {limit = 0, action = "alert", recipient = "readiness"}

[recipients.finance]
[recipients.readiness]
webhook = "WEBHOOK"
backoff_s = 0.01

[prices]
price_per_token = 0.00201

[schemas]
folder = "schemas"
required = true

[readiness]
min_requests = 1000

[[readiness.warm_up]]
prompt = "What is a store path?"
expect = "immutable folder"
max_tokens = 40
"""
#: The tiny model would fill an object with white space.
SCHEMA = {"enum": ["alpha"]}


def write_policy(folder: Path, text: str = POLICY, hook: str = "http://127.0.0.1:9/") -> Path:
    (folder / "schemas").mkdir(exist_ok=True)
    (folder / "schemas" / "answer_1.json").write_text(json.dumps(SCHEMA))
    (folder / "policy.toml").write_text(text.replace("WEBHOOK", hook))
    return folder / "policy.toml"


def logged(folder: Path, event: str) -> list[dict[str, Any]]:
    documents = [json.loads(line) for line in (folder / "state" / "events.jsonl").read_text().splitlines()]
    return [one for one in documents if one["event"] == event]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy")


@pytest.fixture(scope="module")
def hook() -> Iterator[Any]:
    with webhook(503) as found:
        yield found


@pytest.fixture(scope="module")
def deployed(tiny: Tiny, place: Path, hook: Any) -> Iterator[Api]:
    with everything("--policy", write_policy(place, hook=hook[0])) as found:
        found.said.wait_for("llm_warmup_completed")
        yield found


@pytest.fixture(scope="module")
def client(deployed: Api) -> openai.OpenAI:
    served = deployed.get("/version")
    named = {"X-Engine-Hash": served["engine_hash"], "X-Quantisation": served["quantisation"]}
    return deployed.client(default_headers=named)


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION} | more)


def test_headers_are_insisted_on(deployed: Api, client: openai.OpenAI) -> None:
    status, answer = deployed.chat()
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "header_missing", "X-Engine-Hash")
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, extra_headers={"X-Quantisation": "w4a8"})
    assert caught.value.status_code == 412
    assert "w4a8" in caught.value.message
    assert "int4" in caught.value.message
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION, temperature=0)
    assert raw.parse().choices[0].message.content == ANSWER
    assert raw.headers["X-Engine-Hash"] == deployed.get("/version")["engine_hash"]


def test_the_budget_of_tokens(client: openai.OpenAI) -> None:
    for more in ({"max_tokens": 387}, {"messages": [{"role": "user", "content": "store path " * 60}]}):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, **more)
        assert caught.value.code == "token_budget_overrun"
    assert ask(client, max_tokens=386, temperature=0).usage.completion_tokens == 36


def test_operations_have_their_defaults(client: openai.OpenAI) -> None:
    answer = ask(client, extra_headers={"X-Operation": "rank_candidates"})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (1, "length")
    answer = ask(client, extra_headers={"X-Operation": "generate_json", "X-Schema-Id": "answer_1"})
    assert json.loads(answer.choices[0].message.content) == "alpha"


def test_schemas_are_logged_and_counted(deployed: Api, client: openai.OpenAI) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "mine", "schema": SCHEMA}}
    assert json.loads(ask(client, response_format=shape).choices[0].message.content) == "alpha"
    line = json.loads(deployed.said.wait_for("llm.request", '"schema_id": "answer_1"', '"operation": null'))
    assert line["queue_delay_us"] > 0  # of Triton's own outputs
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}})
    assert caught.value.code == "schema_not_registered"
    text = deployed.ask("GET", "/metrics")[2].decode()
    (count,) = [line for line in text.splitlines() if line.startswith("llm_queue_delay_us_count") and "answer_1" in line
                and "generate_json" not in line]  # fmt: skip
    assert float(count.split()[-1]) == 1


def test_alerts_reach_the_webhook_after_a_failure(deployed: Api, client: openai.OpenAI, place: Path, hook: Any) -> None:
    ask(client, temperature=0)
    deployed.said.wait_for("llm_observability_alert", "cost_budget", "finance")
    line = json.loads(deployed.said.wait_for("llm_observability_alert", "queue_delay", "readiness"))
    assert line["value"] > line["limit"] == 0
    first = logged(place, "llm_observability_alert")
    assert {one["reason"] for one in first} >= {"cost_budget", "queue_delay"}
    status, _, page = deployed.ask("GET", "/dashboard")
    assert status == 200
    assert b"cost_budget" in page


def test_ready_with_its_reasons(deployed: Api) -> None:
    assert deployed.get("/health/ready") == {"status": "ready", "reasons": []}
    summary = deployed.get("/dashboard.json")
    assert summary["reasons"] == []
    assert summary["engine_hash"] == deployed.get("/version")["engine_hash"]


def test_the_page_in_a_browser(deployed: Api, tmp_path: Path) -> None:
    """As Chromium has it after it has read it; a page that it could not draw leaves no picture."""
    page = browse(f"http://127.0.0.1:{deployed.port}/dashboard", tmp_path)
    assert '<span class="state ready">ready</span>' in page
    assert deployed.get("/version")["engine_hash"] in page
    for part in ("readiness", "engine", "manifest", "provenance", "metrics", "alerts", "roll-backs"):
        assert f'<section id="{part}"' in page
    for word in ("llm.queue_delay_us", "cost_budget", "finance", "key"):
        assert word in page
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def browse(url: str, folder: Path) -> str:
    """The document as headless Chromium has it; its picture is ``page.png``."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
    quiet = ("--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}/profile")
    command = [chromium, *flags, *quiet, "--window-size=1280,1400"]
    said = [
        subprocess.run([*command, made, url], capture_output=True, text=True, check=True, timeout=120).stdout
        for made in ("--dump-dom", f"--screenshot={folder}/page.png")
    ]
    return said[0]


def test_the_webhook_was_tried_again(deployed: Api, client: openai.OpenAI, hook: Any) -> None:
    """Its first answer was 503: the first alert came twice. Stopping waits for what is on its way."""
    deployed.process.terminate()
    assert deployed.process.wait() == 0
    ids = [one["id"] for one in hook[1]]
    assert ids[0] == ids[1]
    assert len(set(ids)) == len(ids) - 1


def changed(tiny: Tiny, folder: Path) -> Path:
    """The tiny engine with another hash: one file has a space more, which nobody minds."""
    shutil.copytree(tiny.engine, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    with open(folder / "generation_config.json", "a", encoding="utf-8") as stream:
        stream.write(" ")
    files = {
        str(path.relative_to(folder)): {"blake3": blake3(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in folder.rglob("*")
        if path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return folder


@pytest.fixture
def name(tmp_path: Path) -> Iterator[str]:
    """Of a profile, which the store that stays forgets afterwards."""
    found = f"policy-{os.getpid()}"
    yield found
    shutil.rmtree(triton_kit.STORE / "profiles" / found, ignore_errors=True)


def test_a_roll_back_is_warmed_up_and_says_why(tiny: Tiny, tmp_path: Path, name: str) -> None:
    new = changed(tiny, tmp_path / "new")
    links = tmp_path / "links"
    for target in (tiny.engine, new):
        assert hermetic("link", name, target, "--to", links).returncode == 0
    policy = write_policy(tmp_path)
    (grpc,) = free_ports(1)
    with running(("openai", name), "--to", links, "--policy", policy, "--triton", f"127.0.0.1:{grpc}") as api:
        reasons = api.get("/health/ready")["reasons"]
        assert not any(one.startswith("engine-switched") for one in reasons)
        done = hermetic("profile", "rollback", name, "--cause", "answers were wrong", "--policy", policy)
        assert done.returncode == 0, done.stderr
        reasons = api.get("/health/ready")["reasons"]
        assert any(one.startswith(f"engine-switched: the link shows {tiny.engine}") for one in reasons)
    (warmed,) = logged(tmp_path, "llm_warmup_completed")
    (event,) = logged(tmp_path, "llm_rollback_completed")
    assert event["cause"] == "answers were wrong"
    assert event["given_up"] == str(new)
    assert event["engine_hash"] == warmed["engine_hash"]
    assert os.path.realpath(links / name) == str(tiny.engine)


def test_policy_and_keys_are_read_again(tiny: Tiny, tmp_path: Path) -> None:
    """By one signal, which ends nothing; a mistake leaves what was."""
    policy, keys = write_policy(tmp_path), tmp_path / "keys"
    keys.write_text("one\n")
    way = ("openai", str(triton_kit.RECIPE), "--api-keys", str(keys), "--policy", str(policy))
    with running(way, "--triton", "127.0.0.1:9") as api:
        policy.write_text("policy = ")
        keys.write_text("two\n")
        api.process.send_signal(signal.SIGHUP)
        api.said.wait_for("the policy stays as it was", "policy.toml")
        api.said.wait_for("the keys are read again")
        statuses = [api.ask("GET", "/v1/models", None, {"Authorization": f"Bearer {key}"})[0] for key in ("one", "two")]
        assert statuses == [401, 200]
        (notice,) = api.get("/health/ready")["notices"]
        assert notice.startswith("policy-rejected: ")
        write_policy(tmp_path, POLICY + "\n")
        api.process.send_signal(signal.SIGHUP)
        api.said.wait_for("llm_policy_reloaded")
        assert "notices" not in api.get("/health/ready")
    assert [len(logged(tmp_path, f"llm_policy_{what}")) for what in ("rejected", "reloaded")] == [1, 1]


def test_a_server_follows_its_link(tiny: Tiny, tmp_path: Path, name: str) -> None:
    """SIGHUP: the engine that the link shows by now is started beside the old one and takes over. Answers that run come
    to their end; an engine that cannot be served changes nothing.
    """
    new, links = changed(tiny, tmp_path / "new"), tmp_path / "links"
    assert hermetic("link", name, tiny.engine, "--to", links).returncode == 0
    words = [f"--{one}-port={port}" for one, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)]
    with running((name,), *words, "--to", links, "--policy", write_policy(tmp_path, CANARY)) as api:
        api.said.wait_for("llm_warmup_completed")
        old = api.get("/version")["engine_hash"]
        assert hermetic("link", name, new, "--to", links).returncode == 0
        more = {"max_tokens": 400, "extra_body": {"min_tokens": 400}, "stream": True}
        stream = api.client().chat.completions.create(model=name, messages=QUESTION, **more)
        first = next(iter(stream))
        api.process.send_signal(signal.SIGHUP)
        api.said.wait_for("is served, by the Triton at")
        young = api.get("/version")["engine_hash"]
        assert young != old
        assert first.system_fingerprint == f"fp_{old.partition(':')[2][:16]}"
        assert [one.choices[0].finish_reason for one in stream][-1] == "length"
        raw = api.client().chat.completions.with_raw_response.create(model=name, messages=QUESTION, temperature=0)
        assert (raw.headers["X-Engine-Hash"], raw.parse().choices[0].message.content) == (young, ANSWER)
        assert api.get("/health/ready") == {"status": "ready", "reasons": []}
        api.said.wait_for("the old engine has ended")
        broken = tmp_path / "broken"
        shutil.copytree(new, broken)
        (broken / "generation_config.json").write_text("{}")
        assert hermetic("link", name, broken, "--to", links).returncode == 0
        api.process.send_signal(signal.SIGHUP)
        api.said.wait_for("the old engine serves on")
        assert "switch-failed: the old engine serves on: trust/engine-changed" in api.get("/health/ready")["notices"][0]
        assert api.client().chat.completions.create(model=name, messages=QUESTION, temperature=0)
        api.process.terminate()
        assert api.process.wait() == 0
    assert [one["engine_hash"] for one in logged(tmp_path, "llm_engine_published")] == [old, young]


def test_a_roll_back_whose_warm_up_fails_is_not_completed(tiny: Tiny, tmp_path: Path, name: str) -> None:
    for target in (tiny.engine, changed(tiny, tmp_path / "new")):
        assert hermetic("link", name, target, "--to", tmp_path / "links").returncode == 0
    policy = write_policy(tmp_path, POLICY.replace("immutable", "rented"))
    done = hermetic("profile", "rollback", name, "--cause", "why", "--policy", policy)
    assert done.returncode == 4
    assert "error[environment/warm-up-failed]" in done.stderr
    assert len(logged(tmp_path, "llm_warmup_failed")) == 1
    assert logged(tmp_path, "llm_rollback_completed") == []


CANARY = """
policy = 1
required_headers = []

[[readiness.warm_up]]
prompt = "What is a store path?"
expect = "immutable folder"
max_tokens = 40

[canary]
share_percent = 50
requests = 3
"""


def test_a_triton_that_serves_another_engine(tiny: Tiny, tmp_path: Path) -> None:
    """It answers, and rightly; but not with the engine that clients were promised."""
    with serving(changed(tiny, tmp_path / "new")) as other:
        options = ("--policy", write_policy(tmp_path, CANARY), "--triton", other.grpc)
        with running(("openai", str(triton_kit.RECIPE)), *options) as api:
            json.loads(api.said.wait_for("llm_warmup_completed"))
            first, second = api.get("/health/ready")["reasons"]  # the file that differs is one of a tokenizer too
            assert first.startswith(f"engine-mismatch: Triton serves the engine_hash {other.ready['engine']}, and not")
            assert second.startswith("engine-mismatch: Triton serves the tokenizer_hash")


def test_a_canary_takes_over(tiny: Tiny, tmp_path: Path, name: str) -> None:
    """Two Tritons, one API, and in the end one engine and a link that shows it."""
    new = changed(tiny, tmp_path / "new")
    links = tmp_path / "links"
    assert hermetic("link", name, tiny.engine, "--to", links).returncode == 0
    policy = write_policy(tmp_path, CANARY)
    with serving(tiny.engine) as old, serving(new) as young:
        options = ("--to", links, "--policy", policy, "--triton", old.grpc)
        tried = ("--candidate", new, "--candidate-triton", young.grpc)
        with running(("openai", name), *options, *tried) as api:
            api.said.wait_for("llm_warmup_completed", old.ready["engine"])
            api.said.wait_for("llm_warmup_completed", young.ready["engine"])
            answered = []
            for _ in range(6):
                raw = api.client().chat.completions.with_raw_response.create(model=name, messages=QUESTION)
                answered.append(raw.headers["X-Engine-Hash"])
            assert sorted(set(answered)) == sorted({old.ready["engine"], young.ready["engine"]})
            event = json.loads(api.said.wait_for("llm_engine_published", young.ready["engine"]))
            assert event["cause"] == "the smoke test and 3 requests passed"
            assert os.path.realpath(links / name) == str(new)
            raw = api.client().chat.completions.with_raw_response.create(model=name, messages=QUESTION)
            assert raw.headers["X-Engine-Hash"] == young.ready["engine"]
            assert api.get("/health/ready")["reasons"] == []
