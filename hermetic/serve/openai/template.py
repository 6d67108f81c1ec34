"""A tokenizer's chat template, run where it can change nothing."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hermetic.serve.openai.errors import invalid

__all__ = ["ChatTemplate"]


class ChatTemplate:
    """What transformers calls ``apply_chat_template``, with the same names in reach of the template.

    `thinks` and `calls` say whether the template knows of ``<think>`` and of ``<tool_call>``, as those of the Qwen and
    Hermes families do. Raises `jinja2.TemplateError` for a template that is none.
    """

    def __init__(self, text: str, specials: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        self._template = environment.from_string(text)
        self._specials = dict(specials)
        self.thinks = "<think>" in text or "</think>" in text
        self.calls = "<tool_call>" in text and "tools" in text

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, more: Mapping[str, Any]
    ) -> str:
        """The prompt. Raises `ApiError` for messages that the template does not take."""
        given = {**self._specials, **more, "messages": messages, "tools": tools, "add_generation_prompt": True}
        try:
            text: str = self._template.render(given)
        except (
            TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            # What a template does with a message of another form than it expects is any of these.
            raise invalid("messages", f"the model's chat template does not take these messages: {error}") from error
        return text


def _to_json(value: Any, indent: int | None = None, **more: Any) -> str:
    """jinja2's own would write HTML's entities."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **more)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now(tz=datetime.UTC).strftime(form)
