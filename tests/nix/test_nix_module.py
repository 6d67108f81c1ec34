"""The NixOS module's services, written as unit files: systemd understands them, and finds little that they may do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from nix_machine import Nix, locked, run_nix

pytestmark = pytest.mark.slow

#: nixpkgs' lib checks what a module says; the stand-in's takes it as it is.
EXPRESSION = """\
let
  flake = builtins.getFlake "path:%s";
  module = flake.nixosModules.default {
    config.services.hermetic = {
      enable = true; name = "qwen3"; engine = "/nix/store/an-engine"; tokenizer = null; manifest = null;
      httpPort = 8000; grpcPort = 8001; metricsPort = 8002; user = "hermetic"; group = "hermetic";
      openai = { enable = true; port = 9000; };
    };
    config.nix.package = flake.inputs.nixpkgs.legacyPackages.x86_64-linux.uv;
    lib = flake.inputs.nixpkgs.lib;
    pkgs = flake.inputs.nixpkgs.legacyPackages.x86_64-linux;
  };
in module.config.systemd.services
"""
UNITS = ("hermetic-triton", "hermetic-openai")


@pytest.fixture(scope="module")
def units(evaluating: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both units, as NixOS writes them, but with a program that is there."""
    folder = tmp_path_factory.mktemp("module")
    nix = evaluating
    locked(nix.flake, folder / "checkout", nix.root, nix.standin)
    done = run_nix(nix.root, "eval", "--json", "--expr", EXPRESSION % (folder / "checkout"), "--impure")
    assert done.exit_code == 0, done.stderr
    for name, unit in json.loads(done.stdout).items():
        (folder / f"{name}.service").write_text(_text(unit))
    return folder


def _text(unit: dict[str, Any]) -> str:
    """As NixOS writes it: a list is several lines, or words where systemd reads words."""
    service = unit["serviceConfig"] | {"Environment": [f'"{k}={v}"' for k, v in unit["environment"].items()]}
    assert re.fullmatch(r"/nix/store/\S+/bin/(tritonserver|openai)-qwen3", service["ExecStart"])
    service |= {"ExecStart": "/bin/true", "User": "daemon", "Group": "daemon"}
    lines = ["[Unit]", f"Description={unit['description']}"]
    lines += [f"{key.capitalize()}={' '.join(unit[key])}" for key in ("after", "wants") if unit.get(key)]
    lines.append("[Service]")
    for key, value in service.items():
        lines += [f"{key}={_value(one)}" for one in (value if isinstance(value, list) else [value])]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_them(name: str, units: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", units / f"{name}.service"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    )
    ours = [line for line in done.stderr.splitlines() if "hermetic" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_they_may_do_little(name: str, units: Path) -> None:
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=40",
        "--no-pager",
        units / f"{name}.service",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_bubblewrap_works_in_them(units: Path) -> None:
    """The kernel lets nobody mount a /proc who sees only part of one: measured with each of the two."""
    for name in UNITS:
        text = (units / f"{name}.service").read_text()
        for setting in ("ProtectKernelTunables", "ProtectKernelLogs", "RestrictNamespaces", "@mount"):
            assert setting not in text


def test_they_are_given_what_the_programs_read(units: Path) -> None:
    text = (units / "hermetic-triton.service").read_text()
    for line in ('"TRTLLM_ENGINE_PATH=/nix/store/an-engine"', "ProtectSystem=strict", "Type=notify"):
        assert line in text
