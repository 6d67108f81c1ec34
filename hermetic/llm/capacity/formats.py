"""What an element takes in each weight and cache format, scales included. Sources are with each entry."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

__all__ = ["KV_FORMATS", "WEIGHT_FORMATS", "WeightFormat"]

Bits = Fraction


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """`bits` of one weight of a linear layer, its share of the scales included.

    All formats leave embeddings, the output projection and norms in 16 bits, as the exporters of ModelOpt do unless
    they are told to quantise the output projection too.
    """

    name: str
    bits: Bits


#: A 4-bit weight in groups of 128 has one 16-bit scale a group; NVFP4 has one 8-bit scale for 16 weights (NVIDIA,
#: "Introducing NVFP4": E2M1 values, an E4M3 scale per 16, one FP32 scale per tensor). Scales per channel or tensor
#: are thousands of times fewer than weights and not counted.
WEIGHT_FORMATS: Final = {
    spec.name: spec
    for spec in (
        WeightFormat("none", Bits(16)),
        WeightFormat("fp8", Bits(8)),
        WeightFormat("int8_sq", Bits(8)),
        WeightFormat("int8_wo", Bits(8)),
        WeightFormat("int4_wo", Bits(4)),
        WeightFormat("int4_awq", 4 + Bits(16, 128)),
        WeightFormat("w4a8_awq", 4 + Bits(16, 128)),
        WeightFormat("nvfp4", 4 + Bits(8, 16)),
    )
}

#: Bits of one cached element; NVFP4 carries the same scales in the cache.
KV_FORMATS: Final = {"none": Bits(16), "fp8": Bits(8), "int8": Bits(8), "nvfp4": 4 + Bits(8, 16)}
