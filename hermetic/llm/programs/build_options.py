"""What a builder was asked for, and what it says in ``config.json`` that it did. Imports nothing of its siblings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: As the command line says it, and as a configuration does.
_SWITCHES = {"enable": True, "disable": False, None: False}
#: ``SpeculativeDecodingMode`` of tensorrt_llm/models/modeling_utils.py, which config.json has as its number.
_DRAFTS = {
    1: None, 2: "draft_tokens_external", 4: "medusa", 8: "lookahead_decoding", 16: "explicit_draft_tokens", 32: "eagle"
}  # fmt: skip


def flat(made: dict[str, Any]) -> dict[str, Any]:
    """Build and plugin options by name; what is nested deeper stays as it is. Decimals become text."""
    nested = made.get("plugin_config", {})
    options = {name: value for name, value in made.items() if name != "plugin_config"}
    mode = options.get("speculative_decoding_mode")
    if isinstance(mode, int):
        options["speculative_decoding_mode"] = _DRAFTS.get(mode, mode)
    return {name: _plain(value) for name, value in sorted({**options, **nested}.items())}


def different(requested: dict[str, Any], effective: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for and came out otherwise: ``option``, ``requested`` and ``effective`` of each."""
    return [
        {"option": name, "requested": value, "effective": effective[name]}
        for name, value in sorted(requested.items())
        if name in effective and _meaning(value) != _meaning(effective[name])
    ]


def tensorrt_of(plan: Path) -> str:
    """TensorRT's version by the header of a plan, "unknown" where it does not look like one (see `plan_version`)."""
    if not plan.is_file():
        return "unknown"
    with plan.open("rb") as stream:
        return plan_version(stream.read(27)) or "unknown"


def plan_version(head: bytes) -> str:
    """The version in the first 27 bytes of a plan; "" if they are of another form.

    Not documented by NVIDIA: that a plan begins with ``ftrt``, and that bytes 24 to 26 are the version, is what others
    found (NVIDIA/TensorRT issue 3073, and autoware_universe's ``tensorrt_common.hpp``, which reads them so).
    """
    version = head[24:27]
    # 5 to 15 are the majors that have been or may soon be.
    known = head[:4] == b"ftrt" and len(version) == 3 and 5 <= version[0] <= 15 and version[1] < 40
    return ".".join(map(str, version)) if known else ""


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
