"""From a request to what the engine is asked: prompt, lengths, settings, guide. Pure, but for the tokenizer."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from hermetic.serve.openai.bodies import Body, ChatBody, ChosenTool, CompletionBody, NamedSchema, Tool
from hermetic.serve.openai.choice import Choice
from hermetic.serve.openai.engine import Engine
from hermetic.serve.openai.errors import ApiError, invalid, unsupported
from hermetic.serve.openai.parts import Parts
from hermetic.serve.openai.settings import Thinking
from hermetic.serve.openai.upstream import Ask

__all__ = ["Plan", "Prompts", "Way", "plan", "prompts"]

_SHORT = 16  #: The answer's tokens that ``/v1/completions`` gives to who does not say.
#: Inputs of the engine by the parameter they stand for.
_SETTINGS = {
    "top_k": "runtime_top_k",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "min_tokens": "min_tokens",
}


@dataclass(frozen=True)
class Way:
    """How the text of an answer is to be read."""

    thinking: bool = False
    inside: bool = False
    calls: bool = False
    forced: bool = False


@dataclass(frozen=True)
class Prompts:
    """Token ids of each, and the way that the prompt has begun."""

    ids: Sequence[Sequence[int]]
    way: Way = Way()

    @property
    def longest(self) -> int:
        return max(map(len, self.ids))


@dataclass(frozen=True)
class Plan:
    """One `Ask` for each answer, in the order of their ``index``."""

    asks: Sequence[Ask]
    way: Way
    stops: Sequence[str]

    def choice(self, engine: Engine, index: int) -> Choice:
        """The answer that `index` asks for, still empty."""
        parts = Parts(**vars(self.way))
        return Choice(engine.text, parts, self.stops, self.asks[index].max_tokens)


def prompts(body: Body, engine: Engine, thinking: Thinking) -> Prompts:
    """Text to ids. Raises `ApiError` (400)."""
    if isinstance(body, ChatBody):
        found = _chat(body, engine, thinking)
    else:
        assert isinstance(body, CompletionBody)
        found = Prompts([_encoded(one, engine) for one in body.prompts])
    if min(map(len, found.ids)) == 0:
        raise invalid("prompt", "a prompt has no tokens")
    return found


def _encoded(prompt: str | list[int], engine: Engine) -> list[int]:
    if isinstance(prompt, str):
        return engine.text.encode(prompt, specials=True)
    if max(prompt) >= engine.text.size:
        raise invalid("prompt", f"token {max(prompt)} is none of the model's {engine.text.size}")
    return prompt


def _chat(body: ChatBody, engine: Engine, thinking: Thinking) -> Prompts:
    template = engine.text.template
    if template is None:
        raise unsupported("messages", f"the model {engine.model} has no chat template: ask /v1/completions")
    if body.tools and not template.calls:
        raise unsupported("tools", f"the chat template of {engine.model} knows no tools of the Hermes form")
    used = bool(body.tools) and body.tool_choice != "none"
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] if used else None
    text = template.render([one.plain() for one in body.messages], tools, body.chat_template_kwargs or {})
    thinks = thinking != "keep" and template.thinks
    forced = used and (body.tool_choice == "required" or isinstance(body.tool_choice, ChosenTool))
    inside = thinks and text.rstrip().endswith("<think>")
    way = Way(thinks and not forced, inside and not forced, used and not forced, forced)
    return Prompts([engine.text.encode(text, specials=False)], way)


def plan(body: Body, found: Prompts, engine: Engine) -> Plan:
    """What the engine is asked. Raises `ApiError` (400) for lengths and settings that cannot be."""
    guide = _guide(body) if isinstance(body, ChatBody) else None
    settings = _settings(body)
    seed = body.seed if body.seed is not None else secrets.randbits(63)
    asks: list[Ask] = []
    for ids in found.ids:
        length = _length(body, len(ids), engine)
        for _ in range(body.n or 1):
            own = {**settings, "seed": (seed + len(asks)) % 2**64}
            asks.append(Ask(ids, length, own, guide))
    return Plan(asks, found.way, body.stops)


def _settings(body: Body) -> dict[str, float | int | bool]:
    """OpenAI's defaults where nothing is said: temperature 1, all tokens."""
    settings: dict[str, float | int | bool] = {"temperature": 1.0 if body.temperature is None else body.temperature}
    settings["runtime_top_p"] = 1.0 if body.top_p is None else body.top_p
    for name, ours in _SETTINGS.items():
        value = getattr(body, name)
        if value is not None:
            settings[ours] = value
    if wants_scores(body):
        settings["return_log_probs"] = True
    return settings


