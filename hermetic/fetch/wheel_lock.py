"""Reads a wheel lock: requirements format with a version and sha256 hashes on every entry, and nothing else.

``uv pip compile --universal --generate-hashes`` writes it. A lock says what, never where: addresses, paths, options
and editable entries are refused with their line, because a key must not depend on where an index lies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hermetic import canonical
from hermetic.digest import EntryDigest, derive
from hermetic.errors import Domain, HermeticError, HermeticErrors

__all__ = ["Pin", "WheelLock", "parse_lock"]

_CONTEXT: Final = "hermetic wheel lock v1"
_COMMENT: Final = re.compile(r"(^|\s)#.*$")
_ENTRY: Final = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[(?P<extras>[^\]]*)\])?\s*(?P<rest>.*)")
_VERSION: Final = re.compile(r"===?\s*([A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_HASH: Final = re.compile(r"--hash[=\s]\s*(\S+)")
_SHA256: Final = re.compile(r"sha256:([0-9a-f]{64})")
_ADDRESS: Final = re.compile(r"@\s*\S|^[A-Za-z][A-Za-z0-9+]*://")
_PATH: Final = re.compile(r"^(\.{0,2}/|file:|~)|\.(whl|tar\.gz|zip)$")


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """One entry. `marker` is "" for every platform; `hashes` are sha256 in lower-case hexadecimal, sorted."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def line(self) -> str:
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{marker} " + " ".join(f"--hash=sha256:{each}" for each in self.hashes)


@dataclass(frozen=True, slots=True)
class WheelLock:
    """The pins in order of name, version and marker."""

    pins: tuple[Pin, ...]

    @property
    def digest(self) -> EntryDigest:
        """What stands for the lock in keys: names, versions, markers and hashes; not comments and not their order."""
        value: list[canonical.Value] = [
            {"name": pin.name, "version": pin.version, "marker": pin.marker, "hashes": list(pin.hashes)}
            for pin in self.pins
        ]
        return derive(EntryDigest, _CONTEXT, canonical.encode(value))

    def text(self) -> str:
        """The lock as an installer reads it, holding exactly what `digest` covers."""
        return "".join(f"{pin.line()}\n" for pin in self.pins)


def parse_lock(text: str, where: str) -> WheelLock:
    """The pins of `text`, which came from the file `where` (for messages only).

    Raises `HermeticError` (recipe/lock-…) naming file and line; several findings come together as `HermeticErrors`.
    """
    pins: dict[tuple[str, str], Pin] = {}
    errors: list[HermeticError] = []
    for number, line in _logical_lines(text):
        try:
            pin = _pin(line)
            if (pin.name, pin.marker) in pins:
                raise _FindingError("lock-duplicate", f"{pin.name} is listed twice for the same platforms")
            pins[pin.name, pin.marker] = pin
        except _FindingError as finding:
            message = f"{where}:{number}: {finding.message}"
            errors.append(HermeticError(Domain.RECIPE, finding.reason, message, hint=_HINT))
    if errors:
        raise errors[0] if len(errors) == 1 else HermeticErrors(errors)
    return WheelLock(tuple(sorted(pins.values())))


_HINT: Final = "make the lock with: uv pip compile --universal --generate-hashes --no-annotate -o LOCK REQUIREMENTS.in"


class _FindingError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Entries with their first line's number; a backslash continues a line, a comment ends with its own."""
    pending, first = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).rstrip()
        first = first if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        joined = (pending + line).strip()
        pending = ""
        if joined:
            yield first, joined
    if pending.strip():
        yield first, pending.strip()


def _pin(line: str) -> Pin:
    hashes = _hashes(line)
    body = _HASH.sub("", line).strip()
    _refuse_foreign(body)
    head, _, marker = body.partition(";")
    match = _ENTRY.fullmatch(head.strip())
    if match is None:
        raise _FindingError("lock-syntax", f"{head.strip()!r} is no requirement")
    version = _VERSION.fullmatch(match["rest"].strip())
    if version is None:
        raise _FindingError("lock-unpinned", f"{match['name']} is not pinned to one version with ==")
    if not hashes:
        raise _FindingError("lock-hash-missing", f"{match['name']} has no --hash=sha256:…")
    return Pin(_normal(match["name"]), version[1], _marker(marker), hashes)


def _hashes(line: str) -> tuple[str, ...]:
    found = set()
    for text in _HASH.findall(line):
        match = _SHA256.fullmatch(text)
        if match is None:
            raise _FindingError("lock-hash-kind", f"{text!r} is not sha256: and 64 lower-case hexadecimal digits")
        found.add(match[1])
    return tuple(sorted(found))


def _refuse_foreign(body: str) -> None:
    if re.match(r"(-e|--editable)\b", body):
        raise _FindingError("lock-editable", "an editable entry has no fixed content")
    if body.startswith("-"):
        raise _FindingError("lock-option", f"the option {body.split(maxsplit=1)[0]!r} belongs into the configuration")
    head = body.partition(";")[0]
    if _ADDRESS.search(head):
        raise _FindingError(
            "lock-url", f"{head.strip()!r} names an address; a lock holds names, versions and hashes only"
        )
    if _PATH.search(head.strip()):
        raise _FindingError("lock-path", f"{head.strip()!r} is a path; a lock holds names, versions and hashes only")
    if "--" in body:
        raise _FindingError("lock-option", f"unknown option in {body!r}")


def _normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _marker(text: str) -> str:
    """One spelling for spaces and quotes; nothing in a marker's strings holds either."""
    return " ".join(text.replace("'", '"').split())
