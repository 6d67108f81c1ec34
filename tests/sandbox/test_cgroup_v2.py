"""Control groups of version 2, for real: in a virtual machine whose kernel has no others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import virtual_machine

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stages(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict]:
    """What became of each stage, by who ran it and its name."""
    kernel = virtual_machine.kernel()
    if kernel is None or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86_64 and a kernel (Debian: qemu-system-x86 linux-image-cloud-amd64)")
    python, busybox = Path("/usr/bin/python3"), shutil.which("busybox", path="/bin:/usr/bin")
    if not python.exists() or busybox is None:
        pytest.skip("needs the system's Python and a static busybox")
    files = virtual_machine.Files()
    for name in ("dev", "proc", "sys", "tmp", "scratch", "etc"):
        files.folder(f"/{name}")
    files.file("/bin/busybox", Path(busybox).read_bytes())
    files.program(python.resolve(), "/usr/bin/python3")
    files.program(Path(shutil.which("bwrap") or ""), "/usr/bin/bwrap")
    version = python.resolve().name
    files.tree(Path("/usr/lib") / version, f"/usr/lib/{version}")
    for module in Path("/usr/lib", version, "lib-dynload").glob("*.so"):
        files.program(module, f"/usr/lib/{version}/lib-dynload/{module.name}")
    files.tree(code, "/code")
    files.file("/code/inside.py", (HERE / "inside_machine.py").read_bytes())
    files.boots_into("/usr/bin/python3 /code/inside.py")
    said = virtual_machine.boot(kernel, files, tmp_path_factory.mktemp("machine"), "cgroup_no_v1=all")
    found = [json.loads(line[2:]) for line in said.splitlines() if line.startswith("@@")]
    assert found, said
    assert "crashed" not in found[-1], found[-1]["crashed"]
    by_name = {(done["who"], done["stage"]): done for done in found}
    return lambda who, name: by_name[who, name]


WITH_GROUPS = pytest.mark.parametrize("who", ["root", "user"])


@WITH_GROUPS
def test_out_of_memory(stages, who: str) -> None:
    done = stages(who, "hog")["exit"]
    assert (done["signal"], done["oom"], done["limited_by"]) == (9, True, "cgroup")
    assert done["usage"]["memory_with_cache"] <= 64 << 20


@WITH_GROUPS
def test_out_of_memory_in_a_child(stages, who: str) -> None:
    done = stages(who, "hog in a child")["exit"]
    assert (done["status"], done["oom"]) == (3, True)


@WITH_GROUPS
def test_processes(stages, who: str) -> None:
    done = stages(who, "forks")
    assert done["exit"]["status"] == 0, done
    assert int(done["log"]) < 20


@WITH_GROUPS
def test_memory_is_what_could_not_be_dropped(stages, who: str) -> None:
    used = stages(who, "hold")["exit"]["usage"]
    assert 150 << 20 <= used["memory"] <= 350 << 20


@WITH_GROUPS
def test_enough(stages, who: str) -> None:
    done = stages(who, "enough")["exit"]
    assert (done["status"], done["oom"]) == (0, False)


@pytest.mark.parametrize("who", ["root", "user", "user without a group"])
def test_no_group_is_left(stages, who: str) -> None:
    assert stages(who, "enough")["left_groups"] == []


def test_without_delegation_there_are_limits_of_each_process(stages) -> None:
    who = "user without a group"
    done = stages(who, "hog")["exit"]
    assert (done["status"], done["limited_by"]) == (1, "rlimit")  # MemoryError
    assert int(stages(who, "forks")["log"]) < 20
