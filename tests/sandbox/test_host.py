"""`Host`: exactly the listed paths, each identified by its content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from sandbox_harness import Driver

from hermetic.errors import Domain, HermeticError
from hermetic.recipe.environments import Host
from hermetic.recipe.memo import Memo
from hermetic.sandbox import host


def order(environment: Host, *argv: str) -> dict[str, object]:
    return {"argv": argv, "mounts": [(each.source, each.target) for each in host.mounts(environment)]}


def busybox() -> str:
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("needs a static busybox")
    return found


def test_a_static_busybox_alone(driver: Driver) -> None:
    place = busybox()
    done = driver(**order(Host(paths=(place,)), place, "sh", "-c", "echo alone; echo made > /build/out/x; ls /"))
    assert done["exit"]["status"] == 0, done
    assert done["left"] == ["x"]
    top = place.split("/")[1]
    assert set(done["log"].split()) == {"alone", "build", "dev", "etc", "proc", "tmp", "var", top}


def test_a_dynamic_program_with_its_folders(driver: Driver) -> None:
    paths = tuple(path for path in ("/usr/bin/env", "/lib", "/lib64") if os.path.exists(path))
    done = driver(**order(Host(paths=paths), "/usr/bin/env"))
    assert done["exit"]["status"] == 0, done
    assert "HOME=/build/home" in done["log"]


def test_a_symlink_brings_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (mount,) = host.mounts(Host(paths=(str(tmp_path / "link"),)))
    assert (mount.source, mount.target) == (str(tmp_path / "real"), str(tmp_path / "link"))


def test_inner_paths_come_after_outer_ones(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    found = host.mounts(Host(paths=(str(tmp_path / "a/b"), str(tmp_path / "a"))))
    assert [mount.target for mount in found] == [str(tmp_path / "a"), str(tmp_path / "a/b")]


def digest(*paths: Path) -> object:
    return host.value(Host(paths=tuple(map(str, paths))), Memo())["paths"]


def test_content_counts(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("one")
    before = digest(folder)
    assert digest(folder) == before
    (folder / "file").write_text("two")
    changed = digest(folder)
    assert changed != before
    (folder / "link").symlink_to("file")
    assert digest(folder) != changed
    os.mkfifo(folder / "pipe")
    assert digest(folder) != before


def test_the_executable_bit_counts(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    before = digest(file)
    file.chmod(0o755)
    assert digest(file) != before


@pytest.mark.parametrize(
    "path", ["/", "relative", "/usr/../etc", "/proc/cpuinfo", "/build", "/dev/null", "/etc/passwd", "/etc"]
)
def test_paths_that_cannot_be_listed(path: str) -> None:
    with pytest.raises(HermeticError) as caught:
        host.value(Host(paths=(path,)), Memo())
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "host-path-invalid")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(HermeticError) as caught:
        host.value(Host(paths=(str(tmp_path / "absent"),)), Memo())
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "host-path-missing")
    assert "absent" in caught.value.message
