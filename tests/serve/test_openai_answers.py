"""Prompts, tools, thinking and hooks, with a stand-in for Triton: what it is asked, what becomes of its tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from hermetic.errors import Domain, HermeticError
from hermetic.serve.openai.answer import Asked
from hermetic.serve.openai.app import Proxy
from hermetic.serve.openai.detokenise import byte_alphabet
from hermetic.serve.openai.engine import Engine
from hermetic.serve.openai.errors import ApiError
from hermetic.serve.openai.hooks import Facts, NoHooks, Outcome, Passed, Refusal, Serving
from hermetic.serve.openai.settings import ProxySettings
from hermetic.serve.openai.tokenizer import Text
from hermetic.serve.triton_deployment import Deployment
from hermetic.testing.upstream import StandInUpstream

END = 256
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<tool_call></tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
PROMISED = Deployment("openvino", "int4", {"max_seq_len": 4096}, (), "0.20", "blake3:" + "ab" * 32, "blake3:1", {}, {})
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASK = [{"role": "user", "content": "Zürich?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


def text_of(folder: Path, template: str | None) -> Text:
    tokenizer = Tokenizer(models.BPE(dict(byte_alphabet()), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    tokenizer.add_tokens([AddedToken(one, special=False) for one in ("<think>", "</think>")])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": {"content": "<|im_end|>"}} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Text(str(folder))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return text_of(tmp_path_factory.mktemp("text") / "a", TEMPLATE)


class Recorded(NoHooks):
    """Hooks that a test chose the answer of."""

    def __init__(self, answer: Refusal | Passed | None = None, reasons: Sequence[str] = ()) -> None:
        self.answer = answer or Passed()
        self.reasons = reasons
        self.facts: list[Facts] = []
        self.seen: list[Mapping[str, str]] = []
        self.outcomes: list[Outcome] = []
        self.serving: Serving | None = None

    async def start(self, serving: Serving) -> None:
        self.serving = serving

    def before(self, facts: Facts, headers: Mapping[str, str]) -> Refusal | Passed:
        self.facts.append(facts)
        self.seen.append(headers)
        return self.answer

    def after(self, facts: Facts, outcome: Outcome) -> None:
        assert facts is self.facts[-1]
        self.outcomes.append(outcome)

    async def unready(self) -> Sequence[str]:
        return self.reasons

    def routes(self) -> Sequence[Any]:
        return [Route("/dashboard", lambda _: PlainTextResponse("page"))]


def proxy_of(text: Text, upstream: StandInUpstream, hooks: NoHooks | None = None, **settings: Any) -> Proxy:
    engine = Engine("m", text, upstream, PROMISED, 0)  # type: ignore[arg-type]  # the stand-in has what is used of it
    return Proxy({"": engine}, ProxySettings(**settings), hooks)


def ask(
    proxy: Proxy,
    method: str,
    path: str,
    said: Any = None,
    headers: Mapping[str, str] | None = None,
    gone: int = -1,
    reads: int = 10**9,
) -> tuple[int, dict[str, str], bytes]:
    """One request to the application itself; the client goes after `gone` pieces of the answer, if that is not -1, and
    reads no more than `reads` of them.
    """

    async def main() -> tuple[int, dict[str, str], bytes]:
        sent: list[Any] = []
        left = asyncio.Event()
        if gone == 0:
            left.set()
        body = [{"type": "http.request", "body": json.dumps(said).encode(), "more_body": False}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) > reads:
                await asyncio.get_running_loop().create_future()
            if len(sent) == gone:
                left.set()

        raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": raw, "http_version": "1.1", "scheme": "http", "server": ("a", 1), "client": ("b", 2),
        }  # fmt: skip
        await asyncio.wait_for(proxy.app(scope, receive, send), 60)
        named = {name.decode(): value.decode() for name, value in sent[0]["headers"]} if sent else {}
        data = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"] if sent else 0, named, data

    return asyncio.run(main())


def chat(proxy: Proxy, **more: Any) -> dict[str, Any]:
    """An answer's only choice."""
    status, _, data = ask(proxy, "POST", "/v1/chat/completions", {"model": "m", "messages": ASK} | more)
    assert status == 200, data
    if not more.get("stream"):
        return dict(json.loads(data)["choices"][0])
    message: dict[str, Any] = {}
    finished = None
    for line in data.decode().split("\n\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                finished = choice["finish_reason"] or finished
                for name, value in choice["delta"].items():
                    if name == "tool_calls":
                        message.setdefault(name, []).extend(
                            {key: call[key] for key in call if key != "index"} for call in value
                        )
                    elif name != "role":
                        message[name] = message.get(name, "") + value
    return {"message": message, "finish_reason": finished}


def error(proxy: Proxy, **more: Any) -> tuple[int, str, str | None]:
    status, _, data = ask(proxy, "POST", "/v1/chat/completions", {"model": "m", "messages": ASK} | more)
    found = json.loads(data)["error"]
    return status, found["code"], found["param"]


def saying(text: str, *more: int) -> StandInUpstream:
    """A byte at a time, then the end."""
    return StandInUpstream([[byte] for byte in text.encode()] + [[*more, END]])


def prompt(text: Text, upstream: StandInUpstream) -> str:
    return str(text._tokenizer.decode(list(upstream.asked[-1].ids), skip_special_tokens=False))


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(text: Text, stream: bool) -> None:
    upstream = saying(f"Let me see.\n{CALL}")
    found = chat(proxy_of(text, upstream), tools=[TOOL], stream=stream)
    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["content"] == "Let me see.\n"
    (call,) = found["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Zürich"}
    assert '"description": "Of a city"' in prompt(text, upstream)


def test_a_tool_s_answer_goes_into_the_prompt(text: Text) -> None:
    upstream = saying("Sunny.")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]
    assert chat(proxy_of(text, upstream), messages=messages, tools=[TOOL])["message"]["content"] == "Sunny."
    assert '{"name": "weather", "arguments": {"city": "Zürich"}}' in prompt(text, upstream)
    assert "<|im_start|>tool\nsun<|im_end|>" in prompt(text, upstream)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_must_be(text: Text, choice: Any) -> None:
    """The engine is made to write it."""
    upstream = saying('{"name": "weather", "arguments": {"city": "Bern"}}')
    found = chat(proxy_of(text, upstream), tools=[TOOL], tool_choice=choice)
    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["content"] is None
    assert found["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Bern"}'
    kind, guide = upstream.asked[0].guide or ("", "")
    assert kind == "json_schema"
    assert json.loads(guide or "")["properties"]["name"] == {"const": "weather"}


