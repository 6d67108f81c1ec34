"""Sizes and ages as people write them: ``50GB``, ``1.5TiB``, ``30d``."""

from __future__ import annotations

import re

import click

__all__ = ["AGE", "SIZE"]

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")
_BYTES = {unit: 1000**power for power, unit in enumerate(("", "k", "m", "g", "t", "p"))} | {
    f"{unit}i": 1024**power for power, unit in enumerate("kmgtp", start=1)
}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Quantity(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A number and a unit; gives bytes or seconds."""

    def __init__(self, name: str, units: dict[str, int], example: str) -> None:
        self.name = name
        self._units = units
        self._example = example

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _QUANTITY.fullmatch(str(value).strip())
        if match is None or (unit := match[2].lower()) not in self._units:
            self.fail(f"{value!r} is no {self.name.lower()}; write it as in {self._example}", param, ctx)
        return int(float(match[1]) * self._units[unit])


SIZE = _Quantity("SIZE", _BYTES | {f"{unit}b": count for unit, count in _BYTES.items()}, "50GB, 1.5TiB or 800M")
AGE = _Quantity("AGE", _SECONDS, "30d, 12h, 2w or 90min")
