"""What a user wants served: an engine by path, by profile or by its link, and what vouches for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hermetic.errors import Domain, HermeticError
from hermetic.serve import nix_store
from hermetic.serve.triton_deployment import manifest_files, verify
from hermetic.store import Realisation, Store

__all__ = ["Engine", "find_engine", "vouch"]

#: An engine from elsewhere, whatever the name; what scripts around Triton call it.
_OVERRIDES = ("TRTLLM_ENGINE_PATH", "ENGINE_PATH")


@dataclass(frozen=True)
class Engine:
    """An engine folder, and how it was found: in words, for people. `link` shows it as long as nobody switches it."""

    name: str
    path: str
    found: str
    link: str = ""


def find_engine(named: str, store: Store, links: str, environ: Mapping[str, str]) -> Engine:
    """A path is a path. A name is ``TRTLLM_ENGINE_PATH`` (or ``ENGINE_PATH``), else the profile of that name, else
    ``NAME`` in the folder `links`.

    Raises `HermeticError`: usage/no-engine, store/profile-nowhere for a profile or link that leads to nothing.
    """
    if "/" in named:
        path = os.path.abspath(named)
        return _there(Engine(os.path.basename(path), path, "as given"), "no-engine")
    for variable in _OVERRIDES:
        if environ.get(variable):
            return _there(Engine(named, os.path.abspath(environ[variable]), variable), "no-engine")
    history = store.profile(named).history()
    if history:
        shown = store.profile(named).current() or history[-1]
        link = shown.link if shown.is_shown(store.layout) else ""
        found = Engine(named, shown.path(store.layout), f"profile {named}, generation {shown.number}", link)
        return _there(found, "profile-nowhere")
    link = os.path.join(links, named)
    found = Engine(named, os.path.realpath(link), link, link)
    return _there(found, "profile-nowhere" if os.path.islink(link) else "no-engine")


def _there(engine: Engine, reason: str) -> Engine:
    if os.path.isdir(engine.path):
        return engine
    found = "no profile is called that, and " if engine.found == engine.path else f"{engine.found}: "
    message = f"there is no engine {engine.name!r}: {found}{engine.path} is no folder"
    if reason == "profile-nowhere":
        hint = f"hermetic link {engine.name} RECIPE#engine, or hermetic profile rollback {engine.name}"
        raise HermeticError(Domain.STORE, reason, message, hint=hint)
    raise HermeticError(Domain.USAGE, reason, message, hint=f"hermetic link {engine.name} RECIPE#engine")


def vouch(engine: Engine, manifest: str | None, store: Store) -> str | None:
    """Let something say that the engine is what it was when it was made; the manifest that did, None for a store.

    That is `manifest` if given, else ``manifest.json`` in the folder, else the store's record of the path, or Nix's.
    Raises `HermeticError`: trust/no-manifest where there is none of them, trust/engine-changed, trust/manifest-invalid.
    """
    listed = manifest or os.path.join(engine.path, "manifest.json")
    if os.path.isdir(listed):
        listed = os.path.join(listed, "manifest.json")
    if manifest or os.path.isfile(listed):
        verify("engine", engine.path, manifest_files(listed), whole=True)
        return listed
    record = _record(engine.path, store)
    if record is None and nix_store.vouches(engine.path):
        return None
    if record is None:
        message = f"nothing vouches for {engine.path}: it has no manifest.json and is no path of this store"
        hint = "give the manifest that its build left with --manifest, or adopt it: hermetic import"
        raise HermeticError(Domain.TRUST, "no-manifest", message, hint=hint)
    problems = [f"{os.path.relpath(one.path, engine.path)} {one.what}" for one in store.verify([record.key])]
    if problems:
        message = f"the engine in {engine.path} is not what was built: {'; '.join(problems[:20])}"
        hint = "hermetic repair, or hermetic profile rollback"
        raise HermeticError(Domain.TRUST, "engine-changed", message, hint=hint, data={"problems": problems})
    return None


def _record(path: str, store: Store) -> Realisation | None:
    real = os.path.realpath(path)
    try:
        record = store.find(real)
    except HermeticError:
        return None
    return record if os.path.realpath(record.path(store)) == real else None
