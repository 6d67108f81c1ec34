"""What Nix built is used: the documented commands one after the other, and the ways between Nix's store and ours."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from nix_machine import Machine, tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DOCUMENT = Path(__file__).parents[2] / "docs/nix.md"


def commands(heading: str) -> list[str]:
    """The lines of the shell blocks below a heading of docs/nix.md, without comments."""
    section = DOCUMENT.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def post(url: str, body: str) -> Any:
    with urllib.request.urlopen(url, body.encode()) as answer:
        return json.load(answer)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class TestQuickStart:
    """The quick start as docs/nix.md has it, with the tiny engine in the large one's place."""

    def test_its_commands_one_after_the_other(self, machine: Machine) -> None:
        lines = [line.replace("qwen3-32b-engine", "tiny-engine") for line in commands("Quick start")]
        names = ("TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT", "OPENAI_PORT")
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))  # on one's own machine: none of these
        built, folder, linked, triton, openai, curl = lines
        machine("sh", "-c", built)
        machine("sh", "-c", folder)
        machine("sh", "-c", linked)
        link = machine.home / ".cache/trtllm-engines/qwen3"
        assert re.fullmatch(r"/nix/store/\w{32}-engine", os.readlink(link))
        with machine.started("sh", "-c", f"exec {triton}", **ports) as said:
            assert said == f"http://127.0.0.1:{ports['TRITON_HTTP_PORT']}\n"
            asked = json.dumps({"text_input": "What is a store path?", "max_tokens": 8})
            assert post(f"{said.strip()}/v2/models/ensemble/generate", asked)["text_output"]
            with machine.started("sh", "-c", f"exec {openai}", **ports):
                command, url, data, body = shlex.split(curl)
                assert (command, data) == ("curl", "-d")
                answer = post(url.replace(":9000/", f":{ports['OPENAI_PORT']}/"), body)
                assert answer["choices"][0]["message"]["content"].startswith("Hello! I am the tiny model")


@pytest.fixture
def engine(machine: Machine) -> str:
    """The tiny engine's path in Nix's store."""
    built = machine("nix", "build", ".#tiny-engine", "--no-link", "--json")
    return str(json.loads(built.stdout)[0]["outputs"]["out"])


def hermetic(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "hermetic", *words)


class TestAcross:
    def test_an_engine_of_nix_is_adopted_with_the_tree_it_has(self, machine: Machine, engine: str) -> None:
        done = machine(*hermetic("import", engine, "--json"))
        made = json.loads(done.stdout.splitlines()[0])
        assert made["tree"] == tree(f"{machine.root}{engine}")
        assert made["path"].endswith("-engine")

    def test_a_link_shows_it_where_it_is(self, machine: Machine, engine: str) -> None:
        machine(*hermetic("link", "shown", engine))
        assert os.path.realpath(machine.home / ".cache/trtllm-engines/shown") == engine

    def test_nix_vouches_for_it_and_against_it(self, machine: Machine, engine: str, tmp_path: Path) -> None:
        """For what Nix does not know nobody vouches; against what was changed since, Nix bears witness."""
        folder = Path(f"{machine.root}{engine}")
        other = folder.with_name("0" * 32 + "-engine")
        shutil.copytree(folder, other)
        done = machine(*hermetic("serve", "triton", f"/nix/store/{other.name}"), ok=False)
        assert "trust/no-manifest" in done.stderr
        config = folder / "config.json"
        before = config.read_bytes()
        try:
            os.chmod(config, 0o644)
            config.write_bytes(before + b"\n")
            done = machine(*hermetic("serve", "triton", engine), ok=False)
            assert (done.exit_code, "trust/engine-changed" in done.stderr) == (5, True)
        finally:
            config.write_bytes(before)
            os.chmod(config, 0o444)
            os.utime(config, (1, 1))

    def test_copied_without_compression_it_is_the_same(self, machine: Machine, engine: str, tmp_path: Path) -> None:
        cache = f"file://{tmp_path}/cache?compression=none"
        machine("nix", "copy", "--to", cache, engine)
        assert list((tmp_path / "cache/nar").glob("*.nar"))
        machine("nix", "copy", "--from", cache, "--to", tmp_path / "there", "--no-check-sigs", engine)
        assert tree(f"{tmp_path}/there{engine}") == tree(f"{machine.root}{engine}")
        subprocess.run(["chmod", "-R", "u+w", tmp_path / "there"], check=True)
