"""What a stage runs in, as data. How each becomes digests and mounts is the sandbox's matter."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from hermetic.recipe import evaluation

__all__ = ["Environment", "Host", "PythonEnv"]


class Environment(BaseModel):
    """Base of `PythonEnv` and `Host`."""

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


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError as error:
        evaluation.fail("lock-missing", f"the wheel lock {path} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        evaluation.fail("lock-unreadable", f"the wheel lock {path} is not UTF-8 text")
    return ""
