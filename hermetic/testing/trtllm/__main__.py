"""``python -m hermetic.testing.trtllm FOLDER [VERSION]``: write the stand-in's image and print its reference."""

from __future__ import annotations

import sys

from hermetic.errors import HermeticError
from hermetic.testing.trtllm.image import build_image


def main(words: list[str]) -> int:
    if len(words) not in (1, 2):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    try:
        print(build_image(words[0], *words[1:]).reference)
    except HermeticError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
