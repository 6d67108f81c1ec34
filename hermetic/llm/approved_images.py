"""Which images stages may run in: an organisation's file, and how another image gets into it.

::

    [[approved]]
    reference = "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"
    digest = "sha256:..."            # exactly this manifest, wherever it is mirrored; without it any one of the tag

    [[testing]]                      # only with `hermetic realise --test-images`
    reference = "registry.example.com/trtllm-builder:1.2.1-2"
    digest = "sha256:..."
    replaces = "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"      # refused in its favour, once this one is promoted

    [[promoted]]                     # appended by `hermetic image promote`, with the smoke test that it rests on
    reference = "registry.example.com/trtllm-builder:1.2.1-2"
    digest = "sha256:..."
    tested = "..."

Nothing is ever put in the place of what a recipe says: an image is refused, and the message says which one to give.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.llm.findings import Finding, Severity, raise_errors
from hermetic.recipe import Image, Stage

__all__ = ["ApprovedImages", "Entry", "findings", "insist", "insist_on", "promote", "read"]

_FIELDS: Final = {
    "approved": {"reference": False, "digest": True},
    "testing": {"reference": False, "digest": False, "replaces": True},
    "promoted": {"reference": False, "digest": False, "tested": False},
}
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """An image of the file. `reference` has no digest; `tested` is the key of the smoke test it was promoted with."""

    reference: str
    digest: str = ""
    replaces: str = ""
    tested: str = ""

    def is_of(self, image: Image) -> bool:
        """By its digest where both have one, else by its name; what is not locked is not built."""
        if self.digest and image.digest:
            return self.digest == image.digest
        return self.reference == _name(image.reference)


@dataclass(frozen=True)
class ApprovedImages:
    """What `file` says."""

    file: str
    approved: tuple[Entry, ...]
    testing: tuple[Entry, ...]

    def judge(self, image: Image) -> Finding | None:
        """None for an approved image; ``image-in-test`` (a warning), ``image-replaced`` or ``image-not-approved``."""
        name = _name(image.reference)
        instead = next((entry for entry in self.approved if entry.replaces == name), None)
        if instead is not None and not instead.is_of(image):
            message = f"the image {name} is replaced by {instead.reference} ({self.file})"
            hint = f"use {instead.reference}@{instead.digest}"
            return Finding("image-replaced", Severity.ERROR, "environment", message, hint, self.file)
        if any(entry.is_of(image) for entry in self.approved):
            return None
        if any(entry.is_of(image) for entry in self.testing):
            message = f"the image {name} is in test and not approved ({self.file})"
            hint = f"hermetic realise --test-images RECIPE#smoke, then hermetic image promote {name} ITS-STORE-PATH"
            return Finding("image-in-test", Severity.WARNING, "environment", message, hint, self.file)
        listed = ", ".join(sorted(entry.reference for entry in self.approved)) or "none"
        message = f"the image {image.reference} is not approved; approved: {listed}"
        hint = (
            f"list it with its digest under [[testing]] in {self.file}, test it, and promote it: hermetic image --help"
        )
        return Finding("image-not-approved", Severity.ERROR, "environment", message, hint, self.file)


def read(file: str) -> ApprovedImages:
    """The images of `file`. Raises `HermeticError` (usage/bad-approved-images)."""
    try:
        with open(file, "rb") as stream:
            document = tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise _bad(file, str(error)) from error
    unknown = sorted(set(document) - set(_FIELDS))
    if unknown:
        raise _bad(file, f"there is no table {', '.join(unknown)}; there are {', '.join(_FIELDS)}")
    lists = {kind: tuple(_entries(file, kind, document.get(kind, []))) for kind in _FIELDS}
    tested = {(entry.reference, entry.digest): entry for entry in lists["testing"]}
    promoted = []
    for entry in lists["promoted"]:
        found = tested.pop((entry.reference, entry.digest), None)
        if found is None:
            raise _bad(file, f"{entry.reference} is promoted, and [[testing]] does not have it with that digest")
        promoted.append(replace(found, tested=entry.tested))
    return ApprovedImages(file, (*lists["approved"], *promoted), tuple(tested.values()))


def findings(approved: ApprovedImages, stages: Iterable[tuple[Stage, str]]) -> Iterator[Finding]:
    """What speaks against the images of `stages`, which come with their names; each image once."""
    seen = set()
    for stage, name in stages:
        for image in (stage.environment, stage.run_environment):
            if not isinstance(image, Image) or (image.reference, image.digest) in seen:
                continue
            seen.add((image.reference, image.digest))
            found = approved.judge(image)
            if found is not None:
                place = stage.where
                file, line = (place.file, place.line) if place else ("", 0)
                yield replace(found, where=f"{name}: {found.where}", file=file, line=line)


def insist(approved: ApprovedImages, stages: Iterable[tuple[Stage, str]], *, testing: bool) -> list[Finding]:
    """Stop for an image of `stages` that is not approved, or in test without `testing`; what is to be said otherwise.

    Raises `HermeticError` (trust/image-…).
    """
    return _insist(findings(approved, stages), testing=testing)


def insist_on(approved: ApprovedImages, image: Image, where: str) -> None:
    """The same for one image, in which `where` will be started."""
    found = approved.judge(image)
    _insist([replace(found, where=where)] if found is not None else [], testing=False)


def _insist(found: Iterable[Finding], *, testing: bool) -> list[Finding]:
    said = list(found)
    allowed = [one for one in said if one.severity is Severity.WARNING and testing]
    raise_errors([replace(one, severity=Severity.ERROR) for one in said if one not in allowed], Domain.TRUST)
    return allowed


def promote(approved: ApprovedImages, reference: str, preimage: dict[str, Any], key: str) -> Entry:
    """Append to the file that `reference` was promoted, on the word of a smoke test that passed in it.

    `preimage` and `key` are the test's. Raises `HermeticError`: usage/image-not-in-test, trust/not-a-test if the stage
    is no smoke test, or one of another image.
    """
    entry = next((one for one in approved.testing if one.reference == _name(reference)), None)
    if entry is None:
        hint = f"list it with its digest under [[testing]] in {approved.file}"
        raise HermeticError(Domain.USAGE, "image-not-in-test", f"{reference} is not in test", hint=hint)
    where: Any = preimage.get("environment")
    manifest = where.get("manifest") if isinstance(where, dict) else None
    if not str(preimage.get("stage", "")).endswith(".smoke") or manifest != entry.digest:
        message = (
            f"{preimage.get('name')} ({preimage.get('stage')}) is no smoke test in {entry.reference}@{entry.digest}"
        )
        hint = "hermetic realise --test-images RECIPE#smoke prints the path of one"
        raise HermeticError(Domain.TRUST, "not-a-test", message, hint=hint)
    fields = {"reference": entry.reference, "digest": entry.digest, "tested": key}
    _append(approved.file, "\n[[promoted]]\n" + "".join(f"{name} = {json.dumps(fields[name])}\n" for name in fields))
    read(approved.file)
    return replace(entry, tested=key)


def _append(file: str, text: str) -> None:
    """All of it or nothing."""
    with open(file, encoding="utf-8") as stream:
        whole = stream.read()
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=os.path.dirname(os.path.abspath(file)), delete=False
    ) as partial:
        partial.write(whole + ("" if whole.endswith("\n") else "\n") + text)
    os.chmod(partial.name, os.stat(file).st_mode & 0o777)
    os.replace(partial.name, file)


def _entries(file: str, kind: str, given: object) -> Iterator[Entry]:
    if not isinstance(given, list):
        raise _bad(file, f"{kind} is not written as [[{kind}]]")
    for item in given:
        fields = _FIELDS[kind]
        wrong = sorted(set(item) - set(fields)) + [
            name for name, free in fields.items() if not free and name not in item
        ]
        if wrong or not all(isinstance(value, str) for value in item.values()):
            raise _bad(file, f"an entry of [[{kind}]] has {', '.join(fields)}, all of them texts; look at {item}")
        if "@" in item["reference"] or not _DIGEST.fullmatch(item.get("digest", "sha256:" + "0" * 64)):
            raise _bad(file, f"{item['reference']}: the digest stands by itself, as sha256: and 64 hexadecimal digits")
        yield Entry(**item)


def _name(reference: str) -> str:
    return reference.partition("@")[0]


def _bad(file: str, why: str) -> HermeticError:
    return HermeticError(Domain.USAGE, "bad-approved-images", f"{file}: {why}")
