"""deploy/Containerfile, built for real upon a debootstrapped Debian, and what it makes of a container."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
#: As in the table of deploy/README.md.
ORDINARY = (
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/tmp"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "unmask=ALL"),
)
ROOT = (
    *("--user", "0", "--cap-drop", "ALL", "--read-only", "--tmpfs", "/tmp"),
    *("--cap-add", "SYS_ADMIN,CHOWN,DAC_OVERRIDE,FOWNER,KILL,SETGID,SETUID"),
)
#: runc can't raise limits where this machine's root may not.
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
SETTINGS = """\
[containers]
log_driver = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for debootstrap and podman")


class Podman:
    """With a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "containers.conf").write_text(SETTINGS)
        self._environment = os.environ | {"CONTAINERS_CONF": str(folder / "containers.conf"), "TMPDIR": str(folder)}

    def __call__(self, *arguments: str | Path, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
        places = ("--root", self._folder / "root", "--runroot", self._folder / "run", "--storage-driver", "overlay")
        command = ["podman", *map(str, (*places, *arguments))]
        return subprocess.run(
            command, env=self._environment, stdin=stdin, capture_output=True, text=True, check=False, cwd=REPOSITORY
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self("run", "--rm", "--network", "none", *LIMITS, *arguments)


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    for program in ("podman", "runc", "debootstrap"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    folder = Path(tempfile.mkdtemp(prefix="hermetic-deploy-"))  # short: podman's sockets lie in it
    engine = Podman(folder)
    yield engine
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("debian")
    said = subprocess.run(
        ["debootstrap", "--variant=minbase", "bookworm", folder / "root"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout[-2000:]
    with subprocess.Popen(["tar", "-C", folder / "root", "-c", "."], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        done = podman("import", "-", "localhost/debian:base", stdin=tar.stdout.fileno())
    assert done.returncode == 0, done.stderr
    chosen = ("--build-arg", "BASE=localhost/debian:base", "--build-arg", "SNAPSHOT=", "--build-arg", "REVISION=test")
    done = podman(
        *("build", "--layers=false", "--network", "host", *chosen, *network(folder)),
        *("--file", "deploy/Containerfile", "--tag", "localhost/hermetic:test", "."),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return "localhost/hermetic:test"


def network(folder: Path) -> list[str]:
    """The way to packages that this machine has and the image shall not: volumes while it is built."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read("/etc/pip.conf")
    if not settings.has_section("global"):
        settings.add_section("global")
    for name in ("index_url", "extra_index_url", "cert", "proxy"):
        if value := os.environ.get(f"PIP_{name.upper()}"):
            settings["global"][name.replace("_", "-")] = value
    with (folder / "pip.conf").open("w") as file:
        settings.write(file)
    shown = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    lines = [line for line in shown.splitlines() if line.lower().startswith(("acquire::http::", "acquire::https::"))]
    (folder / "apt.conf").write_text("\n".join(lines) + "\n")
    volumes = {folder / "pip.conf": "/etc/pip.conf", folder / "apt.conf": "/etc/apt/apt.conf.d/90network"}
    if certificates := settings["global"].get("cert"):
        volumes[Path(certificates)] = certificates
    return [f"--volume={source}:{target}:ro" for source, target in volumes.items()]


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_root
def test_hermetic_in_its_own_image(podman: Podman, image: str) -> None:
    assert podman.run(image, "--version").stdout.startswith("hermetic, version ")
    described = json.loads(podman("image", "inspect", image).stdout)[0]
    assert described["Config"]["User"] == "10001:10001"
    assert described["Labels"]["org.opencontainers.image.revision"] == "test"
    for way in (ORDINARY, ROOT):
        done = podman.run(*way, image, "doctor", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["runtimes"]["bwrap"]["works"], found["runtimes"]
        assert found["engines"]["openvino"]["works"], found["engines"]
    refused = podman.run(image, "doctor", "--json")
    assert refused.returncode == 4
    assert not json.loads(refused.stdout)["runtimes"]["bwrap"]["works"]
