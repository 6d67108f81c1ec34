"""Wheels made here and put where an index serves them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Index:
    """A PEP 503 index in a folder. `url` serves it."""

    folder: Path
    url: str

    def add(self, name: str, files: Mapping[str, str], *, version: str = "1.0", scripts: str = "") -> str:
        """Publish a pure wheel; returns its line for a lock."""
        wheel = self.folder / name / f"{name}-{version}-py3-none-any.whl"
        wheel.parent.mkdir(parents=True, exist_ok=True)
        info = f"{name}-{version}.dist-info"
        inside = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        if scripts:
            inside[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}\n"
        inside[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*inside, f"{info}/RECORD"])
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in inside.items():
                archive.writestr(path, text)
        links = "".join(f'<a href="{each.name}">{each.name}</a>' for each in sorted(wheel.parent.glob("*.whl")))
        (wheel.parent / "index.html").write_text(links)
        return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
