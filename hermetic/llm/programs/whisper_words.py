"""The tokens of Whisper, from the file that OpenAI publishes them in. Standard library only.

Ordinary tokens are the lines of ``multilingual.tiktoken`` or ``gpt2.tiktoken``; the numbers after them are what steers
the model, in the order of openai/whisper, whisper/tokenizer.py at c0d2f624.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

#: Of models for many languages, and of those for English.
FILES: Final = ("multilingual.tiktoken", "gpt2.tiktoken")
_LANGUAGES: Final = (
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id", "hi", "fi",
    "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg", "lt", "la", "mi", "ml",
    "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br", "eu", "is", "hy", "ne", "mn", "bs",
    "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd", "gu", "am",
    "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln",
    "ha", "ba", "jw", "su", "yue"
)  # fmt: skip
_AFTER: Final = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
_TIMESTAMPS: Final = 1501


class Unknown(ValueError):  # noqa: N818  # reads as what happened
    """The vocabulary is of no model that is known, or lacks what was asked for; the message says why."""


class Words:
    """`end` is the token that ends a transcript, `size` how many there are."""

    def __init__(self, folder: Path, size: int) -> None:
        """Of the only vocabulary in `folder`, for a model of `size` tokens. Raises `Unknown`."""
        found = [name for name in FILES if (folder / name).is_file()]
        if len(found) != 1:
            raise Unknown(f"{folder.name} has {' and '.join(found) or 'no vocabulary'}; needed is one of {FILES}")
        self._tokens = _read(folder / found[0])
        self.end, self.size = len(self._tokens), size
        languages = size - self.end - 2 - len(_AFTER) - _TIMESTAMPS
        if not 0 < languages <= len(_LANGUAGES):
            raise Unknown(f"{found[0]} has {self.end} tokens, and no model of {size} is made with it")
        self.multilingual = found[0] == FILES[0]
        steering = ("endoftext", "startoftranscript", *_LANGUAGES[:languages], *_AFTER)
        self._steering = {name: self.end + place for place, name in enumerate(steering)}

    def start(self, language: str, task: str) -> list[int]:
        """What the decoder begins with, without timestamps; of a model for English alone neither is said."""
        return self.numbers(["startoftranscript", *((language, task) if self.multilingual else ()), "notimestamps"])

    def numbers(self, names: list[str]) -> list[int]:
        """Of tokens that steer, such as "startoftranscript". Raises `Unknown`."""
        unknown = [name for name in names if name not in self._steering]
        if unknown:
            raise Unknown(f"the model has no <|{unknown[0]}|>")
        return [self._steering[name] for name in names]

    def text(self, tokens: list[int]) -> str:
        """Without what steers."""
        return b"".join(self._tokens[token] for token in tokens if token < self.end).decode("utf-8", "replace").strip()


def _read(path: Path) -> list[bytes]:
    ranked: dict[int, bytes] = {}
    for line in path.read_bytes().splitlines():
        if line:
            token, _, rank = line.partition(b" ")
            ranked[int(rank)] = base64.b64decode(token)  # one line is "= 50256", the empty text
    if sorted(ranked) != list(range(len(ranked))):
        raise Unknown(f"{path.name} leaves out some numbers of tokens")
    return [ranked[rank] for rank in range(len(ranked))]
