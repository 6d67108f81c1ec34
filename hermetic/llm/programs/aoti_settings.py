"""Fixed places for PyTorch's compilers. To be imported before they are used; each reads its variables then.

A package embeds its own file name and that of the compiler cache, so both are always the same.
"""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(os.environ.get("TMPDIR", "/build/tmp")) / "inductor"
NAME = "engine.pt2"

os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(CACHE)
os.environ["TRITON_CACHE_DIR"] = str(CACHE / "triton")
# The linker looks for libcuda.so, which the sandbox has where the driver's libraries are.
os.environ.setdefault("LIBRARY_PATH", os.environ.get("LD_LIBRARY_PATH", ""))
# Headers of the CUDA toolkit; those in NVIDIA's wheels for CUDA 13 lack ``crt/``.
os.environ.setdefault("CUDA_HOME", "/usr/local/cuda")