def test_no_tool_is_called_that_must_not_be(text: Text) -> None:
    upstream = saying(CALL)
    found = chat(proxy_of(text, upstream), tools=[TOOL], tool_choice="none")
    assert found["message"] == {"role": "assistant", "content": CALL, "refusal": None}
    assert "Of a city" not in prompt(text, upstream)


def test_tools_that_can_not_be(text: Text, tmp_path: Path) -> None:
    proxy = proxy_of(text, saying(""))
    named = {"type": "function", "function": {"name": "other"}}
    assert error(proxy, tools=[TOOL], tool_choice=named) == (400, "invalid_value", "tool_choice")
    form = {"type": "json_object"}
    assert error(proxy, tools=[TOOL], response_format=form) == (400, "unsupported_parameter", "response_format")
    plain = proxy_of(text_of(tmp_path / "plain", "{{ messages[0].content }}"), saying(""))
    assert error(plain, tools=[TOOL]) == (400, "unsupported_parameter", "tools")
    silent = proxy_of(text_of(tmp_path / "silent", None), saying(""))
    assert error(silent) == (400, "unsupported_parameter", "messages")
    wrong = {"type": "function", "function": {"name": "f", "parameters": {"type": 7}}}
    assert error(proxy, tools=[wrong], tool_choice="required")[2] == "tools.0.function.parameters"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("thinking", "content", "reasoning"),
    [("separate", "Yes.", "Hm?\n"), ("strip", "Yes.", None), ("keep", "<think>\nHm?\n</think>\n\nYes.", None)],
)
def test_thinking(text: Text, thinking: str, content: str, reasoning: str | None, stream: bool) -> None:
    found = chat(proxy_of(text, saying("<think>\nHm?\n</think>\n\nYes."), thinking=thinking), stream=stream)
    assert found["message"]["content"] == content
    assert found["message"].get("reasoning_content") == reasoning


def test_thinking_can_be_asked_not_to_be(text: Text) -> None:
    upstream = saying("Yes.")
    found = chat(proxy_of(text, upstream), chat_template_kwargs={"enable_thinking": False})
    assert found["message"]["content"] == "Yes."
    assert prompt(text, upstream).endswith("<think>\n\n</think>\n\n")


def test_what_the_engine_is_asked(text: Text) -> None:
    """Nothing is left out, 0 is 0, and a seed is always there."""
    upstream = saying("a")
    proxy = proxy_of(text, upstream)
    chat(
        proxy, temperature=0, top_p=0.5, top_k=3, min_tokens=2, repetition_penalty=1.5, presence_penalty=0,
        frequency_penalty=-1, seed=-1, max_tokens=9, logprobs=True,
    )  # fmt: skip
    assert upstream.asked[0].max_tokens == 9
    assert upstream.asked[0].settings == {
        "temperature": 0, "runtime_top_p": 0.5, "runtime_top_k": 3, "min_tokens": 2, "repetition_penalty": 1.5,
        "presence_penalty": 0, "frequency_penalty": -1, "seed": 2**64 - 1, "return_log_probs": True,
    }  # fmt: skip
    chat(proxy, n=2)
    first, second = upstream.asked[1:]
    assert first.settings["temperature"] == 1
    assert second.settings["seed"] == (int(first.settings["seed"]) + 1) % 2**64
    assert first.max_tokens == 4096 - len(first.ids)


