"""An engine's tokenizer: ``tokenizer.json``, its special tokens, its chat template."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2 import TemplateError
from tokenizers import Tokenizer

from hermetic.errors import Domain, HermeticError
from hermetic.serve.openai.detokenise import ByteTokens, Detokeniser, WindowTokens, byte_alphabet
from hermetic.serve.openai.template import ChatTemplate

__all__ = ["Text"]

_BYTE: Final = re.compile("<0x([0-9A-F]{2})>")
_SPECIALS: Final = ("bos_token", "eos_token", "pad_token", "unk_token")


class Text:
    """Text to ids and back. `ends` are the ids that end an answer, `template` is None for a model that does not chat.

    Raises `HermeticError` (environment/tokenizer-unusable) for a folder that lacks something or has it broken.
    """

    def __init__(self, folder: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
            described = _read(folder, "tokenizer_config.json")
            self.template = _template(folder, described)
            with open(os.path.join(folder, "tokenizer.json"), "rb") as stream:
                decoder = json.load(stream).get("decoder") or {}
        except (Exception, TemplateError) as error:  # the library raises nothing more precise
            message = f"the tokenizer in {folder} cannot be used: {error}"
            raise HermeticError(Domain.ENVIRONMENT, "tokenizer-unusable", message) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.ends = self._ends(folder, described)
        self._strip = False
        self._pieces = self._table(decoder)

    def encode(self, text: str, *, specials: bool) -> list[int]:
        """With `specials`, those that the tokenizer adds by itself; a chat template has written its own."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=specials).ids
        return ids

    def detokeniser(self) -> Detokeniser:
        """For one answer."""
        if self._pieces is None:
            return WindowTokens(self._tokenizer.decode)
        return ByteTokens(self._pieces, strip=self._strip)

    def one(self, token: int) -> bytes:
        """A token by itself, special ones too."""
        text = self._tokenizer.id_to_token(token) or ""
        if self._pieces is not None and 0 <= token < len(self._pieces):
            return self._pieces[token] or text.encode()
        decoded: str = self._tokenizer.decode([token]) or text
        return decoded.encode()

    @property
    def size(self) -> int:
        """How many ids there are."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def _ends(self, folder: str, described: Mapping[str, Any]) -> tuple[int, ...]:
        named = self._tokenizer.token_to_id(_token(described.get("eos_token")))
        listed = [_read(folder, name).get("eos_token_id") for name in ("generation_config.json", "config.json")]
        ids: list[Any] = [named]
        for one in listed:
            ids += one if isinstance(one, list) else [one]
        return tuple(dict.fromkeys(one for one in ids if isinstance(one, int)))

    def _table(self, decoder: Mapping[str, Any]) -> list[bytes] | None:
        """The bytes of every token, for decoders of the two kinds where a token has bytes of its own."""
        steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
        kinds = [step.get("type") for step in steps]
        if kinds == ["ByteLevel"]:
            alphabet = byte_alphabet()
            return self._bytes(lambda text: _piece(text, alphabet))
        if kinds in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
            self._strip = "Strip" in kinds
            mark, space = steps[0]["pattern"].get("String", ""), steps[0]["content"]
            return self._bytes(lambda text: _fallback(text, mark, space)) if mark else None
        return None

    def _bytes(self, piece: Callable[[str], bytes]) -> list[bytes]:
        specials = {token for token, added in self._tokenizer.get_added_tokens_decoder().items() if added.special}
        vocabulary = {token: text for text, token in self._tokenizer.get_vocab(with_added_tokens=True).items()}
        pieces = [b""] * (max(vocabulary, default=-1) + 1)
        for token, text in vocabulary.items():
            if token not in specials:
                pieces[token] = piece(text)
        return pieces


def _piece(text: str, alphabet: Mapping[str, int]) -> bytes:
    """A token with a character that stands for no byte stands for itself."""
    try:
        return bytes([alphabet[character] for character in text])
    except KeyError:
        return text.encode()


def _fallback(text: str, mark: str, space: str) -> bytes:
    """``<0x0A>`` is a byte."""
    found = _BYTE.fullmatch(text)
    return bytes([int(found[1], 16)]) if found else text.replace(mark, space).encode()


def _read(folder: str, name: str) -> dict[str, Any]:
    try:
        with open(os.path.join(folder, name), "rb") as stream:
            return dict(json.load(stream))
    except FileNotFoundError:
        return {}


def _token(described: Any) -> str:
    """A special token is a string, or an object that has it as its content."""
    return str(described.get("content", "")) if isinstance(described, Mapping) else described or ""


def _template(folder: str, described: Mapping[str, Any]) -> ChatTemplate | None:
    text = described.get("chat_template")
    if isinstance(text, list):
        named = {one["name"]: one["template"] for one in text}
        text = named.get("tool_use") or named.get("default")
    try:
        with open(os.path.join(folder, "chat_template.jinja"), encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        pass
    specials = {name: _token(described.get(name)) for name in _SPECIALS if described.get(name)}
    return ChatTemplate(text, specials) if text else None
