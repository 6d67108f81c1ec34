"""What a stage runs in, as data. How each becomes digests and mounts is the sandbox's matter."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from hermetic.errors import HermeticError
from hermetic.recipe import evaluation, lockfile
from hermetic.recipe.image_reference import parse_reference
from hermetic.recipe.pins import current_lock, is_locking, lock_command

__all__ = ["Environment", "Host", "Image", "PythonEnv"]


_OLD_LIBC: Final = "2.28"


class Environment(BaseModel):
    """Base of `PythonEnv`, `Image` and `Host`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: ClassVar[str] = ""


class PythonEnv(Environment):
    """CPython, the system libraries that manylinux names, and the wheels of a lock file, all of them store paths.

    `lock` is a file in requirements format with ``--hash`` on every line, as ``uv pip compile --universal
    --generate-hashes`` writes it: names, versions and hashes, no addresses. Exactly what it lists is installed.
    `python` is ``""`` for the interpreter that runs hermetic, a version such as ``"3.12"``, or a path.
    """

    kind: ClassVar[str] = "python"
    lock: str
    text: str = Field(repr=False)
    python: str = ""

    def __init__(self, lock: str | os.PathLike[str], *, python: str = "", **data: Any) -> None:
        path = evaluation.resolve(lock)
        text = data.pop("text", None)
        data |= {"lock": path, "text": _read(path) if text is None else text, "python": python}
        super().__init__(**data)


class Host(Environment):
    """Exactly these files and folders of this machine, bound at the same places, each identified by its content.

    For tools that come no other way (a GPU driver, a vendor's toolchain). A key with a `Host` in it means something
    only on machines with the same files. `python` names an interpreter among them for ``.py`` programs.
    """

    kind: ClassVar[str] = "host"
    paths: tuple[str, ...]
    python: str = ""


class ImageWheels(BaseModel):
    """Wheels over an image. `inside` is the Python that they must suit, "3.12.3 glibc 2.39"; "" if nobody knows yet."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lock: str
    text: str = Field(repr=False)
    inside: str
    declared: bool


class Image(Environment):
    """The root file system of an OCI image, pinned to its manifest's digest; nothing else of the image but its ``Env``.

    `reference` is ``registry.example.com/name:tag``, ``oci:PATH:TAG``, ``oci-archive:PATH:TAG``,
    ``containers-storage:NAME`` (podman's) or ``docker-daemon:NAME``. Which manifest it stands for is what the lock file
    beside the recipe says (``hermetic lock RECIPE``), or the reference itself: ``name@sha256:…``. Only that digest
    enters keys; where the image is brought from does not. `python` is the interpreter inside that starts ``.py``
    programs: a path, or a name found through the image's ``PATH``.

    `digest`, `config` and `variables` are the lock file's; `location` is `reference` with its path made absolute.
    `wheels` is what `with_wheels` put over it.
    """

    kind: ClassVar[str] = "image"
    reference: str
    python: str = "python3"
    location: str = Field(repr=False)
    digest: str = ""
    config: str = Field("", repr=False)
    variables: tuple[str, ...] = Field((), repr=False)
    wheels: ImageWheels | None = None

    def __init__(self, reference: str, *, python: str = "python3", **data: Any) -> None:
        data = {"location": _located(reference), **_pinned(reference), **data}
        data |= {"reference": reference, "python": python}
        super().__init__(**data)

    def with_wheels(self, lock: str | os.PathLike[str], *, python: str = "", libc: str = "") -> Image:
        """The same image, with the wheels of a lock file, as `PythonEnv` takes it, before its own site-packages.

        Exactly what `lock` lists is added, dependencies included or not; nothing of the image is removed, but what both
        have is imported from the wheels. Which wheels suit the image's Python is decided by that Python's version and
        glibc. ``hermetic lock`` asks for them inside the image, once, and writes them down; or say them yourself:
        `python` as ``"3.12"``, `libc` as ``"2.39"`` (``"2.28"``, which wheels are built for that run on all newer ones,
        if you name the Python only).
        """
        path = evaluation.resolve(lock)
        inside = f"{python} glibc {libc or _OLD_LIBC}" if python else self._inside()
        wheels = ImageWheels(lock=path, text=_read(path), inside=inside, declared=bool(python))
        return self.model_copy(update={"wheels": wheels})

    def _inside(self) -> str:
        """What the lock file says of the Python inside: "3.12.3 glibc 2.39"."""
        try:
            entry = _entry(self.reference)
        except HermeticError:
            return ""  # `_pinned` has reported it
        found = entry.platforms.get(lockfile.PLATFORM) if entry is not None else None
        inside = found.pythons.get(self.python, "") if found is not None else ""
        if not inside and self.digest and not is_locking():
            message = f"nobody has asked which Python {self.python!r} of the image {self.reference!r} is"
            evaluation.fail("not-locked", message, hint=f'{lock_command()}, or with_wheels(..., python="3.12")')
        return inside


def _located(reference: str) -> str:
    transport, colon, path = reference.partition(":")
    return f"{transport}:{evaluation.resolve(path)}" if colon and transport in {"oci", "oci-archive"} else reference


def _pinned(reference: str) -> dict[str, Any]:
    """The fields that the lock file, or else the reference itself, gives an `Image`; mistakes are reported."""
    try:
        given = parse_reference(reference).digest
        entry = _entry(reference)
    except ValueError as error:
        evaluation.fail("image-reference", f"{reference!r} names no image: {error}")
        return {}
    except HermeticError as error:
        evaluation.fail(error.reason, error.message, hint=error.hint)
        return {}
    found = entry.platforms.get(lockfile.PLATFORM) if entry is not None else None
    if found is not None:
        return {"digest": found.digest, "config": found.config, "variables": found.variables}
    if not given and not is_locking():
        _not_locked(reference, entry)
    return {"digest": given}


def _entry(reference: str) -> lockfile.ImageEntry | None:
    lock = current_lock()
    return lock.images.get(reference) if lock is not None else None


def _not_locked(reference: str, entry: lockfile.ImageEntry | None) -> None:
    hint = lock_command()
    if entry is None:
        evaluation.fail("not-locked", f"the image {reference!r} is not locked to a digest", hint=hint)
    elif entry.unresolved:
        message = f"the image {reference!r} could not be locked: {entry.unresolved}"
        evaluation.fail("unresolved", message, hint=f"where it can be asked for: {hint}")
    else:
        there = ", ".join(sorted(entry.platforms))
        message = f"the image {reference!r} is there for {there}, not for {lockfile.PLATFORM}"
        evaluation.fail("image-platform", message, hint=f"use another tag, or ask again: {hint} --update {reference}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError as error:
        evaluation.fail("lock-missing", f"the wheel lock {path} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        evaluation.fail("lock-unreadable", f"the wheel lock {path} is not UTF-8 text")
    return ""
