"""``hermetic config``: every setting and where it came from."""

from __future__ import annotations

import click

from hermetic.cli import console, options, settings


@click.command("config")
@options.as_json
def command(as_json: bool) -> None:
    """Show every setting, its value and where it came from."""
    for name, (_, meaning) in settings.KNOWN.items():
        setting = settings.find(name)
        value = setting.value if setting is not None else settings.store_root() if name == "store" else None
        source = setting.source if setting is not None else "default"
        if as_json:
            console.json_line({"name": name, "value": value, "source": source, "meaning": meaning})
        else:
            console.data(f"{name:8} {'-' if value is None else value}  ({source}; {meaning})")
