"""The fixtures of `store_kit`, which has a name of its own because every folder of tests has a conftest."""

from __future__ import annotations

from store_kit import _removed, bench, script, shared_path, source, store

__all__ = ["_removed", "bench", "script", "shared_path", "source", "store"]
