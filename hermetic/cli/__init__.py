"""The command line. One verb, one file; what a verb needs is imported when it runs."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command in `sys.argv` and exit with its code."""
    from hermetic.cli.fast import answer

    code = answer(sys.argv[1:])
    if code is None:
        from hermetic.cli.app import run

        code = run(sys.argv[1:])
    sys.exit(code)