def wants_scores(body: Body) -> bool:
    """Whether log probabilities are wanted. Raises `ApiError`: tokens not taken have none."""
    if isinstance(body, ChatBody):
        if body.top_logprobs and not body.logprobs:
            raise invalid("top_logprobs", "top_logprobs needs logprobs: true")
        if body.top_logprobs:
            raise unsupported("top_logprobs", "the engine says the probability of the chosen token only")
        return bool(body.logprobs)
    assert isinstance(body, CompletionBody)
    if body.logprobs:
        raise unsupported("logprobs", "the engine says the probability of the chosen token only: logprobs may be 0")
    return body.logprobs is not None


def length_of(body: Body, prompt: int, engine: Engine) -> int:
    """The most tokens that an answer gets."""
    if body.length is not None:
        return body.length
    room = max(1, engine.max_seq_len - prompt)
    return room if isinstance(body, ChatBody) else min(_SHORT, room)


def _length(body: Body, prompt: int, engine: Engine) -> int:
    length, most = length_of(body, prompt, engine), engine.max_seq_len
    if prompt + length > most:
        message = f"the model's context is {most} tokens, and this asks for {prompt} of the prompt and {length} more"
        name = "messages" if isinstance(body, ChatBody) else "prompt"
        raise ApiError(400, "context_length_exceeded", message, param=name)
    if body.min_tokens is not None and body.min_tokens > length:
        raise invalid("min_tokens", f"min_tokens is more than the {length} tokens of an answer")
    return length


def _guide(body: ChatBody) -> tuple[str, str | None] | None:
    forced = _forced(body)
    form = body.response_format
    if form is None or form.type == "text":
        return forced
    if body.tools and body.tool_choice != "none":
        raise unsupported("response_format", "a format for the answer and tools cannot be asked for together")
    if form.json_schema is None:
        return ("json", None)
    _check(form.json_schema.schema_, "response_format.json_schema.schema")
    return ("json_schema", json.dumps(form.json_schema.schema_))


def _forced(body: ChatBody) -> tuple[str, str | None] | None:
    """A call that must be made is a JSON object of a form."""
    choice, tools = body.tool_choice, body.tools or []
    if choice is None or choice in ("none", "auto"):
        return None
    if isinstance(choice, ChosenTool):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
    if not tools:
        raise invalid("tool_choice", "tool_choice names no tool of this request")
    forms = [_form(tool, index) for index, tool in enumerate(tools)]
    return ("json_schema", json.dumps(forms[0] if len(forms) == 1 else {"anyOf": forms}))


def _form(tool: Tool, index: int) -> dict[str, Any]:
    arguments: Mapping[str, Any] = tool.function.parameters or {"type": "object"}
    _check(arguments, f"tools.{index}.function.parameters")
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _check(schema: Mapping[str, Any], name: str) -> None:
    """The engine finds out late what is no schema, and at the cost of others."""
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError) as error:
        said = error.message if isinstance(error, SchemaError) else "it is too deep"
        raise invalid(name, f"{name} is no JSON schema: {said}") from None


def schema_of(body: Body) -> NamedSchema | None:
    """The schema that the answer must have, if one was given."""
    form = body.response_format if isinstance(body, ChatBody) else None
    return form.json_schema if form is not None else None
