"""``hermetic doctor``: what this machine can build, and what mends what it can't."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import click

from hermetic import __version__
from hermetic.cli import console, options, settings
from hermetic.errors import EXIT_CODES, Domain
from hermetic.realise.display import human_bytes


@click.command("doctor")
@options.store
@options.as_json
@click.pass_context
def command(context: click.Context, store: str | None, as_json: bool) -> None:
    """Say for each engine kind whether this machine can build it, and which command mends each no.

    Sandboxes are tried, with the code that starts stages. Exit code 0 if at least one kind can be built, else 4.
    Credentials are not read: only for which registries there are some.
    """
    from hermetic.realise.machine import examine
    from hermetic.realise.verdicts import verdicts, without_sandbox

    facts = examine(settings.store_root(store), os.environ)
    engines = verdicts(facts)
    ways = without_sandbox(facts)
    if as_json:
        console.json_line({"hermetic": __version__, **facts, "engines": engines, "without_sandbox": ways})
    else:
        for line in [*_facts(facts), "", *_engines(engines), *(f"instead   {way}" for way in ways)]:
            console.data(line)
    if not any(engine["works"] for engine in engines.values()):
        context.exit(EXIT_CODES[Domain.ENVIRONMENT])


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    system, gpu, store = facts["system"], facts["gpu"], facts["store"]
    yield f"system    {system['distribution']}, {system['system']}, {system['cores']} cores, {system['memory_mb']} MiB"
    for device in gpu["devices"]:
        yield f"gpu       {device['product']}, {device['memory_gib']} GiB, sm {device['sm']}, {device['uuid']}"
    if gpu["devices"]:
        yield f"driver    {gpu['driver']}, CUDA {gpu['cuda'] or 'unknown'}, by {gpu['source']}{_serves(gpu['driver'])}"
    else:
        yield f"gpu       none: {gpu['reason']}"
    for name, found in facts["runtimes"].items():
        yield f"{name:9} {_one(found)}"
    yield f"cgroups   {_one(facts['cgroups'])}"
    kind = store["filesystem"] + ("" if store["supported"] else " (not one a store is made for)")
    share = "reflinks" if store.get("reflink") else "no reflinks"
    yield f"store     {store['path']}: {kind}, {human_bytes(store['free_bytes'])} free, {share}"
    for name, found in {**facts["tools"], "nix": facts["nix"]}.items():
        yield f"{name:9} {_one(found)}"
    yield f"logins    {', '.join(facts['registries']) or 'none'}"


def _serves(driver: str) -> str:
    """Which images can run here, by their CUDA."""
    from hermetic.llm.support.releases import newest_cuda

    newest = newest_cuda(driver)
    return f"; images with CUDA {newest} and before" if newest else ""


def _one(found: Mapping[str, Any]) -> str:
    if not found["works"]:
        return f"no: {found.get('error', '')}"
    return " ".join(
        filter(None, ("yes", str(found.get("version", "")), f"({found['only']})" if "only" in found else ""))
    )


def _engines(engines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for kind, found in engines.items():
        if found["works"]:
            yield f"yes  {kind:20} on {found['device']}, in {found['sandbox']}; {found['note']}"
        else:
            yield f"no   {kind}"
        for lack in found["missing"]:
            yield f"     {lack['what']}: {lack['why']}"
            yield f"     mend: {lack['mend']}"
