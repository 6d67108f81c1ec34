"""What a stage came from, as far as the recipe says it: commits of snapshots, digests of containers."""

from __future__ import annotations

from dataclasses import dataclass

from hermetic.recipe import FixedOutput, Image, Source, Stage

__all__ = ["Origins", "origins"]


@dataclass(frozen=True)
class Origins:
    """Sorted, each once. Where a thing was brought from is left out: a mirror makes no other engine."""

    containers: list[str]
    snapshots: list[dict[str, str]]


def origins(stage: Stage) -> Origins:
    """Of `stage` and everything that it needs."""
    seen: set[int] = set()
    containers: set[str] = set()
    snapshots: dict[str, str] = {}
    pending: list[Stage | Source] = [stage]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Stage):
            pending += item.inputs_by_role().values()
            if isinstance(item.environment, Image):
                containers.add(item.environment.digest)
        elif isinstance(item, FixedOutput) and item.entry is not None and item.entry.commit:
            snapshots[item.uri.partition("@")[0].removeprefix("hf://")] = item.entry.commit
    return Origins(sorted(containers), [{"repository": name, "commit": snapshots[name]} for name in sorted(snapshots)])
