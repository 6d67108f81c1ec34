"""NNCF without scipy.

NNCF imports one function of scipy, for its LoRA correction, which no stage uses; scipy would be a quarter of the
environment. Import this module before nncf: it puts an object in that function's place that says so when called.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType


def _lstsq(*_: object, **__: object) -> None:
    raise NotImplementedError("scipy is not part of this environment; LoRA correction needs it")


if find_spec("scipy") is None:
    _linalg = ModuleType("scipy.linalg")
    _linalg.__dict__["lstsq"] = _lstsq
    sys.modules["scipy"] = ModuleType("scipy")
    sys.modules["scipy.linalg"] = _linalg
