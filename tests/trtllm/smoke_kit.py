"""Engines of the stand-in, and the programs that load them, run outside a sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hermetic.llm.smoke import _SCHEMA
from hermetic.testing.trtllm.image import runtime_packages

PROGRAMS = Path(__file__).parents[2] / "hermetic" / "llm" / "programs"
STANDIN = Path(__file__).parents[2] / "hermetic" / "testing" / "trtllm" / "mpirun.py"
PARAMETERS: dict[str, Any] = {
    "prompts": ["Who are you?"],
    "golden": {},
    "golden_tolerance": "0",
    "max_new_tokens": 64,
    "prefill": 512,
    "allow_repetition": False,
    "json_schema": _SCHEMA,
    "json_prompt": "Which city?",
    "max_json_tokens": 64,
}


class Kit:
    """An engine of the stand-in, and the programs run over it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, folder / "site"
        for name, content in runtime_packages().items():
            (self.site / name).parent.mkdir(parents=True, exist_ok=True)
            (self.site / name).write_bytes(content)
        (folder / "bin").mkdir()
        mpirun = folder / "bin" / "mpirun"
        mpirun.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STANDIN}" "$@"\n')
        mpirun.chmod(0o755)

    def engine(self, ranks: int = 1, name: str = "engine", **build: int) -> None:
        place = self.folder / name
        place.mkdir()
        model = {"vocab_size": 512, "mapping": {"world_size": ranks, "tp_size": ranks}}
        made = {"max_seq_len": 1024, "max_input_len": 256, **build}
        config = {"version": "1.2.1", "pretrained_config": model, "build_config": made}
        (place / "config.json").write_text(json.dumps(config))
        (place / "tokenizer.json").write_text("{}")
        for rank in range(ranks):
            (place / f"rank{rank}.engine").write_bytes(b"ftrt" + name.encode() + bytes([rank]) * 100)

    def checkpoint(self, yaml: str) -> None:
        place = self.folder / "engine"
        (place / "checkpoint").mkdir(parents=True)
        (place / "model.yaml").write_text(yaml)
        (place / "checkpoint" / "config.json").write_text('{"vocab_size": 512}')
        (place / "checkpoint" / "tokenizer.json").write_text("{}")
        (place / "checkpoint" / "model.safetensors").write_bytes(b"weights")

    def run(
        self, program: str, parameters: dict[str, Any], behaviour: str = "", *, roles: tuple[str, ...] = ("engine",)
    ) -> subprocess.CompletedProcess[str]:
        inputs = {role: str(self.folder / role) for role in roles}
        stage = {"name": "stage", "parameters": parameters, "inputs": inputs}
        (self.folder / "stage.json").write_text(json.dumps(stage | {"out": str(self.folder / "out")}))
        command = [sys.executable, "-P", "-B", str(PROGRAMS / program), str(self.folder / "stage.json")]
        environ = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "PYTHONPATH": str(self.site)}
        environ |= {"STANDIN_ANSWERS": behaviour}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)

    def smoke(
        self, behaviour: str = "", *, roles: tuple[str, ...] = ("engine",), **changes: Any
    ) -> subprocess.CompletedProcess[str]:
        return self.run("trtllm_smoke.py", PARAMETERS | changes, behaviour, roles=roles)

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "out" / "report.json").read_bytes())
        return found
