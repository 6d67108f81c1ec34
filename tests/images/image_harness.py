"""What the tests of images share: the real command as one user, and what to skip without."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ORDINARY = 65534


def need(*commands: str) -> None:
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"needs {command}")


@dataclass
class Ran:
    stdout: str
    stderr: str
    status: int

    @property
    def path(self) -> Path:
        assert self.status == 0, self.stderr
        return Path(self.stdout.split()[-1])


@dataclass
class User:
    """Runs the real command as one user, in a folder and with a store of their own."""

    uid: int | None
    folder: Path
    command: list[str]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def environment(self) -> dict[str, str]:
        home = str(self.folder / "home")
        ours = {"PATH": os.environ["PATH"], "HOME": home, "HERMETIC_STORE": str(self.store), "TMPDIR": "/tmp"}
        places = {name: home + "/" + name.lower() for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
        return ours | places | self.variables

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        identity = {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        return subprocess.Popen(
            [*self.command, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **identity,
        )

    def __call__(self, *arguments: object) -> Ran:
        process = self.start(*arguments)
        out, err = process.communicate()
        return Ran(out, err, process.returncode)

    def recipe(self, image: str, script: str = "echo done > /build/out/f", *, name: str = "recipe", **more: str) -> str:
        """A recipe of one stage `out`, which runs `script` in `image`."""
        extra = "".join(f", {key}={value}" for key, value in more.items())
        text = f"from hermetic import Image, Script\nenv = Image({image!r})\n"
        text += f"out = Script({name + '.sh'!r}, environment=env{extra})\n"
        self.write(f"{name}.py", text)
        self.write(f"{name}.sh", f"#!/bin/sh\nset -e\n{script}\n", mode=0o755)
        return f"{name}.py"

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)
        return path
