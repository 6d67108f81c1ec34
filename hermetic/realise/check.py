"""Build again and grade: how alike are two builds of one key?

``bit``: the same tree digest. ``structural``: the same layers and tactics, or the same graph and weights.
``numeric``: the same answers within a stated tolerance. ``different``: none of these. The grade between the first and
the last is found by the stage's own comparator, a program that runs in the stage's environment with both results as
inputs ``first`` and ``second`` and leaves ``grade.json`` (``{"grade": ..., "evidence": {...}}``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hermetic.canonical import Value, encode
from hermetic.derivation import Derivation
from hermetic.digest import Key, derive
from hermetic.errors import Domain, HermeticError
from hermetic.realise.builder import Builder
from hermetic.realise.compare import differences
from hermetic.realise.gpus import granted
from hermetic.realise.launcher import Program
from hermetic.sandbox.plan import Limits
from hermetic.store import Realisation, Store

__all__ = ["GRADES", "Checked", "build_again"]

GRADES: Final = ("different", "numeric", "structural", "bit")

_CONTEXT = "hermetic check v1"


@dataclass(frozen=True)
class Checked:
    """What a second build showed. `again` lies in the store beside the first and is never adopted or linked."""

    grade: str
    wanted: str
    first: Realisation
    again: Realisation
    evidence: Mapping[str, Value]

    @property
    def good(self) -> bool:
        """Whether the grade is at least the one that the stage promises."""
        return GRADES.index(self.grade) >= GRADES.index(self.wanted)


async def build_again(
    derivation: Derivation, first: Realisation, inputs: Mapping[str, Realisation], builder: Builder
) -> Checked:
    """Build `derivation` once more beside its result, grade the two, and keep the evidence with the build's log."""
    preimage: dict[str, Value] = {"stage": "check", "of": derivation.key.hex, "run": builder.run.id, "name": first.name}
    key = derive(Key, _CONTEXT, encode(preimage))
    twin = replace(derivation, key=key, preimage=preimage)
    again = (await builder.build(twin, inputs, None)).realisation
    evidence: dict[str, Value] = {}
    if again.tree == first.tree:
        grade = "bit"
    else:
        evidence["differences"] = _differences(first, again, builder.store)
        grade, found = await _compare(derivation, first, again, builder)
        evidence |= found
    checked = Checked(grade, derivation.stage.grade, first, again, evidence)
    _keep(checked, builder.store)
    return checked


def _differences(first: Realisation, again: Realisation, store: Store) -> list[Value]:
    manifests = store.manifest(first.tree), store.manifest(again.tree)
    found = differences(*manifests, first.path(store), again.path(store))
    return [{"path": item.path, "what": item.what, "details": list(item.details)} for item in found]


async def _compare(
    derivation: Derivation, first: Realisation, again: Realisation, builder: Builder
) -> tuple[str, dict[str, Value]]:
    stage = derivation.stage
    if not stage.comparator:
        return "different", {"comparator": "this stage has none, so what is not equal counts as different"}
    mounts = await builder.launcher.environment(stage.environment, lambda *_: None)
    paths = {"first": str(first.path(builder.store)), "second": str(again.path(builder.store))}
    told = {**stage.parameters_in_full(), **stage.run_parameters()}
    program = Program(derivation.name, stage.files_of(stage.comparator), told, paths)
    with builder.run.workspace() as place:
        log = os.memfd_create("comparator", os.MFD_CLOEXEC)
        try:
            async with granted(
                stage.gpu, f"stage {derivation.name!r}", builder.launcher, mounts, lambda _: None
            ) as given:
                ended = await builder.launcher.launch(program, given, str(place.path), Limits(), log=log)
        finally:
            os.close(log)
        if not ended.ok:
            return "different", {"comparator": f"failed with status {ended.status}"}
        found = _read_grade(place.path / "out" / "grade.json")
    if found.get("grade") not in GRADES[:3]:
        message = f"the comparator of {stage.kind} gave the grade {found.get('grade')!r}"
        raise HermeticError(Domain.BUG, "no-grade", message)
    return found["grade"], {"comparator": found.get("evidence", {})}


def _read_grade(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(checked: Checked, store: Store) -> None:
    for attempt in store.attempts(checked.again.key)[:1]:
        document = {"grade": checked.grade, "wanted": checked.wanted, "of": checked.first.key.hex}
        with open(attempt.folder / "check.json", "w", encoding="utf-8") as stream:
            json.dump(document | {"evidence": dict(checked.evidence)}, stream, indent=1, sort_keys=True)
