"""The machine that a result may depend on: what is identity, and what only explains."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from hermetic.errors import Domain, HermeticError

__all__ = ["Platform", "cpu_isa", "detect"]

# The levels of the x86-64 psABI, lowest first, in the flag names of /proc/cpuinfo.
_LEVELS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "x86-64-v2": frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
        "x86-64-v3": frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
        "x86-64-v4": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    }
)


@dataclass(frozen=True, slots=True)
class Platform:
    """`system` is Nix's spelling ("x86_64-linux"); `cpu_isa` the instruction set level that numeric kernels choose by.

    Both may enter keys. `cpu_model`, `cores` and `kernel` are recorded beside a result and never hashed.
    """

    system: str
    cpu_isa: str
    cpu_model: str
    cores: int
    kernel: str

    def identity(self, fields: tuple[str, ...]) -> dict[str, str]:
        """The fields that a stage declares, for its key.

        Raises `HermeticError` (recipe/platform-field) for a field that is no part of an identity here.
        """
        known = {"system": self.system, "cpu_isa": self.cpu_isa}
        for name in fields:
            if name not in known:
                message = f"a stage declares the platform field {name!r}; known are {', '.join(sorted(known))}"
                raise HermeticError(Domain.RECIPE, "platform-field", message)
        return {name: known[name] for name in fields}


@functools.cache
def detect() -> Platform:
    """The machine we are on, read once a process."""
    machine = os.uname()
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
        facts = _first_processor(stream.read())
    return Platform(
        system=f"{machine.machine}-linux",
        cpu_isa=cpu_isa(machine.machine, frozenset(facts.get("flags", facts.get("Features", "")).split())),
        cpu_model=facts.get("model name", machine.machine),
        cores=len(os.sched_getaffinity(0)),
        kernel=machine.release,
    )


def cpu_isa(machine: str, flags: frozenset[str]) -> str:
    """The highest x86-64 level whose flags are all there; AMX and others beyond v4 are appended by name.

    Elsewhere the machine's name, with "+sve" where there are scalable vectors.
    """
    if machine != "x86_64":
        return f"{machine}+sve" if "sve" in flags else machine
    level = "x86-64"
    for name, needed in _LEVELS.items():
        if not needed <= flags:
            break
        level = name
    beyond = [name for name in ("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile") if name in flags]
    return "+".join([level, *beyond])


def _first_processor(text: str) -> dict[str, str]:
    block = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
