"""The lock file of a recipe: ``NAME.lock.json`` beside ``NAME.py``, which says what every changeable name stood for.

::

    {
      "format": "hermetic lock 1",
      "fixed": {
        "hf://Qwen/Qwen3-32B@main": {
          "commit": "…",
          "files": {
            "config.json": {"git": "…", "origin": "fetched", "sha256": "…", "size": 728},
            "model-00001-of-00017.safetensors": {"git": "…", "origin": "hub", "sha256": "…", "size": 3957900840}
          },
          "licence": "apache-2.0",
          "source": "https://huggingface.co/Qwen/Qwen3-32B"
        }
      },
      "images": {
        "registry.example.com/tool:1.2": {
          "index": "sha256:…",
          "platforms": {
            "linux/amd64": {
              "config": "sha256:…", "digest": "sha256:…", "media_type": "application/vnd.oci…",
              "size": 1234, "variables": ["PATH=…"]
            }
          },
          "source": "registry.example.com/tool"
        },
        "registry.example.com/other:3": {"unresolved": "registry.example.com does not answer"}
      }
    }

Keys are sorted and there is one value a line, so that a diff of two versions shows what moved. Nobody edits it:
``hermetic lock`` writes it. An entry that nobody could ask for says why and is refused when a stage needs it.
A file of ``fixed`` without ``sha256`` is one that the commit has and no output of the recipe wants.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hermetic.errors import Domain, HermeticError

__all__ = [
    "FORMAT",
    "PLATFORM",
    "FixedEntry",
    "ImageEntry",
    "LockFile",
    "LockedFile",
    "LockedImage",
    "is_safe_path",
    "lock_path",
]

FORMAT: Final = "hermetic lock 1"
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
#: This machine, as OCI spells it.
PLATFORM: Final = f"linux/{_MACHINES.get(os.uname().machine, os.uname().machine)}"

_E = TypeVar("_E", bound=BaseModel)


def is_safe_path(path: str) -> bool:
    """Whether `path` names a file below the folder that it is relative to, in one way only."""
    parts = path.split("/")
    return "\0" not in path and all(part not in {"", ".", ".."} for part in parts)


def _safe(path: str) -> str:
    if not is_safe_path(path):
        raise ValueError(f"{path!r} is no name of a file below a folder")
    return path


_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class LockedImage(BaseModel):
    """One platform's manifest. `size` is the bytes of its layers as they travel.

    `config` is the digest of its configuration; `variables` (``NAME=value``, in the image's order) are in that, and
    here so that a command can be shown without the image. `pythons` says for each interpreter inside that wheels are
    for which it is: ``"python3": "3.12.3 glibc 2.39"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    digest: _Digest
    media_type: str
    size: Annotated[int, Field(ge=0)]
    config: _Digest
    variables: tuple[str, ...] = Field(default=(), strict=False)
    pythons: dict[str, Annotated[str, Field(pattern=r"^[0-9.]+ glibc [0-9.]+$")]] = Field(default_factory=dict)


class ImageEntry(BaseModel):
    """What one reference stood for when it was asked. Exactly one of `platforms` and `unresolved` is set."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    platforms: dict[str, LockedImage] = Field(default_factory=dict)
    index: str = ""
    source: str = ""
    unresolved: str = ""

    def document(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)


class LockedFile(BaseModel):
    """One file of a fixed output. `size` in bytes; `sha256` of its content, in hexadecimal.

    `git` is the git-sha1 by which a Hub names it, `origin` who said the sha256: ``hub`` or ``server``, whose word it
    is, ``fetched``: hermetic hashed it (and compared with `git`, where there is one), or ``cited``: somebody else
    published it, and the entry's `source` says who. Whatever the origin, no file is taken that does not have it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    git: Annotated[str, Field(pattern=r"^([0-9a-f]{40})?$")] = ""
    origin: Annotated[str, Field(pattern=r"^(hub|server|fetched|cited)?$")] = ""


class FixedEntry(BaseModel):
    """What one address stood for when it was asked: every file that it has, by its path there.

    `commit` is a Hub's, `licence` what the repository declares, `gated` whether one must ask for access; `source` is
    where it was asked. `unresolved` says why nobody could answer, and nothing else is set then.

    `config` are the fields of a model's ``config.json`` that say how large it is; {} where nobody looked. They are for
    estimates, and are in no key: the file itself is, with its sha256.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40})?$")] = ""
    files: dict[Annotated[str, AfterValidator(_safe)], LockedFile] = Field(default_factory=dict)
    licence: str = ""
    gated: bool = False
    source: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    unresolved: str = ""

    def document(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)


@dataclass
class LockFile:
    """The lock file at `path`; `others` are sections that this version does not know, and they stay as they are."""

    path: str
    images: dict[str, ImageEntry] = field(default_factory=dict)
    fixed: dict[str, FixedEntry] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> LockFile:
        """An empty one if there is no file. Raises `HermeticError`: recipe/lock-unreadable, recipe/lock-too-new."""
        try:
            with open(path, encoding="utf-8") as stream:
                document = json.load(stream)
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, str(error)) from error
        return cls(path, *_parts(path, document))

    def text(self) -> str:
        """What is written: the same entries always give the same bytes."""
        document = {**self.others, "format": FORMAT}
        if self.images:
            document["images"] = {name: entry.document() for name, entry in self.images.items()}
        if self.fixed:
            document["fixed"] = {name: entry.document() for name, entry in self.fixed.items()}
        return json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True) + "\n"

    def write(self) -> bool:
        """Replace the file in one step if its bytes would change; whether they did."""
        text = self.text()
        try:
            with open(self.path, encoding="utf-8") as stream:
                if stream.read() == text:
                    return False
        except FileNotFoundError:
            pass
        temporary = f"{self.path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, self.path)
        return True


def lock_path(recipe: str) -> str:
    """Where the lock file of the recipe file `recipe` lies."""
    return os.path.splitext(recipe)[0] + ".lock.json"


def _parts(path: str, document: object) -> tuple[dict[str, ImageEntry], dict[str, FixedEntry], dict[str, Any]]:
    if not isinstance(document, dict):
        raise _unreadable(path, "it is no JSON object")
    _check_format(path, document.get("format"))
    images = _section(path, document, "images", ImageEntry)
    fixed = _section(path, document, "fixed", FixedEntry)
    known = {"format", "images", "fixed"}
    return images, fixed, {name: value for name, value in document.items() if name not in known}


def _section(path: str, document: dict[str, Any], name: str, kind: type[_E]) -> dict[str, _E]:
    listed = document.get(name, {})
    if not isinstance(listed, dict):
        raise _unreadable(path, f'"{name}" is no JSON object')
    try:
        return {key: kind.model_validate(entry) for key, entry in listed.items()}
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise _unreadable(path, f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}") from error


def _check_format(path: str, found: object) -> None:
    if found == FORMAT:
        return
    match = re.fullmatch(r"hermetic lock ([0-9]+)", found) if isinstance(found, str) else None
    if match is None:
        raise _unreadable(path, "it does not say that it is a lock file of hermetic's")
    message = f"{path} has format {match[1]}; this version of hermetic reads format 1"
    raise HermeticError(Domain.RECIPE, "lock-too-new", message, hint="upgrade hermetic")


def _unreadable(path: str, why: str) -> HermeticError:
    hint = "hermetic lock writes it; take it back from version control, or remove it and lock again"
    return HermeticError(Domain.RECIPE, "lock-unreadable", f"the lock file {path} cannot be read: {why}", hint=hint)
