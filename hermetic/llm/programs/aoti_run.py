"""An engine of AOTInductor at work: logits of a prompt, and the greedy answer token by token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from aoti_compile import device_of
from aoti_settings import NAME
from jinja2.sandbox import ImmutableSandboxedEnvironment
from stage_file import Refused, read_json
from tokenizers import Tokenizer
from torch import _inductor as inductor


class Engine:
    """The folder that the stage `engine` makes."""

    def __init__(self, folder: Path) -> None:
        self.about = read_json(folder / "engine.json")
        self.device = device_of(self.about)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.generation = read_json(folder / "generation_config.json")
        self.template = read_json(folder / "tokenizer_config.json").get("chat_template") or ""
        self._model = inductor.aoti_load_package(str(folder / NAME))

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """[length, vocabulary]; a prompt of one token is read twice, because the engine takes two or more."""
        padded = tokens if len(tokens) > 1 else [*tokens, tokens[0]]
        if len(padded) > self.about["longest"]:
            raise Refused(f"{len(padded)} tokens; this engine takes {self.about['longest']}")
        with torch.no_grad():
            found: torch.Tensor = self._model(torch.tensor([padded], dtype=torch.int64, device=self.device))[0]
        return found[: len(tokens)]

    def asked(self, prompt: str, system: str = "") -> list[int]:
        """The tokens of a chat where the model knows chats, else those of the bare prompt."""
        if not self.template:
            return self._encode(prompt)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(self.template)
        return self._encode(template.render(messages=messages, add_generation_prompt=True))

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=not self.template).ids
        return tokens

    def answer(self, asked: list[int], limit: int) -> Iterator[int]:
        """Token after token, the most probable each; ends with a stop token, which is not given, or at `limit`."""
        stop: Any = self.generation.get("eos_token_id")
        stops = set(stop if isinstance(stop, list) else [stop])
        tokens = list(asked)
        for _ in range(min(limit, self.about["longest"] - len(asked))):
            token = int(self.logits(tokens)[-1].argmax())
            if token in stops:
                return
            yield token
            tokens.append(token)
