"""Immutable paths: layout, ingest, realisations, leases, roots, profiles, collection, verification, repair.

Names are loaded on first use, so that `hermetic.store.peek` costs nothing but itself.
"""

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without importing typing
if TYPE_CHECKING:
    from hermetic.store.attempts import Attempt
    from hermetic.store.collecting import Collection, Fate, Wishes
    from hermetic.store.images import Unpacked
    from hermetic.store.importing import import_tree
    from hermetic.store.locks import KeyLock
    from hermetic.store.manifest import Entry, Manifest
    from hermetic.store.profiles import Generation
    from hermetic.store.realisation import Realisation
    from hermetic.store.removal import remove_tree
    from hermetic.store.repair import Drop
    from hermetic.store.roots import Root
    from hermetic.store.run import Run, Workspace
    from hermetic.store.store import Store
    from hermetic.store.switching import Profile
    from hermetic.store.usage import Ledger, Usage
    from hermetic.store.verify import Problem
    from hermetic.store.walk import Limits

__all__ = [
    "Attempt",
    "Collection",
    "Drop",
    "Entry",
    "Fate",
    "Generation",
    "KeyLock",
    "Ledger",
    "Limits",
    "Manifest",
    "Problem",
    "Profile",
    "Realisation",
    "Root",
    "Run",
    "Store",
    "Unpacked",
    "Usage",
    "Wishes",
    "Workspace",
    "import_tree",
    "remove_tree",
]

_HOMES = {
    "Attempt": "attempts",
    "Collection": "collecting",
    "Drop": "repair",
    "Entry": "manifest",
    "Fate": "collecting",
    "Generation": "profiles",
    "KeyLock": "locks",
    "Ledger": "usage",
    "Limits": "walk",
    "Manifest": "manifest",
    "Problem": "verify",
    "Profile": "switching",
    "Realisation": "realisation",
    "Root": "roots",
    "Run": "run",
    "Store": "store",
    "Unpacked": "images",
    "Usage": "usage",
    "Wishes": "collecting",
    "Workspace": "run",
    "import_tree": "importing",
    "remove_tree": "removal",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        import importlib  # noqa: PLC0415  # see the module docstring

        return getattr(importlib.import_module(f"hermetic.store.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
