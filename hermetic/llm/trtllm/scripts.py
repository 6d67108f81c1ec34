"""Shell scripts that call TensorRT-LLM's tools: each of their command lines against the release that would run them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.llm.findings import Finding, Severity
from hermetic.llm.trtllm.commandline import parse
from hermetic.llm.trtllm.options import table

__all__ = ["RELEASE", "lint_script"]

#: The last stable release that builds engines, against which a script is held if nothing else is said.
RELEASE: Final = "1.2.1"
_TOOLS: Final = ("trtllm-build", "trtllm-bench", "quantize.py", "convert_checkpoint.py")
_ENDS: Final = frozenset(";&|<>()")
#: What cannot be judged of a word that the shell fills in.
_OF_VALUES: Final = frozenset({"wrong-value", "stray-word"})


def lint_script(file: str, release: str = RELEASE) -> list[Finding]:
    """Findings about the command lines in `file`, with its lines, and each put right where it has errors.

    Raises `HermeticError`: usage/no-recipe, recipe/unknown-version.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise HermeticError(Domain.USAGE, "no-recipe", f"{file} cannot be read: {error}") from error
    called = [(line, words) for line, whole in _logical(text) for words in _calls(whole)]
    if not called:
        message = f"no call of {', '.join(_TOOLS)}"
        return [Finding("nothing-to-check", Severity.NOTE, "", message, file=file)]
    return [replace(one, file=file, line=line) for line, words in called for one in _judged(words, release)]


def _judged(words: list[str], release: str) -> Iterator[Finding]:
    tool, rest = os.path.basename(words[0]), words[1:]
    if tool == "trtllm-bench":
        if "build" not in rest:
            return
        tool, rest = "trtllm-bench build", rest[rest.index("build") + 1 :]
    parsed = parse(rest, table(tool, release))
    found = [one for one in parsed.findings if not (one.code in _OF_VALUES and "$" in one.message)]
    yield from found
    if any(one.severity is Severity.ERROR for one in found):
        yield Finding("corrected", Severity.NOTE, tool, f"{tool} {_shown(parsed.corrected)}")


def _shown(words: list[str]) -> str:
    """As somebody would write it, with what the shell fills in left to it."""
    return " ".join(f'"{word}"' if "$" in word else shlex.quote(word) for word in words)


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Lines with those that a backslash joins to them, and the number of the first."""
    first, whole = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        first, whole = (first, whole) if whole else (number, "")
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            whole += line[:-1] + " "
            continue
        yield first, whole + line
        whole = ""


def _calls(line: str) -> Iterator[list[str]]:
    """Each call of a tool in `line`, from the tool's name on; also inside of what another shell is given."""
    if not any(tool in line for tool in _TOOLS):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "$@{}:%,+^!"
    try:
        words = list(lexer)
    except ValueError:  # a quotation over several lines, which only a shell can read
        return
    call: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= _ENDS:
            if call:
                yield call
            call = []
        elif call or os.path.basename(word) in _TOOLS:
            call.append(word)
        elif any(character.isspace() for character in word):
            yield from _calls(word)
