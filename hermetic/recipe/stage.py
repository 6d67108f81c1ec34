"""Stages: the build steps of a recipe, as frozen data."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from hermetic.canonical import Value, problems
from hermetic.recipe import evaluation
from hermetic.recipe.environments import Environment
from hermetic.recipe.gpu import Gpu
from hermetic.recipe.harvest import Harvest, Validator
from hermetic.recipe.source import Source

__all__ = ["EXCLUDED", "Script", "Stage"]

_LIBRARY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "llm", "programs")

#: Fields that are no parameters: they never change a result, or have a part of the key to themselves (`harvest`).
EXCLUDED = frozenset(
    {
        "check",
        "cores",
        "disk_mb",
        "environment",
        "gpu",
        "harvest",
        "memory_mb",
        "name",
        "processes",
        "program",
        "shm_mb",
        "silence",
        "timeout",
    }
)


class Stage(BaseModel):
    """One build step. Subclasses say what it does; an instance says with what.

    A subclass declares typed fields. A field that holds a stage or a `Source` (or a dict of them) is an *input*,
    seen by the program as ``/build/in/<role>``, the role being the field's name (``<key>`` for the dict field
    ``inputs`` of a `Script`, ``<field>.<key>`` otherwise). Every other field is a *parameter*, read by the program
    from ``/build/stage.json``: str, int, bool, lists and dicts of them, never a float.

    A parameter that equals its default does not enter the key, so a new field with a default changes no key.
    Changing what an existing class does, or a released default, needs a higher `version`.

    The fields below do not change results and are not in the key. `cores` and `memory_mb` (MiB) are what the
    scheduler sets aside for the stage. A `memory_mb` that a recipe gives is the stage's limit as well; the default of a
    class is none. `processes` limits processes and threads (0: 8192, against fork bombs), `disk_mb` what the
    stage holds in its workspace, and so much must be free before it starts (0: as much as there is); `shm_mb` is the
    size of ``/dev/shm``, and counts as memory when it is used. `timeout` is its wall time and `silence` its time
    without output in seconds (0: no limit), and a stage with `check` set must succeed before a target that is one of
    its inputs counts as realised.

    `gpu` is the GPUs that the stage runs on, which its key then names (`Gpu`).

    `harvest` is for programs that may not end by themselves; what it takes is in the key, how long it waits is not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    kind: ClassVar[str] = "stage"
    version: ClassVar[int] = 1
    #: Program files, the first is run: of hermetic's own stages under ``hermetic/llm/programs``, of others beside the
    #: recipe.
    programs: ClassVar[tuple[str, ...]] = ()
    #: Programs that ``hermetic run`` starts on the result, the first of them; none if there is nothing to run.
    runner: ClassVar[tuple[str, ...]] = ()
    #: What they are asked with: a text, or a file, which they see as the input ``sound``.
    asked_with: ClassVar[Literal["text", "file"]] = "text"
    #: How alike two builds must be (``bit``, ``structural`` or ``numeric``), and what grades them when they differ.
    grade: ClassVar[str] = "bit"
    comparator: ClassVar[tuple[str, ...]] = ()
    #: Platform fields that the result depends on.
    platform: ClassVar[tuple[str, ...]] = ("system",)

    name: str = ""
    environment: InstanceOf[Environment]
    gpu: InstanceOf[Gpu] | None = None
    cores: Annotated[int, Field(ge=1)] = 1
    memory_mb: Annotated[int, Field(ge=1)] = 1024
    processes: Annotated[int, Field(ge=0)] = 0
    disk_mb: Annotated[int, Field(ge=0)] = 0
    shm_mb: Annotated[int, Field(ge=1)] = 1024
    timeout: Annotated[int, Field(ge=0)] = 0
    silence: Annotated[int, Field(ge=0)] = 0
    harvest: InstanceOf[Harvest] | None = None
    check: bool = False

    _origin: evaluation.Origin | None = PrivateAttr(default=None)
    _folder: str = PrivateAttr(default="")

    def __init__(self, **data: Any) -> None:
        place = evaluation.origin()
        sound = _no_floats(type(self).__name__, data, place)
        try:
            super().__init__(**data)
        except ValidationError as error:
            if sound or evaluation.current() is None:
                _report(type(self), error, place)
            self._poison(data)
        else:
            self._check_harvest(place)
        self._origin = place
        self._folder = _LIBRARY if type(self).__module__.startswith("hermetic.") else evaluation.resolve("")

    def _check_harvest(self, place: evaluation.Origin | None) -> None:
        if self.harvest is None:
            return
        roles = self.inputs_by_role()
        for role in sorted({*self.harvest.take, *self.harvest.floor} - set(roles)):
            hint = f"its inputs: {', '.join(roles) or 'none'}"
            evaluation.fail(
                "harvest-role", f"{type(self).__name__}: harvest names no input {role!r}", hint=hint, at=place
            )

    def _poison(self, data: Mapping[str, object]) -> None:
        """Stand in for an invalid stage until all errors of the recipe are shown; it is never built."""
        fields = {name: data.get(name, field.default) for name, field in type(self).model_fields.items()}
        object.__setattr__(self, "__dict__", fields)
        object.__setattr__(self, "__pydantic_fields_set__", set())
        object.__setattr__(self, "__pydantic_extra__", None)
        object.__setattr__(self, "__pydantic_private__", {"_origin": None, "_folder": ""})

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def where(self) -> evaluation.Origin | None:
        """The line of the recipe that made it."""
        return self._origin

    @property
    def memory_limit_mb(self) -> int | None:
        """`memory_mb` if the recipe gave it, else None."""
        return self.memory_mb if "memory_mb" in self.model_fields_set else None

    def expected_bytes(self) -> int | None:
        """About how many bytes its result takes, where that can be told before it was ever built; None if not."""
        return None

    def inputs_by_role(self) -> dict[str, Stage | Source]:
        """The stages and sources this one reads, by role."""
        return dict(self._inputs())

    def _inputs(self) -> Iterator[tuple[str, Stage | Source]]:
        for field in type(self).model_fields:
            value = getattr(self, field)
            if field in EXCLUDED:
                continue
            if isinstance(value, (Stage, Source)):
                yield field, value
            elif _is_inputs(value):
                prefix = "" if field == "inputs" else f"{field}."
                yield from ((f"{prefix}{role}", item) for role, item in value.items())

    def parameters_in_full(self) -> dict[str, Value]:
        """Every parameter, defaults included: what the program sees."""
        return {
            field: plain(getattr(self, field))
            for field in type(self).model_fields
            if field not in EXCLUDED and not _is_input(getattr(self, field))
        }

    def parameters_in_key(self) -> dict[str, Value]:
        """The parameters that differ from their default: what the key sees. What is no field has no default."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.parameters_in_full().items()
            if name not in fields
            or fields[name].is_required()
            or value != plain(fields[name].get_default(call_default_factory=True))
        }

    def program_files(self) -> dict[str, str]:
        """Path of each program file by the name it has under ``/build/program``; the first one is run."""
        return self.files_of(self.programs)

    def validator_files(self) -> dict[str, str]:
        """Paths of the program that proves the harvest whole, as `program_files`; none if something else proves it."""
        complete = self.harvest.complete if self.harvest is not None else None
        return self.files_of(complete.programs) if isinstance(complete, Validator) else {}

    @property
    def run_environment(self) -> Environment:
        """What ``hermetic run`` starts the result in."""
        return self.environment

    @property
    def run_gpu(self) -> Gpu | None:
        """The GPUs that ``hermetic run`` leases for the result."""
        return self.gpu

    def run_parameters(self) -> dict[str, Value]:
        """What ``hermetic run`` and the comparator are told of the result beyond what their caller says."""
        return {}

    def files_of(self, names: tuple[str, ...]) -> dict[str, str]:
        """Paths of this stage's program files, runner or comparator."""
        return {name: os.path.join(self._folder, name) for name in names}


