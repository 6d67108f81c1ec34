"""What a layer may not do, and what an interruption may not leave."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import tarfile
from pathlib import Path

import image_kit as kit
import pytest
from fake_registry import FakeRegistry
from image_harness import User


def realise(user: User, made: kit.Made, script: str = "echo done > /build/out/f"):
    reference = f"{made.reference}@{made.digest}"
    user.recipe(reference, script)
    return user("realise", "recipe.py", "--no-link")


def image_of(user: User, made: kit.Made) -> Path:
    return user.store / "images" / made.digest.removeprefix("sha256:")


@pytest.fixture
def make(area, shell_layer, tmp_path_factory):
    def layout(*layers: bytes, **named) -> kit.Made:
        folder = area / tmp_path_factory.mktemp("layout").name
        made = kit.make_layout(folder, [shell_layer, *layers], **named)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        return made

    return layout


@pytest.fixture
def outside(area) -> Path:
    """A file and a folder that a hostile layer would like to change."""
    folder = area / f"outside-{os.urandom(4).hex()}"
    folder.mkdir()
    (folder / "file").write_text("as it was")
    folder.chmod(0o777)
    (folder / "file").chmod(0o666)
    return folder


class TestHostileLayers:
    """Refused, or made harmless: nothing outside is written, read or linked, and nothing inside is more than a file."""

    def test_dots_in_names(self, user: User, make, outside):
        up = "../" * 20
        made = make(kit.layer(kit.entry(f"{up}{str(outside)[1:]}/new", b"x"), kit.entry(f"a/{up}b", b"y")))
        ran = realise(user, made)
        assert not (outside / "new").exists()
        if ran.status == 0:  # made harmless: it lies inside
            assert (image_of(user, made) / f"rootfs{outside}/new").read_text() == "x"
            assert (image_of(user, made) / "rootfs/b").read_text() == "y"
        else:
            assert re.search(r"image-(refused|unsupported|mismatch)", ran.stderr)

    def test_absolute_names(self, user: User, make, outside):
        made = make(kit.layer(kit.entry(f"{outside}/file", b"changed")))
        assert realise(user, made).path
        assert (outside / "file").read_text() == "as it was"
        assert (image_of(user, made) / f"rootfs{outside}/file").read_text() == "changed"

    @pytest.mark.parametrize("target", ["{outside}", "../../../../../../../../../..{outside}"])
    def test_writing_through_a_symlink(self, user: User, make, outside, target):
        """The link is in one layer and the file behind it in the next."""
        link = kit.layer(kit.symlink("door", target.format(outside=outside)))
        made = make(link, kit.layer(kit.entry("door/new", b"x"), kit.entry("door/file", b"changed")))
        ran = realise(user, made)
        assert sorted(path.name for path in outside.iterdir()) == ["file"]
        assert (outside / "file").read_text() == "as it was"
        assert ran.status == 0 or "image-" in ran.stderr

    def test_the_root_itself_as_a_symlink(self, user: User, make, outside):
        made = make(kit.layer(kit.symlink(".", str(outside)), kit.entry("new", b"x")))
        realise(user, made)
        assert sorted(path.name for path in outside.iterdir()) == ["file"]

    def test_a_hard_link_out(self, user: User, make, outside):
        made = make(kit.layer(kit.hard_link("stolen", f"../../../../../../../..{outside}/file")))
        ran = realise(user, made)
        assert (outside / "file").stat().st_nlink == 1
        assert ran.status == 4
        assert "image-unsupported" in ran.stderr
        assert not image_of(user, made).exists()

    def test_a_hard_link_through_a_symlink(self, user: User, make, outside):
        link = kit.layer(kit.symlink("door", str(outside)))
        made = make(link, kit.layer(kit.hard_link("stolen", "door/file")))
        realise(user, made)
        assert (outside / "file").stat().st_nlink == 1

    def test_a_whiteout_through_a_symlink(self, user: User, make, outside):
        link = kit.layer(kit.symlink("door", str(outside)))
        made = make(link, kit.layer(kit.entry("door/.wh.file")), kit.layer(kit.entry("door/.wh..wh..opq")))
        realise(user, made)
        assert (outside / "file").read_text() == "as it was"

    @pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
    def test_devices_and_pipes(self, user: User, make, kind):
        """/dev/mem, the first disk: umoci leaves an empty file in their place, or they are refused."""
        made = make(kit.layer(kit.entry("trap", kind=kind, devmajor=1, devminor=1, mode=0o666)))
        ran = realise(user, made, "stat -c %F /trap > /build/out/f")
        if ran.status == 0:
            assert "regular" in (ran.path / "f").read_text()
        else:
            assert "error[environment/image-refused]" in ran.stderr
            assert "/trap is a device, a pipe or a socket" in ran.stderr
            assert not image_of(user, made).exists()

    def test_setuid(self, user: User, make, busybox):
        made = make(kit.layer(kit.entry("suid/busybox", busybox.read_bytes(), mode=0o6755)))
        ran = realise(user, made, "/suid/busybox id -u > /build/out/f")
        assert (ran.path / "f").read_text() == "1000\n"

    @pytest.mark.parametrize("name", ["etc", "proc", "dev", "build", "tmp"])
    def test_a_link_where_the_sandbox_mounts(self, user: User, make, outside, name):
        """`/etc -> somewhere outside`: what bubblewrap puts there would land behind it."""
        removed = kit.layer(kit.entry(f".wh.{name}"))
        made = make(removed, kit.layer(kit.symlink(name, f"/oldroot{outside}")))
        ran = realise(user, made)
        assert sorted(path.name for path in outside.iterdir()) == ["file"]
        assert "error[environment/image-refused]" in ran.stderr

    def test_links_in_etc(self, user: User, make, outside):
        """What the sandbox has files of its own for may be anything in an image."""
        made = make(kit.layer(kit.symlink("etc/passwd", f"{outside}/file"), kit.folder("etc/hosts")))
        ran = realise(user, made, "cat /etc/passwd /etc/hosts > /build/out/f")
        assert "build:x:1000" in (ran.path / "f").read_text()
        assert (outside / "file").read_text() == "as it was"

    def test_a_layer_that_its_configuration_does_not_name(self, user: User, make):
        """Every digest of the manifest is right, but the layer is not what the image's configuration says."""
        made = make(kit.layer(kit.entry("x", b"1")))
        config = json.loads(made.blob(made.config).read_bytes())
        config["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64
        content = json.dumps(config).encode()
        manifest = json.loads(made.blob(made.digest).read_bytes())
        manifest["config"] |= {"digest": kit.digest_of(content), "size": len(content)}
        changed = json.dumps(manifest).encode()
        for data in (content, changed):
            made.blob(kit.digest_of(data)).write_bytes(data)
            made.blob(kit.digest_of(data)).chmod(0o644)
        other = kit.Made(made.folder, kit.digest_of(changed), kit.digest_of(content), made.layers)
        user.recipe(f"oci:{made.folder}@{other.digest}")
        ran = user("realise", "recipe.py", "--no-link")
        assert ran.status == 102
        assert "error[hash/image-mismatch]" in ran.stderr

    def test_a_layer_that_is_no_archive(self, user: User, make):
        made = make(b"this is no tar file" * 100)
        ran = realise(user, made)
        assert ran.status in {4, 102}
        assert "error[" in ran.stderr
        assert not image_of(user, made).exists()


class TestWhatIsUnpacked:
    def test_modes_are_the_image_s_own(self, user: User, make):
        made = make(kit.layer(kit.folder("closed", mode=0o500), kit.entry("closed/secret", b"s", mode=0o400)))
        assert realise(user, made).path
        root = image_of(user, made) / "rootfs"
        assert stat.S_IMODE((root / "private").stat().st_mode) == 0o700
        assert stat.S_IMODE((root / "closed").stat().st_mode) == 0o500
        assert stat.S_IMODE((root / "private/file").stat().st_mode) == 0o600

    def test_once(self, user: User, make):
        made = make()
        assert realise(user, made).path
        before = (image_of(user, made) / "complete").stat()
        assert realise(user, made, "echo other > /build/out/f").path
        assert (image_of(user, made) / "complete").stat().st_mtime_ns == before.st_mtime_ns
        assert [path.name for path in (user.store / "images").iterdir()] == [image_of(user, made).name]

    def test_by_one_of_two_at_once(self, me: User, make):
        made = make()
        with FakeRegistry(made.folder) as registry:
            for name in ("one", "two"):
                me.recipe(
                    f"{registry.reference('')}@{made.digest}".replace(":@", "@"),
                    f"echo {name} > /build/out/f",
                    name=name,
                )
            processes = [me.start("realise", f"{name}.py", "--no-link") for name in ("one", "two")]
            for process in processes:
                _, said = process.communicate()
                assert process.returncode == 0, said
            assert len(registry.bytes_asked(made.layers[0])) == 1

    def test_another_platform_s_image_is_refused(self, me: User, make):
        made = make(architecture="s390x")
        ran = realise(me, made)
        assert ran.status == 4
        assert "error[environment/image-platform]" in ran.stderr

    def test_without_umoci(self, me: User, make, monkeypatch):
        tools = me.folder / "tools"
        tools.mkdir()
        (tools / "bwrap").symlink_to("/usr/bin/bwrap")
        me.variables["PATH"] = str(tools)
        ran = realise(me, make())
        assert ran.status == 4
        assert "error[environment/no-umoci]" in ran.stderr
        assert "apt-get install umoci" in ran.stderr


class TestKilled:
    def test_while_pulling_and_unpacking(self, me: User, make):
        """Killed at many moments; the next run always succeeds, and what is marked whole is whole."""
        made = make(*(kit.layer(kit.entry(f"file{number}", os.urandom(200_000))) for number in range(5)))
        for delay in range(12):
            process = _kill_at(me, made, delay)
            process.communicate()
            for path in (me.store / "images").glob("*/complete"):
                assert (path.parent / "rootfs/file4").stat().st_size == 200_000
        ran = realise(me, made, "cat /file0 /file4 | wc -c > /build/out/f")
        assert (ran.path / "f").read_text().strip() == "400000"
        assert [path.name for path in (me.store / "images").iterdir()] == [image_of(me, made).name]

    def test_between_the_rename_and_the_marker(self, me: User, make):
        made = make()
        assert realise(me, made).path
        (image_of(me, made) / "complete").unlink()
        (image_of(me, made) / "rootfs/bin/busybox").unlink()
        assert realise(me, made, "echo again > /build/out/f").path


def _kill_at(me: User, made: kit.Made, step: int) -> subprocess.Popen[str]:
    """Start a build and kill it when the `step`-th thing has appeared under ``images/``."""
    me.recipe(f"{made.reference}@{made.digest}", "echo done > /build/out/f")
    process = me.start("realise", "recipe.py", "--no-link")
    seen: set[str] = set()
    while process.poll() is None and len(seen) <= step:
        # os.walk, unlike glob, takes it that folders come and go under it.
        walked = os.walk(me.store / "images")
        seen |= {os.path.join(folder, name) for folder, folders, files in walked for name in (*folders, *files)}
    process.send_signal(signal.SIGKILL)
    return process
