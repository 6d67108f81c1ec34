"""The GPUs that a stage asks for, as data. Whether this machine has them is the sandbox's matter."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from hermetic.canonical import Value
from hermetic.recipe import evaluation

__all__ = ["KNOWN_GPUS", "Gpu"]

#: Product as the driver spells it: memory in GiB and compute capability, each read off such a GPU (`docs/gpu.md`).
KNOWN_GPUS: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "NVIDIA H100 80GB HBM3": (80, "9.0"),
        "NVIDIA H200": (140, "9.0"),
    }
)


class Gpu(BaseModel):
    """`count` GPUs of one kind, leased to a stage while it runs.

    `product` is the name that ``nvidia-smi -L`` prints, `memory_gib` the total that the driver reports, rounded to
    whole GiB, `sm` the compute capability ("9.0"). All three and `count` are in the stage's key. Memory and sm may be
    left out for the products in `KNOWN_GPUS`. ``Gpu()`` takes what the machine has that computes the key, so such a
    key means something only on machines with the same GPU.

    `portable="sm"` is for results that any GPU of one compute capability may make and use: only `sm` and `count`
    enter the key, and a GPU of another product is taken.

    `at_least_gib` and `at_least_driver` (``"580.65"``) are requirements, and not in the key: the first chooses among
    GPUs, the second is the oldest driver that it is for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    product: str = ""
    memory_gib: Annotated[int, Field(ge=0)] = 0
    sm: Annotated[str, Field(pattern=r"^([0-9]+\.[0-9])?$")] = ""
    count: Annotated[int, Field(ge=1)] = 1
    portable: Literal["", "sm"] = ""
    at_least_gib: Annotated[int, Field(ge=0)] = 0
    at_least_driver: Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)*)?$")] = ""

    def __init__(self, product: str = "", **data: Any) -> None:
        memory, sm = KNOWN_GPUS.get(product, (0, ""))
        data = {"memory_gib": memory, "sm": sm, **data}
        super().__init__(product=product, **data)
        if product and not (self.memory_gib and self.sm):
            hint = f"Gpu({product!r}, memory_gib=..., sm=...), as hermetic doctor shows them on that machine"
            evaluation.fail("gpu-unknown", f"{product} is no product whose memory and sm are known here", hint=hint)

    @property
    def declared(self) -> bool:
        """Whether the recipe says enough for a key; else the machine that computes it does."""
        return bool(self.sm and (self.portable or (self.product and self.memory_gib)))

    def identity(self) -> dict[str, Value]:
        """What enters the key. Call it on a declared one."""
        if self.portable:
            return {"sm": self.sm, "count": self.count}
        return {"product": self.product, "memory_gib": self.memory_gib, "sm": self.sm, "count": self.count}

    def __str__(self) -> str:
        if self.portable:
            return f"{self.count} x any GPU of sm {self.sm or '(detected)'}"
        if not self.product:
            return f"{self.count} x the GPU of this machine"
        return f"{self.count} x {self.product} ({self.memory_gib} GiB, sm {self.sm})"
