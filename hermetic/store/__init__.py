"""Immutable paths: layout, ingest, realisations, leases, roots, verification.

Names are loaded on first use, so that `hermetic.store.peek` costs nothing but itself.
"""

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without importing typing
if TYPE_CHECKING:
    from hermetic.store.attempts import Attempt
    from hermetic.store.collecting import Collection, Fate, Wishes
    from hermetic.store.locks import KeyLock
    from hermetic.store.manifest import Entry, Manifest
    from hermetic.store.realisation import Realisation
    from hermetic.store.removal import remove_tree
    from hermetic.store.roots import Root
    from hermetic.store.run import Run, Workspace
    from hermetic.store.store import Store
    from hermetic.store.verify import Problem
    from hermetic.store.walk import Limits

__all__ = [
    "Attempt",
    "Collection",
    "Entry",
    "Fate",
    "KeyLock",
    "Limits",
    "Manifest",
    "Problem",
    "Realisation",
    "Root",
    "Run",
    "Store",
    "Wishes",
    "Workspace",
    "remove_tree",
]

_HOMES = {
    "Attempt": "attempts",
    "Collection": "collecting",
    "Entry": "manifest",
    "Fate": "collecting",
    "KeyLock": "locks",
    "Limits": "walk",
    "Manifest": "manifest",
    "Problem": "verify",
    "Realisation": "realisation",
    "Root": "roots",
    "Run": "run",
    "Store": "store",
    "Wishes": "collecting",
    "Workspace": "run",
    "remove_tree": "removal",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        import importlib  # noqa: PLC0415  # see the module docstring

        return getattr(importlib.import_module(f"hermetic.store.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
