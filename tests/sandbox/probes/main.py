"""The leak test's stage: runs every probe and prints one JSON line each."""

from __future__ import annotations

import json
import os
import sys

sys.path.insert(0, os.path.dirname(__file__))

import files  # noqa: F401
import identity  # noqa: F401
import kernel  # noqa: F401
import network  # noqa: F401
from probe import PROBES

for name, function in PROBES.items():
    try:
        saw, leak = function(), False
    except Exception as error:  # noqa: BLE001  # whatever a probe did not foresee is looked at by a person
        saw, leak = f"{type(error).__name__}: {error}", True
    sys.stdout.write(json.dumps({"name": name, "leak": leak, "saw": repr(saw)}) + "\n")
