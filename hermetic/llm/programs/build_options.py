"""What a builder was asked for, and what it says in ``config.json`` that it did. Imports nothing of its siblings."""

from __future__ import annotations

from typing import Any

#: As the command line says it, and as a configuration does.
_SWITCHES = {"enable": True, "disable": False, None: False}


def flat(made: dict[str, Any]) -> dict[str, Any]:
    """Build and plugin options by name; what is nested deeper stays as it is. Decimals become text."""
    nested = made.get("plugin_config", {})
    options = {name: value for name, value in made.items() if name != "plugin_config"}
    return {name: _plain(value) for name, value in sorted({**options, **nested}.items())}


def different(requested: dict[str, Any], effective: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for and came out otherwise: ``option``, ``requested`` and ``effective`` of each."""
    return [
        {"option": name, "requested": value, "effective": effective[name]}
        for name, value in sorted(requested.items())
        if name in effective and _meaning(value) != _meaning(effective[name])
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _meaning(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return _SWITCHES.get(value, value.lower() if value else False)
    return value
