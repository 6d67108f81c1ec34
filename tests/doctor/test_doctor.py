"""``hermetic doctor``: the document, the verdicts, and a place where no user namespace can be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermetic.realise.verdicts import KINDS, verdicts, without_sandbox
from hermetic.sandbox import tools
from hermetic.testing.gpu import H200, stand_in_gpus

GOOD = {"works": True}
BAD = {"works": False, "error": "it is not there", "hint": "get it"}


def facts(**bad: bool) -> dict:
    """A machine on which everything works but what is named."""

    def one(name: str) -> dict:
        return dict(BAD) if bad.get(name) else dict(GOOD)

    return {
        "gpu": one("gpu"),
        "store": one("store"),
        "runtimes": {"bwrap": one("bwrap"), "podman": one("podman"), "docker": one("docker")},
        "tools": {"uv": one("uv"), "umoci": one("umoci"), "g++": one("gxx")},
    }


def lacking(kind: str, **bad: bool) -> list[str]:
    return [lack["what"] for lack in verdicts(facts(**bad))[kind]["missing"]]


class TestVerdicts:
    def test_all_kinds_on_a_machine_with_everything(self) -> None:
        assert {kind: found["works"] for kind, found in verdicts(facts()).items()} == dict.fromkeys(KINDS, True)

    def test_without_a_gpu(self) -> None:
        found = verdicts(facts(gpu=True))
        assert [kind for kind in KINDS if found[kind]["works"]] == ["openvino", "aoti"]
        assert found["aoti"]["device"] == "cpu"
        assert verdicts(facts())["aoti"]["device"] == "cuda"

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_no_has_a_reason_and_what_mends_it(self, kind) -> None:
        everything = dict.fromkeys(("gpu", "store", "bwrap", "podman", "docker", "uv", "umoci", "gxx"), True)
        missing = verdicts(facts(**everything))[kind]["missing"]
        assert missing
        assert all(lack["why"] == "it is not there" and lack["mend"] == "get it" for lack in missing)

    def test_one_sandbox_is_enough(self) -> None:
        assert lacking("openvino", bwrap=True) == []
        assert verdicts(facts(bwrap=True))["openvino"]["sandbox"] == "podman"
        assert lacking("openvino", bwrap=True, podman=True) == ["sandbox"]

    def test_what_each_kind_needs(self) -> None:
        assert lacking("openvino", uv=True) == ["tools.uv"]
        assert lacking("aoti", gxx=True) == ["tools.g++"]
        assert lacking("tensorrt-llm", gpu=True, umoci=True) == ["gpu", "tools.umoci"]


class TestWithoutASandbox:
    def test_nothing_is_said_where_bubblewrap_works(self) -> None:
        assert without_sandbox(facts()) == []

    def test_podman_then_docker_then_the_image_itself(self) -> None:
        ways = without_sandbox(facts(bwrap=True))
        assert [way.split()[0] for way in ways] == ["podman", "docker", "run"]
        assert "impure" in ways[-1]

    def test_in_a_bare_pod(self) -> None:
        (way,) = without_sandbox(facts(bwrap=True, podman=True, docker=True))
        assert way.startswith("run the stage's program in a pod that is started from the pinned image itself")


class TestTheCommand:
    def test_the_document(self, cli, store_root) -> None:
        result = cli("doctor", "--json")
        (line,) = result.lines
        document = json.loads(line)
        assert {"system", "gpu", "runtimes", "namespaces", "cgroups", "store", "nix", "registries"} <= document.keys()
        assert document["store"]["path"] == str(store_root)
        assert list(document["engines"]) == sorted(KINDS)
        good = any(engine["works"] for engine in document["engines"].values())
        assert result.exit_code == (0 if good else 4)
        assert not store_root.exists(), "a look must not make a store"

    def test_for_people(self, cli) -> None:
        tools.available()
        result = cli("doctor")
        assert result.exit_code == 0, result.stdout
        assert any(line.startswith(("yes  aoti", "no   aoti")) for line in result.lines)

    def test_gpus(self, cli, tmp_path) -> None:
        result = cli("doctor", "--json", env=stand_in_gpus(tmp_path / "machine", [H200()]))
        gpu = json.loads(result.stdout)["gpu"]
        assert (gpu["driver"], gpu["cuda"], gpu["source"]) == ("580.159.04", "13.0", "stand-in")
        assert gpu["devices"][0]["product"] == "NVIDIA H200"
        assert gpu["devices"][0]["memory_gib"] == 140
        assert gpu["works"]
        assert gpu["inside"]["devices"][0]["product"] == "NVIDIA H200"

    def test_a_gpu_that_cuda_cannot_start_on(self, cli, tmp_path) -> None:
        result = cli("doctor", "--json", env=stand_in_gpus(tmp_path / "machine", [H200()], inside=[]))
        document = json.loads(result.stdout)
        assert not document["gpu"]["works"]
        assert "CUDA_ERROR_NO_DEVICE" in document["gpu"]["error"]
        assert document["engines"]["tensorrt-llm"]["missing"][0]["what"] == "gpu"

    def test_logins_are_named_and_nothing_of_them_is_shown(self, cli, tmp_path) -> None:
        secret = "c2VjcmV0OnNlY3JldA=="
        document = {"auths": {"nvcr.io": {"auth": secret}, "https://index.docker.io/v1/": {"auth": secret}}}
        document |= {"credHelpers": {"ghcr.io": "nowhere"}}
        (tmp_path / "config.json").write_text(json.dumps(document))
        for arguments in (["doctor"], ["doctor", "--json"]):
            result = cli(*arguments, env={"DOCKER_CONFIG": str(tmp_path)})
            assert "nvcr.io" in result.stdout
            assert secret not in result.stdout + result.stderr
        assert json.loads(result.stdout)["registries"] == ["ghcr.io", "index.docker.io", "nvcr.io"]

    def test_a_store_that_cannot_be(self, cli, tmp_path) -> None:
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "format").write_text("hermetic store 99\n")
        result = cli("doctor", "--json")
        document = json.loads(result.stdout)
        assert document["store"]["reason"] == "store-too-new"
        assert result.exit_code == 4

    def test_no_bubblewrap_is_a_no_with_the_command(self, cli, tmp_path, repository) -> None:
        """Where no user namespace can be made, as in many pods: here inside one that refuses further ones."""
        tool = tools.available()
        command = [tool, "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--proc", "/proc"]
        command += ["--setenv", "PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin"]
        command += [sys.executable, "-m", "hermetic", "doctor", "--json", "--store", str(tmp_path / "store")]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(repository)}, capture_output=True, text=True, check=False
        )
        document = json.loads(done.stdout)
        assert not document["runtimes"]["bwrap"]["works"]
        assert document["runtimes"]["bwrap"]["hint"]
        assert document["without_sandbox"][-1].startswith("run the stage's program in a pod")
        if not document["runtimes"]["podman"]["works"]:
            assert done.returncode == 4
            assert document["engines"]["openvino"]["missing"][0]["what"] == "sandbox"
