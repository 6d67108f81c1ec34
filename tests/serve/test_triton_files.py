"""What `hermetic serve compose` writes is what Compose, Kubernetes and systemd read."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from triton_kit import RECIPE, Tiny, hermetic

from hermetic.errors import Domain, HermeticError
from hermetic.serve.launch_command import Settings, command
from hermetic.serve.launch_files import FORMATS, Deployed, files
from hermetic.serve.launch_ports import Ports

IMAGE = f"registry.example.com/tritonserver@sha256:{'ab' * 32}"
ONE = Deployed("qwen3", "/e", "/t", "/r: ä", 1, 0, Settings(), IMAGE, "/opt/bin/hermetic", "qwen3")
FOUR = replace(ONE, world=4, gpus=4)
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


def read(kind: str, deployed: Deployed) -> list[Any]:
    (text,) = files(kind, deployed).values()
    return list(yaml.safe_load_all(text))


def test_compose() -> None:
    (found,) = read("compose", ONE)
    service = found["services"]["triton"]
    assert service["image"] == IMAGE
    assert service["ports"] == ["127.0.0.1:8000:8000", "127.0.0.1:8001:8001", "127.0.0.1:8002:8002"]
    mounts = {one["target"]: one for one in service["volumes"]}
    assert {target: one["source"] for target, one in mounts.items()} == {
        "/build/in/engine": "/e", "/build/in/tokenizer": "/t", "/build/in/repository": "/r: ä",
    }  # fmt: skip
    assert all(one["read_only"] and one["bind"] == {"create_host_path": False} for one in mounts.values())
    assert "deploy" not in service
    (four,) = read("compose", FOUR)
    (device,) = four["services"]["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["count"] == 4


def test_kubernetes() -> None:
    workload, service = read("kubernetes", FOUR)
    assert (workload["kind"], service["kind"]) == ("Deployment", "Service")
    pod = workload["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert workload["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    volumes = {one["name"] for one in pod["spec"]["volumes"]}
    assert volumes == {one["name"] for one in container["volumeMounts"]}
    ports = {one["name"] for one in container["ports"]}
    assert {one["targetPort"] for one in service["spec"]["ports"]} == ports
    assert all(container[f"{what}Probe"]["httpGet"]["port"] in ports for what in ("startup", "readiness", "liveness"))
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 4}}
    assert pod["spec"]["terminationGracePeriodSeconds"] > Settings().drain_s


@pytest.mark.parametrize("world", [1, 2, 4])
def test_one_process_for_each_rank(world: int) -> None:
    words = command(world, Settings(ports=Ports(1, 2, 3)), "0.0.0.0")
    assert words.count("tritonserver") == world
    assert (words[0] == "mpirun") == (world > 1)
    assert words.count(":") == world - 1
    assert words.count("--load-model=tensorrt_llm") == world - 1
    prefixes = {word for word in words if "shm-region" in word}
    assert len(prefixes) == world


@needs_systemd
@pytest.mark.parametrize("target", ["qwen3", "/a path/with 100%/and $HOME/recipe.py#repository"])
def test_systemd(tmp_path: Path, target: str) -> None:
    program = tmp_path / "hermetic"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    ((name, text),) = files("systemd", replace(ONE, program=str(program), target=target)).items()
    (tmp_path / name).write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert name not in checked.stderr


def test_systemd_starts_the_api_too() -> None:
    """With what was said to compose; it tells systemd when it is ready, and reads again on its reload."""
    (text,) = files("systemd", replace(ONE, api=True, more=("--policy", "/p.toml"))).values()
    lines = text.splitlines()
    assert "Type=notify" in lines
    assert "ExecReload=/bin/kill -HUP $MAINPID" in lines
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert start.startswith("ExecStart=/opt/bin/hermetic serve qwen3 --host")
    assert start.endswith("--drain 30 --policy /p.toml")


@pytest.mark.parametrize("image", ["", "tritonserver", "registry.example.com/tritonserver:24.05", "a@sha256:12"])
@pytest.mark.parametrize("kind", ["compose", "kubernetes"])
def test_an_image_is_named_by_its_digest(kind: str, image: str) -> None:
    with pytest.raises(HermeticError) as caught:
        files(kind, replace(ONE, image=image))
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, "image-not-pinned")


@pytest.mark.parametrize("name", ["", "Qwen", "a b", "-a", "a" * 64, "../x"])
@pytest.mark.parametrize("kind", list(FORMATS))
def test_names_that_no_service_may_have(kind: str, name: str) -> None:
    with pytest.raises(HermeticError) as caught:
        files(kind, replace(ONE, name=name))
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, "bad-name")


def test_the_command(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = hermetic("serve", "compose", RECIPE, "--image", IMAGE, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out / "compose.yaml")]
    service = yaml.safe_load((out / "compose.yaml").read_text())["services"]["triton"]
    sources = {one["target"].rpartition("/")[2]: one["source"] for one in service["volumes"]}
    assert sources["engine"] == sources["tokenizer"] == str(tiny.engine)
    kept = json.loads((Path(sources["repository"]) / "deployment.json").read_text())
    assert kept == json.loads((tiny.repository / "deployment.json").read_text())
    again = hermetic("serve", "compose", RECIPE, "--image", IMAGE, "--out", out)
    assert (again.returncode, "error[usage/out-exists]" in again.stderr) == (2, True)
