"""Every sync point of the store is in a crash matrix."""

from __future__ import annotations

import re
from pathlib import Path

from test_store_abandoned import ABANDONED_MATRIX
from test_store_crash import MATRIX, RECOVERY
from test_store_gc_crash import GC_MATRIX, STALE
from test_store_images import IMAGE_MATRIX
from test_store_import import IMPORT_MATRIX
from test_store_profiles import LINK_MATRIX, PRUNE_MATRIX
from test_store_repair import REPAIR_MATRIX
from test_store_roots import ROOT_MATRIX

import hermetic.store

OTHERS = ABANDONED_MATRIX + STALE + IMAGE_MATRIX + IMPORT_MATRIX + LINK_MATRIX + PRUNE_MATRIX + REPAIR_MATRIX


def test_the_matrices_have_every_sync_point() -> None:
    folder = Path(hermetic.store.__file__).parent
    points = {
        name for path in folder.glob("*.py") for name in re.findall(r'reach\("([^"]+)"\)', path.read_text("utf-8"))
    }
    assert points == {name.partition("#")[0] for name in MATRIX + RECOVERY + GC_MATRIX + ROOT_MATRIX + OTHERS}
