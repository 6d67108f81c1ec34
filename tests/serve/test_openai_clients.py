"""OpenAI's own Python client, unmodified, against the tiny engine behind a real Triton."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai_kit import ANSWER, MODEL, QUESTION, Api


@pytest.fixture(scope="module")
def client(api: Api) -> OpenAI:
    return api.client()


def ask(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "temperature": 0} | more)


def test_an_answer(client: OpenAI) -> None:
    answer = ask(client)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 14
    assert answer.usage.completion_tokens == 36
    assert answer.usage.total_tokens == 50
    assert answer.system_fingerprint.startswith("fp_")


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_a_stream(client: OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} == {None}
    assert len(chunks) > 30
    assert len({chunk.id for chunk in chunks}) == 1


def test_what_a_stream_used(client: OpenAI) -> None:
    chunks = list(ask(client, stream=True, max_tokens=5, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5
    assert chunks[-1].usage.prompt_tokens == 14
    assert chunks[-2].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_asynchronous_client(api: Api) -> None:
    async def main() -> tuple[list[Any], str]:
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="none", max_retries=0) as client:
            given: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0}
            several = await asyncio.gather(*[client.chat.completions.create(**given) for _ in range(4)])
            stream = await client.chat.completions.create(**given, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return [answer.choices[0].message.content for answer in several], text

    assert asyncio.run(main()) == ([ANSWER] * 4, ANSWER)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", ["holds", ["never", "t holds the"], ["older th", "r t"]])
def test_stop_strings(client: OpenAI, stop: Any, stream: bool) -> None:
    """Of any length, wherever tokens begin; of several, whichever is whole first."""
    stops = [stop] if isinstance(stop, str) else stop
    wanted = ANSWER[: min((ANSWER.find(one) + len(one), ANSWER.find(one)) for one in stops if one in ANSWER)[1]]
    answer = ask(client, stop=stop, stream=stream)
    if not stream:
        assert answer.choices[0].message.content == wanted
        assert answer.choices[0].finish_reason == "stop"
        return
    chunks = list(answer)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_length(client: OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(client, **{name: 4})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 4
        assert ANSWER.startswith(answer.choices[0].message.content)


def test_seeds(client: OpenAI) -> None:
    """The same seed makes the same answer, another one another, and none is a new one each time."""

    def said(**more: Any) -> str:
        given = {"temperature": 2, "max_tokens": 24, "extra_body": {"top_k": 2000}} | more
        return str(ask(client, **given).choices[0].message.content)

    assert said(seed=7) == said(seed=7)
    assert said(seed=7) != said(seed=8)
    assert said() != said()
    assert said(seed=-1)


def test_several_answers(client: OpenAI) -> None:
    answer = ask(client, n=3, temperature=2, max_tokens=16, seed=1)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer.usage.prompt_tokens == 14
    assert answer.usage.completion_tokens == 48
    alike = ask(client, n=3, max_tokens=64, stream=True)
    streamed = ["", "", ""]
    for chunk in alike:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == [ANSWER] * 3


def test_log_probabilities(client: OpenAI) -> None:
    answer = ask(client, logprobs=True, max_tokens=6)
    content = answer.choices[0].logprobs.content
    assert "".join(one.token for one in content) == answer.choices[0].message.content
    assert all(-5 < one.logprob <= 0 for one in content)
    assert bytes(content[0].bytes).decode() == content[0].token
    streamed = [
        one
        for chunk in ask(client, logprobs=True, max_tokens=6, stream=True)
        if chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content
    ]
    assert [one.token for one in streamed] == [one.token for one in content]


def test_a_schema_is_kept_to(client: OpenAI) -> None:
    """An engine as small as this one would put space between the parts of an object for ever."""
    schema = {"type": "string", "enum": ["crimson", "ultramarine"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "pick", "schema": schema, "strict": True}}
    said = ask(client, response_format=form, max_tokens=60).choices[0]
    assert json.loads(said.message.content) in schema["enum"]
    assert said.finish_reason == "stop"
    anything = ask(client, response_format={"type": "json_object"}, max_tokens=8)
    assert anything.choices[0].message.content.startswith("{")


def test_completions(client: OpenAI) -> None:
    prompt = "<|im_start|>user\nWhat is a store path?<|im_end|>\n<|im_start|>assistant\n"
    answer = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=64)
    assert answer.choices[0].text == ANSWER
    chunks = list(client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=64, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"
    short = client.completions.create(model=MODEL, prompt=prompt, temperature=0)
    assert short.usage is not None
    assert short.usage.completion_tokens == 16


def test_several_prompts(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["A store path is", "The key"], temperature=0, max_tokens=3, logprobs=0
    )
    alone = client.completions.create(model=MODEL, prompt="The key", temperature=0, max_tokens=3)
    ids = client.completions.create(model=MODEL, prompt=[1, 2, 3], temperature=0, max_tokens=3)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[1].text == alone.choices[0].text
    assert len(answer.choices[1].logprobs.token_logprobs) == 3  # type: ignore[union-attr,arg-type]
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3


def test_errors_are_the_client_s_own(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, temperature=3)
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "temperature",
        "invalid_value",
        "invalid_request_error",
    )
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, max_tokens=4000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as other:
        ask(client, model="gpt-4")
    assert other.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="a")


def test_headers(client: OpenAI, api: Api) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=1,
        extra_headers={"X-Request-Id": "mine-1"},  # type: ignore[arg-type]
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-engine-hash"] == api.ready["engine"]
    assert raw.headers["x-quantisation"] == "int4_sym"