def test_the_inner_schema(text: Text) -> None:
    upstream = saying("1")
    schema = {"type": "integer"}
    chat(
        proxy_of(text, upstream),
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    chat(proxy_of(text, upstream), response_format={"type": "json_object"})
    chat(proxy_of(text, upstream), response_format={"type": "text"})
    assert [one.guide for one in upstream.asked] == [("json_schema", json.dumps(schema)), ("json", None), None]


def test_parts_of_a_message(text: Text) -> None:
    upstream = saying("a")
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    chat(proxy_of(text, upstream), messages=messages)
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n" in prompt(text, upstream)


def test_a_template_that_refuses(tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    proxy = proxy_of(text_of(tmp_path / "a", template), saying(""))
    assert error(proxy) == (400, "invalid_value", "messages")


@pytest.mark.parametrize(
    "template",
    ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ messages[0].update({'content': 1}) }}", "{{ 1/0 }}"],
)
def test_a_template_can_change_nothing(tmp_path: Path, template: str) -> None:
    proxy = proxy_of(text_of(tmp_path / "a", template), saying(""))
    assert error(proxy)[0] == 400


def test_a_template_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(HermeticError) as caught:
        text_of(tmp_path / "a", "{% if %}")
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "tokenizer-unusable")


def test_hooks_are_asked_and_told(text: Text) -> None:
    hooks = Recorded(Passed({"temperature": 0.0, "max_tokens": 3}, {"X-Operation": "judge"}))
    upstream = StandInUpstream([[*b"ab"], [*b"c"]])
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "string"}}}
    said = {"model": "m", "messages": ASK, "response_format": form, "temperature": None}
    trace = {"Traceparent": "00-1-2-01", "X-Engine-Hash": "blake3:1", "X-Request-Id": "r1"}
    status, headers, data = ask(proxy_of(text, upstream, hooks), "POST", "/v1/chat/completions", said, trace)
    assert status == 200
    assert headers["x-operation"] == "judge"
    assert headers["x-engine-hash"] == PROMISED.engine_hash
    facts, outcome = hooks.facts[0], hooks.outcomes[0]
    assert (facts.id, facts.endpoint, facts.model, facts.choices, facts.schema_name) == (
        "r1",
        "chat.completions",
        "m",
        1,
        "s",
    )
    assert facts.schema == {"type": "string"}
    assert facts.prompt_tokens == len(upstream.asked[0].ids)
    assert facts.max_tokens == 4096 - facts.prompt_tokens
    assert hooks.seen[0]["x-engine-hash"] == "blake3:1"
    assert upstream.asked[0].settings["temperature"] == 0
    assert upstream.asked[0].max_tokens == 3
    assert upstream.metadata == [("traceparent", "00-1-2-01")]
    assert (outcome.status, outcome.error, outcome.completion_tokens) == (200, None, 3)
    assert outcome.finish_reasons == ["length"]
    assert outcome.timings[0].queue_delay_us == 2000
    assert outcome.ttft_s is not None
    assert json.loads(data)["usage"]["completion_tokens"] == 3


def test_what_the_client_says_counts_more_than_a_default(text: Text) -> None:
    upstream = saying("a")
    proxy = proxy_of(text, upstream, Recorded(Passed({"temperature": 0.5, "max_tokens": 3})))
    chat(proxy, temperature=1.5, max_completion_tokens=7)
    assert upstream.asked[0].settings["temperature"] == 1.5
    assert upstream.asked[0].max_tokens == 7


def test_a_hook_refuses(text: Text) -> None:
    refusal = Refusal(412, "engine_mismatch", "another engine", "X-Engine-Hash", headers={"X-Engine-Hash": "b"})
    hooks = Recorded(refusal)
    assert error(proxy_of(text, saying("a"), hooks)) == (412, "engine_mismatch", "X-Engine-Hash")
    assert hooks.outcomes == []


