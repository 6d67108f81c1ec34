"""Requests as clients may send them. What is not here is refused by name, and never ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hermetic.serve.openai.errors import ApiError, invalid, unsupported

__all__ = ["Body", "ChatBody", "CompletionBody", "Message", "Tool", "parse", "read_json"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class FunctionCall(_Strict):
    name: str
    arguments: str


class ToolCall(_Strict):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Strict):
    """One of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("a message needs content")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id belongs to messages of the role tool, and they need it")
        return self

    def plain(self) -> dict[str, Any]:
        """For chat templates: content is a string, arguments of calls are objects."""
        said: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role}
        said["content"] = _joined(self.content)
        for name in ("name", "reasoning_content", "tool_call_id"):
            if getattr(self, name) is not None:
                said[name] = getattr(self, name)
        if self.tool_calls:
            said["tool_calls"] = [_plain_call(call) for call in self.tool_calls]
        return said


def _joined(content: str | list[TextPart] | None) -> str:
    return "".join(part.text for part in content) if isinstance(content, list) else content or ""


def _plain_call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = call.function.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


class Function(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """What the model may call."""

    type: Literal["function"]
    function: Function


class ChosenName(_Strict):
    name: str


class ChosenTool(_Strict):
    type: Literal["function"]
    function: ChosenName


class StreamOptions(_Strict):
    include_usage: bool | None = None


class NamedSchema(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema belongs to the type json_schema, which needs it")
        return self


_Stop = Annotated[str, Field(min_length=1, max_length=1024)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Body(_Strict):
    """What both ways of asking share. ``top_k``, ``repetition_penalty`` and ``min_tokens`` are not OpenAI's."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def length(self) -> int | None:
        """The most tokens that are wanted, if that was said."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatBody(Body):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: _Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None

    @property
    def length(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


_Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Ids = Annotated[list[_Id], Field(min_length=1)]


class CompletionBody(Body):
    """``POST /v1/completions``."""

    prompt: (
        str
        | _Ids
        | Annotated[list[str], Field(min_length=1, max_length=64)]
        | Annotated[list[_Ids], Field(min_length=1, max_length=64)]
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


B = TypeVar("B", bound=Body)
#: Parameters that are taken with one value only, which asks for nothing.
_HONOURED = {"parallel_tool_calls": True, "store": False, "echo": False, "best_of": 1}


def read_json(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises `ApiError`."""
    try:
        said = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise invalid(None, f"the body is not UTF-8: {error}", "invalid_json") from error
    except (ValueError, RecursionError) as error:
        raise invalid(None, f"the body is no JSON: {error}", "invalid_json") from error
    if b"\\ud" in data.lower():
        _insist_on_whole_characters(said)
    if not isinstance(said, dict):
        raise invalid(None, "the body is no JSON object", "invalid_json")
    return said


def _insist_on_whole_characters(said: Any) -> None:
    """JSON can write half of a surrogate pair, which no text can have."""
    try:
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise invalid(None, f"a text has half a character: {error}", "invalid_json") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse(kind: type[B], said: Mapping[str, Any]) -> B:
    """The request. Raises `ApiError` (400), naming the first parameter that is wrong or not known."""
    try:
        body = kind.model_validate(said)
    except ValidationError as error:
        raise _wrong(error) from None
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options", "stream_options needs stream: true")
    for name, honoured in _HONOURED.items():
        if getattr(body, name, None) not in (None, honoured):
            raise unsupported(name, f"{name} can only be {json.dumps(honoured)} here")
    return body


def _wrong(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = [str(one) for one in problem["loc"] if isinstance(one, int) or one.isidentifier()]
    name = ".".join(place) or None
    if problem["type"] == "extra_forbidden":
        return unsupported(str(name), f"unknown or unsupported parameter: {name}")
    if problem["type"] == "missing":
        return invalid(name, f"{name} is missing", "missing_required_parameter")
    message = problem["msg"].removeprefix("Value error, ")
    kind = "invalid_type" if problem["type"].endswith("_type") else "invalid_value"
    return invalid(name, f"{name}: {message}" if name else message, kind)
