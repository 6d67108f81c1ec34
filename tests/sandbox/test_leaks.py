"""A stage that tries to see more than P5 allows, as root's build and as an ordinary user's.

The probes are in `probes/`, one function a way; the secrets they look for are planted here, outside.
"""

from __future__ import annotations

import ast
import ctypes
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_harness import Driver, python_order

from hermetic.sandbox import abi
from hermetic.sandbox.environments import EnvironmentMounts

PROBES = Path(__file__).parent / "probes"
SECRET = "the-secret-of-the-host"
KEY = "abcdefghijklmnopqrstuvwxyz234567"
SHARED_SETTINGS = ("kernel/msgmax", "kernel/shmmni", "vm/swappiness", "kernel/hostname")


def names() -> list[str]:
    """Every probe, without importing them: they need what only the sandbox has."""
    bodies = [node for module in sorted(PROBES.glob("*.py")) for node in ast.parse(module.read_text("utf-8")).body]
    functions = [node for node in bodies if isinstance(node, ast.FunctionDef)]
    return [each.name for each in functions if any(ast.unparse(mark) == "probe" for mark in each.decorator_list)]


@pytest.fixture(scope="module")
def planted(place: Path) -> Iterator[dict[str, object]]:
    """What a leak would find: listeners, files, shared memory, an input whose path holds a key."""
    facts: dict[str, object] = {"secret": SECRET}
    here = Path(tempfile.mkdtemp(dir=place))
    here.chmod(0o755)
    secret = here / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    data = here / f"{KEY}-data"
    data.mkdir()
    (data / "file").write_text("input")
    (data / "outward").symlink_to(secret)
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(0, 4096, 0o1666)
    name = f"hermetic-leak-{os.getpid()}"
    with (
        tempfile.NamedTemporaryFile(prefix="hermetic-leak-", dir="/dev/shm") as shm,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
    ):
        abstract.bind("\0" + name)
        abstract.listen()
        named.bind(str(here / "socket"))
        named.listen()
        facts |= {
            "secret_file": str(secret),
            "tcp_port": tcp.getsockname()[1],
            "abstract_socket": name,
            "socket_path": str(here / "socket"),
            "shm_file": os.path.basename(shm.name),
            "shm_id": segment,
            "input": str(data),
            "input_key": KEY,
            "keyring_key": "hermetic-leak",
            "host_pid": os.getpid(),
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        }
        yield facts
    libc.shmctl(segment, 0, None)


Seen = dict[str, tuple[bool, str]]


def look(driver: Driver, bare_python: EnvironmentMounts, planted: dict[str, object], **more: object) -> Seen:
    """What every probe reports: whether it found a leak, and what it saw."""
    order = python_order(bare_python, "")
    order["program"] = {path.name: path.read_text("utf-8") for path in PROBES.glob("*.py")}
    facts = planted | {
        "scratch": str(driver.scratch),
        "interpreter": bare_python.python[0],
        "variables": dict(abi.VARIABLES),
        "limits": dict(abi.LIMITS),
        "masked": list(abi.MASKED),
        "emptied": list(abi.EMPTIED),
        "shm_bytes": 64 << 20,
    }
    secrets = {
        "SECRET": SECRET,
        "SSH_AUTH_SOCK": str(planted["socket_path"]),
        "LANG": "de_DE.UTF-8",
        "TZ": "Asia/Tokyo",
    }
    reader, writer = os.pipe()
    try:
        done = driver(
            inherit=(reader, writer),
            variables=secrets,
            facts=facts,
            inputs={"data": planted["input"]},
            limits={"shm_mb": 64},
            **order,
            **more,
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert done["exit"]["status"] == 0, done["log"]
    lines = [json.loads(line) for line in done["log"].splitlines()]
    return {line["name"]: (line["leak"], line["saw"]) for line in lines}


@pytest.fixture(scope="module")
def seen(driver: Driver, bare_python: EnvironmentMounts, planted: dict[str, object]) -> Seen:
    before = [Path(f"/proc/sys/{name}").read_text() for name in SHARED_SETTINGS]
    found = look(driver, bare_python, planted)
    assert [Path(f"/proc/sys/{name}").read_text() for name in SHARED_SETTINGS] == before
    return found


@pytest.mark.parametrize("name", names())
def test_finds_nothing(seen: Seen, name: str) -> None:
    leak, saw = seen[name]
    assert not leak, saw


def test_there_are_many_ways() -> None:
    assert len(names()) >= 40


def test_the_probes_see_what_is_there(
    driver: Driver, bare_python: EnvironmentMounts, planted: dict[str, object]
) -> None:
    """With the network left on and nothing masked, the probes that look for these must say so."""
    weakened = {"network": True, "masked": []}
    found = look(driver, bare_python, planted, weakened=weakened)
    leaks = {name for name, (leak, _) in found.items() if leak}
    assert leaks >= {
        "a_listener_on_the_hosts_loopback",
        "an_abstract_unix_socket",
        "the_hosts_connections",
        "the_hosts_unix_sockets",
        "the_boot_id",
        "the_kernels_command_line",
        "masked_files_of_proc",
    }