def test_hooks_are_told_of_every_end(text: Text) -> None:
    def end(
        upstream: StandInUpstream, *, gone: int = -1, stream: bool = False, **more: Any
    ) -> tuple[int, int, str | None]:
        hooks = Recorded()
        said = {"model": "m", "messages": ASK, "stream": stream} | more
        status, _, _ = ask(proxy_of(text, upstream, hooks), "POST", "/v1/chat/completions", said, gone=gone)
        (outcome,) = hooks.outcomes
        return status, outcome.status, outcome.error

    down = ApiError(503, "upstream_unavailable", "gone", headers={"Retry-After": "1"})
    assert end(StandInUpstream([], error=down)) == (503, 503, "upstream_unavailable")
    assert end(StandInUpstream([], error=down), stream=True) == (503, 503, "upstream_unavailable")
    assert end(StandInUpstream([[1]], error=down), stream=True) == (200, 503, "upstream_unavailable")
    assert end(saying("a"), max_tokens=5000) == (400, 400, "context_length_exceeded")
    held = StandInUpstream([[1], [2]], held=True)
    assert end(held, gone=2, stream=True) == (200, 499, "client_gone")
    assert held.left == 1
    assert end(StandInUpstream([], held=True), gone=0) == (0, 499, "client_gone")


def test_a_client_that_does_not_read_is_given_up(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermetic.serve.openai.endpoint._GRACE_S", 0.0)
    hooks = Recorded()
    upstream = saying("some text")
    proxy = proxy_of(text, upstream, hooks, deadline_s=0.05)
    said = {"model": "m", "messages": ASK, "stream": True}
    ask(proxy, "POST", "/v1/chat/completions", said, reads=3)
    assert hooks.outcomes[0].error == "client_gone"
    assert upstream.left == 1


def test_a_request_that_does_not_come(text: Text) -> None:
    async def main() -> Any:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return await asyncio.get_running_loop().create_future()

        proxy = proxy_of(text, saying("a"), deadline_s=0.05)
        path = "/v1/chat/completions"
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "raw_path": b""}
        await proxy.app(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]

    assert asyncio.run(main()) == (408, "request_timeout")


@pytest.mark.parametrize("several", [1, 3])
def test_an_error_in_a_stream_is_its_last_event(text: Text, several: int) -> None:
    upstream = StandInUpstream([[97]], error=ApiError(502, "upstream_error", "it failed"))
    said = {"model": "m", "messages": ASK, "stream": True, "n": several}
    status, _, data = ask(proxy_of(text, upstream), "POST", "/v1/chat/completions", said)
    events = data.decode().strip().split("\n\n")
    assert status == 200
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "upstream_error"
    assert "[DONE]" not in data.decode()


def test_a_mistake_of_ours(text: Text) -> None:
    """Shaped for the client, raised for the log, told to the hooks."""
    hooks = Recorded()
    proxy = proxy_of(text, StandInUpstream([], error=RuntimeError("of a test")), hooks)
    with pytest.raises(RuntimeError, match="of a test"):
        ask(proxy, "POST", "/v1/chat/completions", {"model": "m", "messages": ASK})
    assert hooks.outcomes[0].status == 500


def test_readiness_has_reasons(text: Text) -> None:
    hooks = Recorded(reasons=["warm-up has not been done"])
    upstream = saying("a")
    proxy = proxy_of(text, upstream, hooks)
    status, _, data = ask(proxy, "GET", "/health/ready")
    assert (status, json.loads(data)["reasons"]) == (503, ["warm-up has not been done"])
    upstream.up = False
    assert len(json.loads(ask(proxy, "GET", "/health/ready")[2])["reasons"]) == 2
    assert ask(proxy, "GET", "/dashboard")[2] == b"page"


def test_the_hooks_own_chat(text: Text) -> None:
    hooks = Recorded()
    proxy = proxy_of(text, saying("warm"), hooks)
    found = asyncio.run(proxy.chat({"messages": ASK}))
    assert found["choices"][0]["message"]["content"] == "warm"
    assert hooks.facts == []
    down = proxy_of(text, StandInUpstream([], error=ApiError(503, "upstream_unavailable", "gone")))
    with pytest.raises(HermeticError) as caught:
        asyncio.run(down.chat({"messages": ASK}))
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "no-answer")


def test_requests_of_an_engine_that_was_exchanged_come_to_their_end(text: Text) -> None:
    """The next ones go to the other one; the first is done with when it has none any more."""
    hi = [{"role": "user", "content": "Hi"}]

    async def main() -> None:
        proxy = proxy_of(text, StandInUpstream([]))
        asked = [Asked(name, "chat.completions", {"model": "m", "messages": hi}, {}, 0) for name in "ab"]
        old = proxy.engines[""]
        running = await proxy._prepare(asked[0])
        with pytest.raises(ApiError):
            await proxy._prepare(Asked("c", "chat.completions", {"model": "m"}, {}, 0))  # which is none
        young = Engine("m", text, StandInUpstream([]), PROMISED, 0)  # type: ignore[arg-type]  # as above
        assert proxy.exchange(young) is old
        waiting = asyncio.ensure_future(proxy.done_with(old))
        other = await proxy._prepare(asked[1])
        assert (running.engine, other.engine) == (old, young)
        other.abandon()
        await asyncio.sleep(0)
        assert not waiting.done()
        running.abandon()
        await waiting

    asyncio.run(main())
