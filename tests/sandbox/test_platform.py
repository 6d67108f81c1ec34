"""What of a machine may enter a key."""

from __future__ import annotations

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox.platform import Platform, cpu_isa, detect

V2 = frozenset(["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"])
V3 = V2 | frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])
V4 = V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (frozenset(), "x86-64"),
        (V2, "x86-64-v2"),
        (V3, "x86-64-v3"),
        (V4, "x86-64-v4"),
        (V4 | {"avx512_bf16", "amx_tile"}, "x86-64-v4+avx512_bf16+amx_tile"),
        (V4 - {"fma"}, "x86-64-v2"),
    ],
)
def test_levels_of_x86(flags: frozenset[str], level: str) -> None:
    assert cpu_isa("x86_64", flags) == level


def test_other_machines_go_by_their_name() -> None:
    assert cpu_isa("aarch64", frozenset({"asimd"})) == "aarch64"
    assert cpu_isa("aarch64", frozenset({"sve"})) == "aarch64+sve"


def test_only_declared_fields_are_identity() -> None:
    platform = Platform("x86_64-linux", "x86-64-v4", "A CPU", 2, "6.1")
    assert platform.identity(()) == {}
    assert platform.identity(("cpu_isa", "system")) == {"cpu_isa": "x86-64-v4", "system": "x86_64-linux"}


@pytest.mark.parametrize("field", ["kernel", "cores", "sm"])
def test_what_is_only_recorded_is_refused(field: str) -> None:
    with pytest.raises(HermeticError) as caught:
        Platform("x86_64-linux", "x86-64", "", 1, "").identity((field,))
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "platform-field")


def test_this_machine() -> None:
    found = detect()
    assert found.system.endswith("-linux")
    assert found.cores >= 1
    assert found.cpu_isa
