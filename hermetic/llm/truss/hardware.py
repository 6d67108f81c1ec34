"""What accelerators can compute in, as data."""

from __future__ import annotations

from typing import Final

from hermetic.llm.truss.section import Quantisation
from hermetic.llm.truss.serving import AcceleratorName

__all__ = ["MEMORY", "NEEDS", "PRODUCTS", "SM", "least_sm"]

#: Compute capability of each accelerator, times ten. B10 is nobody's published product and so has none.
#: Source: NVIDIA, "CUDA GPU compute capability", and Truss's own lists of what FP8 and FP4 run on.
SM: Final = {
    AcceleratorName.V100: 70,
    AcceleratorName.T4: 75,
    AcceleratorName.A100: 80,
    AcceleratorName.A100_40GB: 80,
    AcceleratorName.A10G: 86,
    AcceleratorName.L4: 89,
    AcceleratorName.L40S: 89,
    AcceleratorName.H100: 90,
    AcceleratorName.H100_40GB: 90,
    AcceleratorName.H200: 90,
    AcceleratorName.B200: 100,
    AcceleratorName.B300: 103,
    AcceleratorName.GB300: 103,
    AcceleratorName.RTX_PRO_6000: 120,
}

#: Memory of each in GB, as NVIDIA's data sheets have it (H100_40GB: an instance of half an H100). What a driver reports
#: is a little less, so what does not fit into this does not fit. Products of several sizes, as V100, have the largest.
MEMORY: Final = {
    AcceleratorName.V100: 32,
    AcceleratorName.T4: 16,
    AcceleratorName.A100: 80,
    AcceleratorName.A100_40GB: 40,
    AcceleratorName.A10G: 24,
    AcceleratorName.L4: 24,
    AcceleratorName.L40S: 48,
    AcceleratorName.H100: 80,
    AcceleratorName.H100_40GB: 40,
    AcceleratorName.H200: 141,
    AcceleratorName.B200: 192,
    AcceleratorName.B300: 288,
    AcceleratorName.GB300: 288,
    AcceleratorName.RTX_PRO_6000: 96,
}

#: What the driver calls them, where that was read off one (`hermetic.recipe.gpu`).
PRODUCTS: Final = {"H100": "NVIDIA H100 80GB HBM3", "H200": "NVIDIA H200"}

#: The least compute capability (times ten) of formats that not every accelerator has.
NEEDS: Final = {"fp8": 89, "fp4": 100}


def least_sm(quantisation: Quantisation) -> int:
    return next((sm for prefix, sm in NEEDS.items() if quantisation.value.startswith(prefix)), 0)
