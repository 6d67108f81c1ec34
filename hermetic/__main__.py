"""``python -m hermetic``."""

from hermetic.cli import main

main()
