"""A real registry on loopback, a tiny image made with umoci, and the real command as root and as an ordinary user."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import image_kit as kit
import pytest
from image_harness import ORDINARY, User, need

from hermetic.sandbox import tools

REPOSITORY = Path(__file__).parent.parent.parent
_PODMAN = """\
[containers]
log_driver = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    tools.available()
    need("umoci")


@pytest.fixture(scope="session")
def area() -> Iterator[Path]:
    """A folder that every user can walk to."""
    folder = Path(tempfile.mkdtemp(prefix="hermetic-images-"))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def busybox() -> Path:
    found = shutil.which("busybox", path=os.environ["PATH"] + ":/bin:/usr/bin")
    if found is None:
        pytest.skip("needs a static busybox (Debian: busybox-static)")
    return Path(found).resolve()


@pytest.fixture(scope="session")
def shell_layer(busybox: Path) -> bytes:
    """A layer with a shell, and files and folders with modes of their own."""
    names = ("sh", "cat", "env", "id", "ls", "mkdir", "sleep", "stat", "touch", "true", "wc", "find", "setsid", "kill")
    return kit.layer(
        kit.folder("bin"),
        kit.entry("bin/busybox", busybox.read_bytes(), mode=0o755),
        *(kit.symlink(f"bin/{name}", "busybox") for name in names),
        kit.folder("etc"),
        kit.entry("etc/motd", b"made by hand\n"),
        kit.folder("private", mode=0o700),
        kit.entry("private/file", b"read me\n", mode=0o600),
        kit.folder("tmp", mode=0o1777),
    )


@pytest.fixture(scope="session")
def tiny(area: Path, busybox: Path) -> kit.Made:
    """A tiny image as umoci makes it: a shell, ``Env``, an entrypoint, and a second layer that deletes a file."""
    layout, bundle = area / "tiny", area / "bundle"
    umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:t")
    umoci("unpack", *rootless(), "--image", f"{layout}:t", bundle)
    root = bundle / "rootfs"
    for name in ("bin", "etc", "opt/tool"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for name in ("sh", "cat", "env", "id", "ls", "sleep", "stat", "touch", "setsid"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/deleted").write_text("in the first layer only")
    (root / "etc/motd").write_text("tiny\n")
    umoci("repack", "--image", f"{layout}:t", bundle)
    shutil.rmtree(bundle)
    umoci("unpack", *rootless(), "--image", f"{layout}:t", bundle)
    (root / "etc/deleted").unlink()
    (root / "opt/tool/hello").write_text("#!/bin/sh\necho hello from the image\n")
    (root / "opt/tool/hello").chmod(0o755)
    umoci("repack", "--image", f"{layout}:t", bundle)
    settings = ["--config.env", "FLAVOUR=vanilla", "--config.env", "HOME=/root", "--config.env", "PATH=/opt/tool:/bin"]
    umoci("config", "--image", f"{layout}:t", *settings, "--config.entrypoint", "/bin/nothing")
    subprocess.run(["chmod", "-R", "a+rX", layout], check=True)
    import json

    digest = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    manifest = json.loads((layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())
    layers = tuple(item["digest"] for item in manifest["layers"])
    return kit.Made(layout, digest, manifest["config"]["digest"], layers)


def umoci(*arguments: object) -> None:
    subprocess.run(["umoci", *map(str, arguments)], check=True, capture_output=True)


def rootless() -> list[str]:
    return [] if os.geteuid() == 0 else ["--rootless"]


@pytest.fixture(scope="session")
def registry(area: Path) -> Iterator[str]:
    """Debian's docker-registry on a loopback port, with a folder of its own; its address."""
    need("docker-registry", "skopeo")
    folder = area / "registry"
    folder.mkdir()
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_dies_with_us(),  # noqa: PLW1509
        ) as process,
    ):
        address = _listening(process.stdout, log)
        rest = threading.Thread(target=shutil.copyfileobj, args=(process.stdout, log))  # a full pipe would stop it
        rest.start()
        yield address
        process.kill()
        rest.join()


def _listening(said: IO[bytes], log: IO[bytes]) -> str:
    """The address in the line that the registry logs once it accepts connections."""
    for line in said:
        log.write(line)
        if found := re.search(rb"listening on ([0-9.]+:[0-9]+)", line):
            return found[1].decode()
    pytest.fail("docker-registry did not start")


def _dies_with_us() -> Callable[[], object]:
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(1, signal.SIGKILL, 0, 0, 0)


@pytest.fixture(scope="session")
def pushed(registry: str, tiny: kit.Made) -> str:
    """`tiny` in the real registry: its reference."""
    reference = f"{registry}/tools/tiny:1"
    copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", tiny.reference, f"docker://{reference}"]
    subprocess.run(copy, check=True, capture_output=True)
    return reference


@pytest.fixture(scope="session")
def _code(area: Path) -> Path:
    """What an ordinary user imports, where every user can read it."""
    target = area / "code"
    shutil.copytree(REPOSITORY / "hermetic", target / "hermetic", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "a+rX", target], check=True)
    return target


