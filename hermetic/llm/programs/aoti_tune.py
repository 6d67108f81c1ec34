"""Stage `tuned`: compile once, and keep what the compiler found out, not what it made.

``cache/`` is Inductor's and Triton's cache with the kernels that were chosen; ``tuned.json`` says with which tools and
on which machine. The engine stage starts from it and so chooses the same kernels, whenever it is built again.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from aoti_compile import CACHE, compile_package
from aoti_settings import NAME
from stage_file import StageFile, run, say, write_json


def build(stage: StageFile) -> None:
    scratch = Path(os.environ["TMPDIR"]) / NAME
    found = compile_package(stage, scratch)
    scratch.unlink()
    stage.out.mkdir(exist_ok=True)
    shutil.copytree(CACHE, stage.out / "cache", ignore=shutil.ignore_patterns("*.lock", "tmp.*", "*.so", "*.o"))
    kept = [path for path in (stage.out / "cache").rglob("*") if path.is_file()]
    say(f"kept {len(kept)} files, {sum(path.stat().st_size for path in kept)} bytes")
    write_json(stage.out / "tuned.json", found)


if __name__ == "__main__":
    run(build)
