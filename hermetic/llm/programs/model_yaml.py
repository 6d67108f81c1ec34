"""``model.yaml`` as the stage `tensorrt-llm-pytorch.model` writes it, and back: blocks of JSON values, sorted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def yaml_lines(settings: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Block style for dictionaries, JSON for the rest, which is YAML as well; sorted, so that equals are equal."""
    for name, value in sorted(settings.items()):
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from yaml_lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {json.dumps(value, sort_keys=True)}"


def read_yaml(text: str) -> dict[str, Any]:
    """What `yaml_lines` wrote; not for YAML of others."""
    found: dict[str, Any] = {}
    open_blocks = [found]
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip(" "))) // 2
        name, _, value = line.strip().partition(":")
        del open_blocks[depth + 1 :]
        inner: dict[str, Any] = {}
        open_blocks[-1][name] = json.loads(value) if value.strip() else inner
        if not value.strip():
            open_blocks.append(inner)
    return found
