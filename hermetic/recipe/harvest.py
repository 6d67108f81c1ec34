"""What a recipe says about a stage whose program may not end by itself: what it writes, and what proves it whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hermetic.canonical import Value

__all__ = ["TOKENIZER", "Harvest", "KnownSizes", "LogLine", "Validator"]

#: Files of a tokenizer, for `Harvest.take`. A model's ``config.json`` is not among them: an engine has its own.
TOKENIZER: Final = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)

#: Fields that say how long to wait, not what to take. They are not in the key.
PATIENCE: Final = frozenset({"settle", "grace", "timeout", "silence"})

_ENGINE: Final = re.compile(r"rank(\d+|\*|\?)\.engine")

Seconds = Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]
Glob = Annotated[str, Field(min_length=1)]


class _Evidence(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LogLine(_Evidence):
    """The tool's own line that it prints after an artefact's last byte: `pattern` is searched in each line (regex).

    With `per_rank` there must be one for each rank's engine. A line counts for files that were written before it.
    """

    pattern: str
    per_rank: bool = True

    def __init__(self, pattern: str, **data: Any) -> None:
        data["pattern"] = pattern
        super().__init__(**data)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class KnownSizes(_Evidence):
    """The exact size in bytes of every artefact that does not prove its own end, by name."""

    sizes: dict[str, Annotated[int, Field(ge=1)]]

    def __init__(self, sizes: Mapping[str, int], **data: Any) -> None:
        data["sizes"] = dict(sizes)
        super().__init__(**data)


class Validator(_Evidence):
    """A program that loads the artefacts in a fresh process of the same environment, and exits 0 if they are whole.

    `programs` are files as `Stage.programs` names them, the first is run. It finds the artefacts in the input
    ``artefacts``, and they cannot change while it runs: the stage is frozen.
    """

    programs: tuple[str, ...] = Field(min_length=1)

    def __init__(self, *programs: str, **data: Any) -> None:
        data.setdefault("programs", programs)
        super().__init__(**data)


class Harvest(BaseModel):
    """Take finished artefacts from a program that may never end.

    `artifacts` are globs below `folders`: each must match a file, and nothing else is taken. `folders` are globs below
    ``/build``, in order of preference; the artefacts come from the first that has them. A glob for
    ``rank<N>.engine`` asks for ``config.json`` too, and then for the engine of every rank that it implies.

    `complete` is what proves that the last byte is written: `LogLine`, `KnownSizes` or `Validator`.

    `take` brings files of inputs along: globs by role. `config` is what the engine's ``config.json`` must say, by
    dotted path. `floor` is the least that the artefacts may weigh, as a fraction (a decimal, as string) of the
    weights (``*.safetensors``, ``*.bin``) of the input of that role.

    Not in the key, because they change no byte: `settle`, seconds without a change before the artefacts are judged;
    `grace`, seconds that freezing the processes may take; `timeout`, seconds from the launch, and `silence`, seconds
    without output or a change of an artefact, after which the stage is stopped without a result (0: no limit).
    The stage's own `timeout` and `silence`, if set, win over these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    artifacts: tuple[Glob, ...] = Field(min_length=1)
    complete: LogLine | KnownSizes | Validator
    folders: tuple[Glob, ...] = Field(default=("out",), min_length=1)
    take: dict[str, tuple[Glob, ...]] = Field(default_factory=dict)
    config: dict[str, str | int | bool] = Field(default_factory=dict)
    floor: dict[str, Seconds] = Field(default_factory=dict)
    settle: Seconds = "2"
    grace: Seconds = "5"
    timeout: Annotated[int, Field(ge=0)] = 600
    silence: Annotated[int, Field(ge=0)] = 0

    @property
    def ranked(self) -> bool:
        """Whether the artefacts are TensorRT-LLM engines, of which there is one a rank."""
        return any(_ENGINE.fullmatch(glob.rpartition("/")[2]) for glob in self.artifacts)

    @field_validator("artifacts", "folders")
    @classmethod
    def _stay_below(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        for glob in globs:
            if any(part in ("", ".", "..") for part in glob.split("/")):
                raise ValueError(f"{glob!r} must be a plain relative path or glob")
        return globs

    @field_validator("folders")
    @classmethod
    def _writable(cls, folders: tuple[str, ...]) -> tuple[str, ...]:
        for folder in folders:
            if folder.split("/")[0] not in ("out", "tmp", "home"):
                raise ValueError(f"{folder!r} must lie in out, tmp or home, where a stage can write")
        return folders

    @field_validator("take")
    @classmethod
    def _keeps_config(cls, take: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if any("config.json" in globs for globs in take.values()):
            raise ValueError("config.json is the engine's own and is not brought from an input")
        return take

    @model_validator(mode="after")
    def _has_config(self) -> Harvest:
        if (self.ranked or self.config) and "config.json" not in self.artifacts:
            raise ValueError("list config.json among the artifacts: it says how many ranks there are")
        return self

    def preimage(self) -> dict[str, Value]:
        """What keys see of it: all but `PATIENCE`, without what equals its default. Programs stand by their names."""
        fields = type(self).model_fields
        given = {
            name: getattr(self, name)
            for name in fields
            if name not in PATIENCE
            and (
                fields[name].is_required() or getattr(self, name) != fields[name].get_default(call_default_factory=True)
            )
        }
        return {name: _plain(value) for name, value in given.items()}


def _plain(value: object) -> Value:
    if isinstance(value, BaseModel):
        kind: dict[str, Value] = {"kind": type(value).__name__}
        return kind | {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    assert isinstance(value, (str, int, bool))
    return value
