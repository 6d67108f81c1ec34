"""Stages to derivations: the closed, canonical description of each stage, and the keys it gives.

A preimage holds everything that may change a result and nothing else. What stands where:

========== =============================================================================================
abi        version of the sandbox's constants
stage      kind of stage; ``version`` its semantics
program    entry file's name and the digest of all program files
environment what the stage runs in, as digests
platform   the identity fields that the stage declares, and the GPUs that it asks for
parameters those that differ from their defaults
harvest    what is taken from a program that may not end, and what proves it whole
inputs     by role: a built input by its key, a source by its tree digest, a fixed output by its lock entry's digest
name       what the recipe calls it
========== =============================================================================================

Empty parts are left out, so that a part added later changes no key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from hermetic.canonical import Value, encode, problems
from hermetic.digest import EntryDigest, Key, ResolvedKey, TreeDigest, TreeEntry, derive, tree_digest
from hermetic.errors import Domain, HermeticError
from hermetic.recipe import FixedOutput, Memo, Recipe, Source, Stage
from hermetic.recipe.environments import Environment
from hermetic.recipe.gpu import Gpu
from hermetic.recipe.source import SINGLE, hash_source

__all__ = [
    "ABI",
    "BuiltInput",
    "Derivation",
    "FixedInput",
    "Graph",
    "Input",
    "SourceInput",
    "derive_all",
    "derive_fixed",
    "entry_digest",
    "resolved_key",
    "source_key",
]

#: Version of what every sandbox looks like from inside (`hermetic.sandbox`); part of every key.
ABI = 1

_DERIVATION = "hermetic derivation v1"
_RESOLVED = "hermetic resolved derivation v1"
_ENTRY = "hermetic lock entry v1"


@dataclass(frozen=True, slots=True)
class BuiltInput:
    """The output of another derivation."""

    key: Key

    def preimage(self) -> Value:
        return {"kind": "built", "key": self.key.hex}


@dataclass(frozen=True, slots=True)
class SourceInput:
    """A file or folder of the recipe, as it was when the key was computed."""

    tree: TreeDigest
    source: Source

    def preimage(self) -> Value:
        return {"kind": "source", "tree": self.tree.hex}


@dataclass(frozen=True, slots=True)
class FixedInput:
    """What a fetcher brings. It stands by `entry`; `key`, under which it lies in the store, has its name as well.

    `inside` is what a stage is given of that store path: all of it, or the one file of this name.
    """

    key: Key
    entry: EntryDigest
    inside: str = ""

    def place(self, path: str) -> str:
        """What a stage is given, where the store path is `path`."""
        return f"{path}/{self.inside}" if self.inside else path

    def preimage(self) -> Value:
        return {"kind": "fixed", "entry": self.entry.hex}


Input: TypeAlias = BuiltInput | SourceInput | FixedInput


@dataclass(frozen=True, slots=True, eq=False)
class Derivation:
    """The closed description of one stage, or of one fixed output. `preimage` is what `key` is the hash of."""

    name: str
    key: Key
    preimage: dict[str, Value]
    inputs: Mapping[str, Input]
    origin: Stage | FixedOutput

    @property
    def stage(self) -> Stage:
        """What is run. Of a fixed output there is none: look at `fixed` first."""
        assert isinstance(self.origin, Stage)
        return self.origin

    @property
    def fixed(self) -> FixedOutput | None:
        """What is fetched; None if something is run."""
        return self.origin if isinstance(self.origin, FixedOutput) else None

    def built_inputs(self) -> Iterator[tuple[str, Key]]:
        """Role and key of every input that is realised before this: built ones and fixed ones."""
        return ((role, item.key) for role, item in self.inputs.items() if not isinstance(item, SourceInput))


@dataclass(frozen=True)
class Graph:
    """Derivations by key, every input before whatever needs it."""

    derivations: Mapping[Key, Derivation]
    by_stage: Mapping[Stage | FixedOutput, Derivation]

    def __getitem__(self, key: Key) -> Derivation:
        return self.derivations[key]


def derive_all(
    recipe: Recipe,
    targets: Iterable[Stage | FixedOutput],
    *,
    identify: Callable[[Environment], dict[str, Value]],
    platform: Callable[[tuple[str, ...]], Mapping[str, Value]],
    memo: Memo,
    gpu: Callable[[Gpu], dict[str, Value]] = Gpu.identity,
) -> Graph:
    """The derivations of `targets` and of everything they need.

    `identify` gives an environment's part of the preimage, `platform` the values of the named platform fields,
    `gpu` what is said of the GPUs that a stage asks for.
    Raises `HermeticError` with domain recipe for sources that cannot be hashed, values without a canonical form and
    cycles.
    """
    context = _Context(recipe, identify, platform, memo, gpu)
    by_stage: dict[Stage, Derivation] = {}
    wanted = list(targets)
    for stage in _inputs_first(recipe, (item for item in wanted if isinstance(item, Stage))):
        by_stage[stage] = context.derivation(stage, by_stage)
    found = {item: context.fixed(item) for item in wanted if isinstance(item, FixedOutput)} | by_stage
    every = [*context.fixed_outputs.values(), *by_stage.values()]
    return Graph({derivation.key: derivation for derivation in every}, found)


def _inputs_first(recipe: Recipe, targets: Iterable[Stage]) -> Iterator[Stage]:
    """Every stage that `targets` need, inputs first; without recursion, since a chain may be 10,000 long."""
    done: set[Stage] = set()
    for target in targets:
        path: dict[Stage, Iterator[Stage]] = {}
        if target not in done:
            path[target] = _stages_of(target)
        while path:
            here = next(reversed(path))
            following = next(path[here], None)
            if following is None:
                del path[here]
                done.add(here)
                yield here
            elif following in path:
                raise _cycle(recipe, [*path, following])
            elif following not in done:
                path[following] = _stages_of(following)


def _stages_of(stage: Stage) -> Iterator[Stage]:
    return (item for item in stage.inputs_by_role().values() if isinstance(item, Stage))


def _cycle(recipe: Recipe, path: list[Stage]) -> HermeticError:
    loop = path[path.index(path[-1]) :]
    names = " → ".join(recipe.names.get(stage, stage.kind) for stage in loop)
    lines = ", ".join(sorted({str(stage.where) for stage in loop}))
    return HermeticError(
        Domain.RECIPE, "cycle", f"stages need each other: {names} ({lines})", hint="a stage's inputs come before it"
    )


class _Context:
    """What all derivations of one recipe share; digests of environments and programs are computed once."""

    def __init__(
        self,
        recipe: Recipe,
        identify: Callable[[Environment], dict[str, Value]],
        platform: Callable[[tuple[str, ...]], Mapping[str, Value]],
        memo: Memo,
        gpu: Callable[[Gpu], dict[str, Value]],
    ) -> None:
        self._recipe = recipe
        self._gpu = gpu
        self._identify = identify
        self._platform = platform
        self._memo = memo
        self._environments: dict[Environment, dict[str, Value]] = {}
        self._programs: dict[tuple[str, ...], Value] = {}
        self._sources: dict[str, TreeDigest] = {}
        self.fixed_outputs: dict[Key, Derivation] = {}

    def derivation(self, stage: Stage, by_stage: Mapping[Stage, Derivation]) -> Derivation:
        inputs = {role: self._input(item, by_stage) for role, item in stage.inputs_by_role().items()}
        name = self._recipe.names[stage]
        preimage = self._preimage(stage, name, inputs)
        return Derivation(name, derive(Key, _DERIVATION, encode(preimage)), preimage, inputs, stage)

    def _preimage(self, stage: Stage, name: str, inputs: Mapping[str, Input]) -> dict[str, Value]:
        parts: dict[str, Value] = {
            "abi": ABI,
            "stage": stage.kind,
            "version": stage.version,
            "program": self._program(stage.program_files(), stage),
            "environment": self._environment(stage.environment),
            "platform": self._machine(stage),
            "parameters": _checked(stage),
            "harvest": self._harvest(stage),
            "inputs": {role: item.preimage() for role, item in inputs.items()},
            "name": name,
        }
        return {part: value for part, value in parts.items() if value not in ({}, None)}

    def fixed(self, item: FixedOutput) -> Derivation:
        """The derivation of a fixed output; one for all that are the same files under the same name."""
        problem = item.problem(item.entry)
        if problem is not None:
            raise problem
        derivation = derive_fixed(item)
        return self.fixed_outputs.setdefault(derivation.key, derivation)

    def _input(self, item: Stage | Source, by_stage: Mapping[Stage, Derivation]) -> Input:
        if isinstance(item, Stage):
            return BuiltInput(by_stage[item].key)
        if isinstance(item, FixedOutput):
            return FixedInput(self.fixed(item).key, entry_digest(item), SINGLE.decode() if item.single else "")
        if item.path not in self._sources:
            self._sources[item.path] = hash_source(item, self._memo)
        return SourceInput(self._sources[item.path], item)

    def _machine(self, stage: Stage) -> Value:
        gpu: dict[str, Value] = {} if stage.gpu is None else {"gpu": self._gpu(stage.gpu)}
        return {**self._platform(stage.platform), **gpu}

    def _environment(self, environment: Environment) -> Value:
        if environment not in self._environments:
            self._environments[environment] = self._identify(environment)
        return self._environments[environment]

    def _harvest(self, stage: Stage) -> Value:
        if stage.harvest is None:
            return {}
        validator = stage.validator_files()
        return stage.harvest.preimage() | ({"validator": self._program(validator, stage)} if validator else {})

    def _program(self, files: Mapping[str, str], stage: Stage) -> Value:
        paths = tuple(files.values())
        if paths not in self._programs:
            self._programs[paths] = {"entry": next(iter(files)), "tree": self._program_tree(stage, files).hex}
        return self._programs[paths]

    def _program_tree(self, stage: Stage, files: Mapping[str, str]) -> TreeDigest:
        entries = []
        for name, path in files.items():
            try:
                digest, size, executable = self._memo.blob(path)
            except OSError as error:
                message = f"{stage.where}: the program {path} cannot be read: {error.strerror}"
                raise HermeticError(Domain.RECIPE, "program-unreadable", message) from error
            entries.append(TreeEntry(name.encode(), "file", executable, size, digest))
        return tree_digest(entries)


def _checked(stage: Stage) -> dict[str, Value]:
    parameters = stage.parameters_in_key()
    for where, problem in problems(parameters):
        raise HermeticError(Domain.RECIPE, "not-canonical", f"{stage.where}: {stage.kind}: {where}: {problem}")
    return parameters


def resolved_key(derivation: Derivation, trees: Mapping[str, TreeDigest]) -> ResolvedKey:
    """The key of `derivation` by what its inputs really are: `trees` has the tree digest of every input, by role.

    The name is left out, so that two stages that differ in name only share their output.
    """
    parts = {part: value for part, value in derivation.preimage.items() if part != "name"}
    if derivation.inputs:
        parts["inputs"] = {role: {"tree": trees[role].hex} for role in derivation.inputs}
    return derive(ResolvedKey, _RESOLVED, encode(parts))


def entry_digest(item: FixedOutput) -> EntryDigest:
    """What a fixed output is known by before it is fetched: names, sizes and sha256 of its files."""
    return derive(EntryDigest, _ENTRY, encode(_files(item)))


def _files(item: FixedOutput) -> Value:
    files: dict[str, Value] = {
        name: {"sha256": file.sha256, "size": file.size} for name, (_, file) in item.wanted.items()
    }
    texts: dict[str, Value] = {
        name: {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)} for name, text in item.texts.items()
    }
    return files | texts


def derive_fixed(item: FixedOutput) -> Derivation:
    """The derivation of one fixed output: its files, and what its store path is called."""
    preimage: dict[str, Value] = {"stage": "fixed", "name": item.name, "files": _files(item)}
    return Derivation(item.name, derive(Key, _DERIVATION, encode(preimage)), preimage, {}, item)


def source_key(tree: TreeDigest) -> Key:
    """The key under which a copy of a source lies in the store."""
    return derive(Key, _DERIVATION, encode(source_preimage(tree)))


def source_preimage(tree: TreeDigest) -> dict[str, Value]:
    return {"abi": ABI, "name": "source", "stage": "source", "tree": tree.hex}
