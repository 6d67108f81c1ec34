"""``hermetic tree``: what a store path was built from."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hermetic.canonical import Value
from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.cli.target import Target, find
from hermetic.digest import Key
from hermetic.store import Store


@click.command("tree")
@click.argument("target", metavar="RECIPE[#STAGE]|PATH|KEY")
@options.setting
@options.store
@options.as_json
def command(target: str, sets: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Show what a store path was built from, stage by stage, down to sources and environments."""
    place = open_store(store)
    for depth, role, item in _walk(find(target, sets, place), place):
        if as_json:
            console.json_line({"depth": depth, "role": role, **item})
        else:
            console.data("  " * depth + _line(role, item))


def _walk(target: Target, store: Store) -> Iterator[tuple[int, str, dict[str, Value]]]:
    """Depth first; what was shown before is marked and not opened again."""
    seen: set[Key] = set()
    pending: list[tuple[int, str, Key]] = [(0, "", target.key)]
    while pending:
        depth, role, here = pending.pop()
        preimage = target.preimage(here) or {}
        again = here in seen
        seen.add(here)
        yield depth, role, _built(here, preimage, store, again=again)
        if again:
            continue
        inputs = preimage.get("inputs", {})
        for name, item in reversed(list(inputs.items() if isinstance(inputs, dict) else ())):
            if isinstance(item, dict) and item.get("kind") == "built":
                pending.append((depth + 1, name, Key(str(item["key"]))))
            elif isinstance(item, dict):
                yield depth + 1, name, {"kind": item.get("kind", ""), "tree": item.get("tree") or item.get("entry", "")}


def _built(key: Key, preimage: dict[str, Value], store: Store, *, again: bool) -> dict[str, Value]:
    name = str(preimage.get("name", "?"))
    found = store.realisation(key)
    return {
        "kind": str(preimage.get("stage", "?")),
        "name": name,
        "key": key.hex,
        "path": str(store.path(key, name)),
        "realised": found is not None,
        "size": found.size if found is not None else 0,
        "again": again,
    }


def _line(role: str, item: dict[str, Value]) -> str:
    from hermetic.realise.display import human_bytes

    label = f"{role}: " if role else ""
    if "path" not in item:
        return f"{label}{item['kind']} {str(item['tree'])[:16]}"
    size = item["size"]
    state = human_bytes(size) if item["realised"] and isinstance(size, int) else "not here"
    more = " (shown above)" if item["again"] else ""
    return f"{label}{item['path']}  {item['kind']}  {state}{more}"
