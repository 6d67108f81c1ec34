"""``python -m bench [NAME...]``: measure, print the table, write ``bench/results/latest.json``."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bench.figures
from bench import machine
from bench.place import Place
from bench.rows import Row, failures, table, write
from bench.timing import Failed

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    names = [module.name for module in pkgutil.iter_modules(bench.figures.__path__)]
    parser = argparse.ArgumentParser(prog="python -m bench", description=bench.__doc__)
    parser.add_argument("figures", nargs="*", metavar="NAME", help=f"of {', '.join(names)} [all]")
    parser.add_argument("--runs", type=int, default=15, help="samples of what takes milliseconds [%(default)s]")
    parser.add_argument("--json", type=Path, default=REPOSITORY / "bench" / "results" / "latest.json")
    parser.add_argument("--strict", action="store_true", help="fail on a missed limit; only fair on an idle machine")
    asked = parser.parse_args()
    if unknown := set(asked.figures) - set(names):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    rows = [row for name in asked.figures or names for row in _measure(name, asked.runs)]
    described = {"command": " ".join(["python -m bench", *asked.figures]), **machine.describe(REPOSITORY)}
    sys.stdout.write(table(rows) + "\n")
    write(asked.json, described, rows)
    sys.stderr.write(f"{described['cpu']}, {described['cores']} cores; as JSON: {asked.json}\n")
    missed = failures(rows)
    return 1 if any(row.value is None or asked.strict for row in missed) else 0


def _measure(name: str, runs: int) -> Iterator[Row]:
    sys.stderr.write(f"measuring {name}\n")
    module = importlib.import_module(f"bench.figures.{name}")
    folder = Path(tempfile.mkdtemp(prefix=f"hermetic-bench-{name}-"))
    try:
        yield from module.measure(Place(REPOSITORY, folder, runs))
    except Failed as failure:
        sys.stderr.write(f"{name}: {failure}\n")
        yield Row(name, "could not be measured", None, "", note=str(failure).splitlines()[0][:100])
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Store paths are read-only folders, which an ordinary user must open before removing what is in them."""
    for parent, names, _ in os.walk(folder):
        for child in names:
            path = os.path.join(parent, child)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