class Script(Stage):
    """A stage whose program is a file beside the recipe.

    ``.py`` programs run under the environment's Python, anything else is executed. It is started in ``/build/tmp``,
    reads ``/build/stage.json`` and leaves its result in ``/build/out``. `modules` are further files placed beside
    the program.
    """

    kind: ClassVar[str] = "script"

    program: InstanceOf[Source]
    modules: tuple[InstanceOf[Source], ...] = ()
    inputs: dict[str, InstanceOf[Stage] | InstanceOf[Source]] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, program: Source | str, **data: Any) -> None:
        super().__init__(program=Source(program) if isinstance(program, str) else program, **data)
        self._folder = evaluation.resolve("")  # whatever else it names lies beside the recipe too

    def parameters_in_full(self) -> dict[str, Value]:
        return dict(self.parameters)

    def parameters_in_key(self) -> dict[str, Value]:
        return dict(self.parameters)

    def program_files(self) -> dict[str, str]:
        return {source.name: source.path for source in (self.program, *self.modules)}


def plain(value: object) -> Value:
    """`value` with tuples as lists and models as dicts, ready for the canonical encoder."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return value  # type: ignore[return-value]  # whatever is left is judged by the canonical encoder


def _is_input(value: object) -> bool:
    return isinstance(value, (Stage, Source)) or _is_inputs(value)


def _is_inputs(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(item, (Stage, Source)) for item in value.values())


def _no_floats(kind: str, data: Mapping[str, object], place: evaluation.Origin | None) -> bool:
    """Report every float in `data`; True if there is none."""
    sound = True
    for name, value in data.items():
        if isinstance(value, (float, dict, list, tuple)) and not _is_inputs(value):
            for where, problem in problems(plain(value), name):
                if "float" in problem:
                    sound = False
                    evaluation.fail("float", f"{kind}: {where}: {problem}", at=place)
    return sound


def _report(kind: type[Stage], error: ValidationError, place: evaluation.Origin | None) -> None:
    for detail in error.errors(include_url=False, include_input=False):
        where = ".".join([kind.__name__, *(str(part) for part in detail["loc"])])
        said = detail.get("ctx", {})
        evaluation.fail(
            detail["type"] if "hint" in said else "stage-invalid",  # a check that has a code of its own has a hint
            f"{where}: {detail['msg'][:1].lower()}{detail['msg'][1:]}",
            hint=said.get("hint") or _suggestion(kind, detail),
            at=place,
        )


def _suggestion(kind: type[Stage], detail: ErrorDetails) -> str | None:
    if detail["type"] != "extra_forbidden":
        return None
    fields = sorted(kind.model_fields)
    close = difflib.get_close_matches(str(detail["loc"][0]), fields, n=1)
    return f"did you mean {close[0]}?" if close else f"{kind.__name__} has {', '.join(fields)}"
