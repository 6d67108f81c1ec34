"""Is there room for what a stage will write? Asked before hours are spent."""

from __future__ import annotations

import shutil
from pathlib import Path

from stage_file import Refused


def check_space(out: Path, needed: int) -> None:
    """Raises `Refused` if `needed` bytes will not fit where `out` lies."""
    place = out if out.exists() else out.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Refused(f"disk too small: the result takes about {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free")
