"""Token ids to text, as they come: whole characters only, and the same work for the last token as for the first."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["ByteTokens", "Detokeniser", "WindowTokens", "byte_alphabet"]


class Detokeniser(Protocol):
    """One answer's. All that `feed` returned plus what `end` returns is the text of all ids together."""

    def feed(self, ids: Sequence[int]) -> str:
        """The text that is certain now and was not before."""

    def end(self) -> str:
        """The rest; what is no whole character is U+FFFD."""


class ByteTokens:
    """For vocabularies whose tokens are bytes; `pieces` are theirs, by id, empty for special ones. With `strip` one
    space at the beginning goes, as SentencePiece writes one before everything.
    """

    def __init__(self, pieces: Sequence[bytes], *, strip: bool = False) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = strip

    def feed(self, ids: Sequence[int]) -> str:
        pieces, count = self._pieces, len(self._pieces)
        text = self._decoder.decode(b"".join([pieces[one] for one in ids if 0 <= one < count]))
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text

    def end(self) -> str:
        return self._decoder.decode(b"", True)


#: No character has more bytes than four, each of which may be a token of its own.
_LONGEST = 4
#: Tokens without text, as special ones are, that are remembered together.
_SILENT = 8


class WindowTokens:
    """For all other vocabularies: a token's text may depend on those before it, so some of them are decoded again."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._said = 0  # how many of `_ids` have been said

    def feed(self, ids: Sequence[int]) -> str:
        return "".join([self._step(one) for one in ids])

    def _step(self, one: int) -> str:
        self._ids.append(one)
        before, now = self._decode(self._ids[: self._said]), self._decode(self._ids)
        broken = len(now) - len(now.rstrip("�"))
        silent = len(now) <= len(before) and len(self._ids) - self._said < _SILENT
        if silent or 0 < broken < _LONGEST:
            return ""
        self._ids = self._ids[self._said :]
        self._said = len(self._ids)
        return now[len(before) :]

    def end(self) -> str:
        before, now = self._decode(self._ids[: self._said]), self._decode(self._ids)
        self._ids, self._said = [], 0
        return now[len(before) :]


def byte_alphabet() -> dict[str, int]:
    """The byte that each character stands for in vocabularies of byte-level BPE: printable ones for themselves, the
    others by characters from U+0100 on (as in GPT-2's ``encoder.py``).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}
