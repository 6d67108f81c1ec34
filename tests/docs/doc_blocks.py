"""Documents as tests read them: fenced blocks, files and commands in those, and whether a `hermetic` call exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from hermetic.cli.app import main
from hermetic.errors import HermeticError

SHELL = frozenset({"sh", "bash", "console"})
_FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(hermetic [^`\n]+)`")
#: What ends one command and begins another.
_JOINTS = re.compile(r"\$\(|\)|\||&&|;")


@dataclass(frozen=True)
class Block:
    """What stands between two fences; `info` is what follows the language's name."""

    language: str
    info: str
    text: str

    @property
    def file(self) -> str:
        """The name that its first line gives it, ``# serve.py`` for instance; "" if it gives none."""
        found = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return found[1] if found and self.language not in SHELL else ""

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command of a console with the lines that are printed; in other shell blocks each line by itself."""
        joined = self.text.replace("\\\n", " ")
        if self.language != "console":
            return [(line, []) for line in joined.splitlines()]
        found: list[tuple[str, list[str]]] = []
        for line in joined.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found:
                found[-1][1].append(line)
        return found


def blocks(text: str) -> list[Block]:
    """All fenced blocks with a language, in order."""
    return [Block(found[2], found[3].strip(), found[4]) for found in _FENCE.finditer(text)]


def calls(text: str) -> Iterator[list[str]]:
    """The words after each `hermetic`, in shell blocks and in the text."""
    lines = [line for block in blocks(text) if block.language in SHELL for line, _ in block.commands]
    for line in (*lines, *_INLINE.findall(_FENCE.sub("", text))):
        for part in _JOINTS.split(line):
            words = _words(part)
            while words and re.match(r"\w+=|!$", words[0]):
                words = words[1:]
            if words and words[0] == "hermetic":
                yield words[1:]


def _words(part: str) -> list[str]:
    try:
        return shlex.split(part, comments=True)
    except ValueError:  # a quote that goes over the joint
        return part.split()


def problem(words: list[str]) -> str:
    """What is wrong with a call, or "". Words in capitals stand for something, and `...` for anything."""
    command: click.Command = main
    context = click.Context(main)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        names = [name.strip() for name in rest[0].split(",")]
        if names[0].isupper() or names[0] == "...":
            return ""
        try:
            _, found, rest = command.resolve_command(context, [names[0], *rest[1:]])
        except (HermeticError, click.UsageError):
            return f"there is no command {rest[0]}"
        assert found is not None
        command = found
    known = {spelling for parameter in command.params for spelling in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in _before_dashes(rest) if re.match(r"--?[a-zA-Z]", word)]
    unknown = [option for option in given if option not in known | {"--help", "-h", "--version"}]
    return f"there is no option {', '.join(unknown)}" if unknown else ""


def _before_dashes(words: list[str]) -> list[str]:
    return words[: words.index("--")] if "--" in words else words


def documents(repository: Path) -> list[Path]:
    """What tells people how to use it. Decision records tell what was, so they are not among them."""
    folder = repository / "docs"
    return [
        repository / "README.md",
        repository / "deploy" / "README.md",
        *sorted(folder.glob("*.md")),
        *sorted((folder / "from").glob("*.md")),
    ]
