"""A store with a few paths in it, and the real command working on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "store"))

from store_kit import Bench  # it lies in the folder that was just added

from hermetic.store import Store, remove_tree


@pytest.fixture
def bench(store_root: Path) -> Bench:
    """The store that `cli` works on."""
    return Bench(Store.open(store_root))


@pytest.fixture(autouse=True)
def _removed(tmp_path: Path) -> Iterator[None]:
    """As in the store's own tests: what is read-only pytest cannot remove."""
    yield
    for path in tmp_path.iterdir():
        remove_tree(str(path))