def _command_of(uid: int | None, code: Path) -> tuple[list[str], dict[str, str]]:
    if uid is None:
        return [sys.executable, "-m", "hermetic"], {"PYTHONPATH": str(REPOSITORY)}
    variables = {"PYTHONPATH": f"{code}:{sysconfig.get_path('purelib')}", "PYTHONDONTWRITEBYTECODE": "1"}
    everybody = {"user": uid, "group": uid, "extra_groups": [], "env": variables}
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        probe = [python, "-c", "import blake3, httpx2, pydantic"]
        try:
            if subprocess.run(probe, capture_output=True, check=False, **everybody).returncode == 0:
                return [python, "-m", "hermetic"], variables
        except OSError:
            continue
    pytest.skip("needs an interpreter and libraries that an ordinary user can run")


@pytest.fixture
def make_user(area: Path, _code: Path) -> Iterator[Callable[[int | None], User]]:
    made: list[Path] = []

    def make(uid: int | None) -> User:
        folder = Path(tempfile.mkdtemp(dir=area))
        made.append(folder)
        (folder / "home").mkdir()
        if uid is not None:
            for path in (folder, folder / "home"):
                os.chown(path, uid, uid)
        return User(uid, folder, *_command_of(uid, _code))

    yield make
    for folder in made:
        _unmount_below(folder)
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
        shutil.rmtree(folder)


def _unmount_below(folder: Path) -> None:
    """A killed podman leaves its storage mounted upon itself, and no folder under a mount can be removed."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in sorted((place for place in places if place.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", place], check=False)


@pytest.fixture
def me(make_user: Callable[[int | None], User]) -> User:
    """Whoever runs the tests."""
    return make_user(None)


@pytest.fixture(params=["root", "ordinary user"])
def user(request: pytest.FixtureRequest, make_user: Callable[[int | None], User]) -> User:
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("needs root")
        return make_user(None)
    return make_user(ORDINARY if os.geteuid() == 0 else None)


@pytest.fixture
def podman(me: User) -> Iterator[User]:
    """A user with a podman that works: with settings for machines without cgroup v2, as far as it needs them."""
    need("podman", "runc", "catatonit" if not Path("/usr/libexec/podman/catatonit").exists() else "podman")
    if os.geteuid() != 0:
        pytest.skip("needs root: podman without root needs subordinate ids")
    me.write("containers.conf", _PODMAN)
    me.write(
        "storage.conf", f'[storage]\ndriver = "overlay"\nrunroot = "{me.folder}/run"\ngraphroot = "{me.folder}/graph"\n'
    )
    me.variables["CONTAINERS_CONF"] = str(me.folder / "containers.conf")
    me.variables["CONTAINERS_STORAGE_CONF"] = str(me.folder / "storage.conf")
    done = subprocess.run(["podman", "info"], env=me.environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs a podman that works here: {done.stderr.strip()[-200:]}")
    yield me
    # Podman binds this folder onto itself, and leaves it so.
    subprocess.run(["umount", "--lazy", me.folder / "graph/overlay"], capture_output=True, check=False)
