"""What the API refuses: wrong types for every parameter, what it cannot do, what is no request at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai_kit import ANSWER, MODEL, QUESTION, Api, everything
from triton_kit import Tiny

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def ask(api: Api, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    status, _, data = api.ask("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    return status, json.loads(data)


def error(api: Api, path: str, body: bytes) -> tuple[int, str, str | None]:
    """Status, code and param; the object is whole."""
    status, said = ask(api, path, body)
    assert set(said) == {"error"}
    assert set(said["error"]) == {"message", "type", "param", "code"}
    assert said["error"]["message"]
    return status, said["error"]["code"], said["error"]["param"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model", [1, None, [], {}]),
        ("messages", [None, [], {}, "a", [1], [{}], [{"role": "user"}], [{"role": "king", "content": "a"}]]),
        ("messages", [[{"role": "user", "content": 1}], [{"role": "user", "content": [{"type": "image_url"}]}]]),
        ("messages", [[{"role": "user", "content": "a", "x": 1}], [{"role": "tool", "content": "a"}]]),
        ("stream", [1, "true", []]),
        ("stream_options", [1, {"include_usage": True}]),
        ("max_tokens", [0, -1, 1.5, "1", True, 2**40]),
        ("max_completion_tokens", [0, "a", [], {}]),
        ("temperature", [-0.1, 2.1, "1", True, [], "NaN"]),
        ("top_p", [0, 1.1, "1", []]),
        ("top_k", [0, -1, 1.5, "1"]),
        ("min_tokens", [-1, "1"]),
        ("repetition_penalty", [0, -1, "1"]),
        ("presence_penalty", [2.1, -2.1, "1"]),
        ("frequency_penalty", [2.1, -2.1, []]),
        ("n", [0, 17, 1.5, "1"]),
        ("stop", [1, "", [""], ["a"] * 5, [1], {}]),
        ("seed", [1.5, "1", 2**63, []]),
        ("user", [1, []]),
        ("logprobs", [1, "true"]),
        ("top_logprobs", [1, 21, -1, "1"]),
        ("response_format", [1, "json", {"type": "xml"}, {"type": "json_schema"}, SCHEMA, {"type": "text", "x": 1}]),
        ("tools", [1, {}, [1], [{"type": "function"}], [TOOL]]),
        ("tool_choice", ["always", 1, "required"]),
        ("parallel_tool_calls", [False, 1]),
        ("chat_template_kwargs", [1, "a"]),
        ("modalities", [["audio"], "text"]),
        ("service_tier", ["flex"]),
        ("store", [True]),
        ("metadata", [1, {"a": 1}]),
        ("logit_bias", [{"1": 2}]),
        ("reasoning_effort", ["low"]),
        ("functions", [[]]),
        ("anything", [1]),
    ],
)
def test_every_parameter_of_a_chat(api: Api, name: str, values: list[Any]) -> None:
    for value in values:
        said = {"model": MODEL, "messages": QUESTION, "max_tokens": 1} | {name: value}
        status, _, param = error(api, CHAT, json.dumps(said).encode())
        assert status == 400, value
        assert param is not None, value
        assert param.partition(".")[0] == name, value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("prompt", [None, 1, [], [[]], [""], "", ["a", 1], [1, "a"], [-1], [2**31], [5000], [1.5], {}]),
        ("max_tokens", [0, "1"]),
        ("logprobs", [True, 6, -1, 1]),
        ("echo", [True, 1]),
        ("best_of", [2, 0]),
        ("suffix", ["a"]),
        ("messages", [QUESTION]),
        ("response_format", [{"type": "text"}]),
    ],
)
def test_every_parameter_of_a_completion(api: Api, name: str, values: list[Any]) -> None:
    for value in values:
        said = {"model": MODEL, "prompt": "a", "max_tokens": 1} | {name: value}
        status, _, param = error(api, TEXT, json.dumps(said).encode())
        assert status == 400, value
        assert param is not None, value
        assert param.partition(".")[0] == name, value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"a"',
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
def test_no_json(api: Api, body: bytes) -> None:
    for path in (CHAT, TEXT):
        assert error(api, path, body) == (400, "invalid_json", None)


def test_half_a_character(api: Api) -> None:
    said = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "\ud800"}]}).encode()
    assert error(api, CHAT, said)[0] == 400
    guided = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": "\ud800"}}}
    status, _ = api.chat(response_format=guided, max_tokens=1)
    assert status == 400


def test_missing(api: Api) -> None:
    assert error(api, CHAT, b"{}") == (400, "missing_required_parameter", "model")
    said = json.dumps({"model": MODEL}).encode()
    assert error(api, CHAT, said) == (400, "missing_required_parameter", "messages")


def test_what_is_not_known_is_named(api: Api) -> None:
    status, said = api.chat(logit_bias={"1": 1})
    assert status == 400
    assert said["error"]["code"] == "unsupported_parameter"
    assert "logit_bias" in said["error"]["message"]


def test_null_is_as_if_it_were_not_there(api: Api) -> None:
    names = ("stream", "stop", "seed", "tools", "response_format", "max_tokens", "n", "logprobs", "user")
    status, said = api.chat(**dict.fromkeys(names))
    assert status == 200
    assert said["choices"][0]["message"]["content"] == ANSWER


def test_too_long(api: Api) -> None:
    """10 MB are more than a body may have, and 200 kB more than the engine can read."""
    long = {"model": MODEL, "messages": [{"role": "user", "content": "a " * 5_000_000}]}
    assert error(api, CHAT, json.dumps(long).encode())[:2] == (413, "request_too_large")
    shorter = {"model": MODEL, "messages": [{"role": "user", "content": "a " * 100_000}]}
    assert error(api, CHAT, json.dumps(shorter).encode()) == (400, "context_length_exceeded", "messages")


def test_other_paths_and_methods(api: Api) -> None:
    for method, path, status, code in (
        ("GET", "/nothing", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("POST", "/v1/audio/transcriptions", 404, "not_found"),
        ("GET", "/v1/models/gpt-4", 404, "model_not_found"),
        ("GET", "/v1/models/a%2Fb", 404, "model_not_found"),
    ):
        found, headers, data = api.ask(method, path, b"{}" if method == "POST" else None)
        assert found == status
        assert json.loads(data)["error"]["code"] == code
        assert headers["x-request-id"]


def test_request_ids(api: Api) -> None:
    """A sound one is sent back, any other is replaced."""
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 200, False), ("", False)):
        shown = api.ask("GET", "/health/live", None, {"X-Request-Id": given})[1]["x-request-id"]
        assert (shown == given) == kept


def test_health_version_metrics(api: Api, tiny: Tiny) -> None:
    promised = json.loads((tiny.repository / "deployment.json").read_text())
    assert api.get("/health/live") == {"status": "live"}
    assert api.get("/health/ready") == {"status": "ready", "reasons": []}
    version = api.get("/version")
    assert version["engine_hash"] == promised["engine"]["hash"]
    assert version["tokenizer_hash"] == promised["tokenizer"]["hash"]
    assert version["quantisation"] == "int4_sym"
    assert version["limits"]["max_seq_len"] == 2048
    api.chat(max_tokens=3)
    status, headers, data = api.ask("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    text = data.decode()
    assert 'hermetic_proxy_requests_total{endpoint="chat.completions",model="tiny_serve",status="200"}' in text
    assert "hermetic_proxy_running_answers 0.0" in text


@pytest.mark.slow
def test_keys(tiny: Tiny) -> None:
    with everything(HERMETIC_API_KEYS="one, two") as guarded:
        for shown, status in (("one", 200), ("two", 200), ("three", 401), ("", 401), ("one, two", 401), ("é", 401)):
            headers = {"Authorization": f"Bearer {shown}".encode().decode("latin-1")}
            assert guarded.ask("GET", "/v1/models", None, headers)[0] == status
        found, headers, data = guarded.ask("GET", "/v1/models")
        assert (found, json.loads(data)["error"]["code"]) == (401, "invalid_api_key")
        assert headers["www-authenticate"] == "Bearer"
        assert guarded.ask("POST", CHAT, b"{}")[0] == 401
        assert guarded.ask("GET", "/health/ready")[0] == 200
        assert guarded.ask("GET", "/v1/models", None, {"Authorization": "Basic one"})[0] == 401
