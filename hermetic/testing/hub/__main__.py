"""``python -m hermetic.testing.hub FOLDER``: serve the repositories of a folder until interrupted."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from hermetic.testing.hub.server import Hub


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hermetic.testing.hub", description=__doc__)
    parser.add_argument("folder", type=Path, help="{models,datasets}/OWNER/NAME/COMMIT/...")
    parser.add_argument("--port", type=int, default=0, help="0, the default: a free one")
    given = parser.parse_args()
    with Hub(given.port) as hub:
        hub.load(given.folder)
        print(f"HF_ENDPOINT={hub.endpoint}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
