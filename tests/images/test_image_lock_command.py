"""``hermetic lock``: asks once, writes what it was told, and keeps what it has."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import image_kit as kit
import pytest
from fake_registry import FakeRegistry
from image_harness import User, need

from hermetic.nix.unpacking import unpack
from hermetic.recipe.lockfile import PLATFORM


@pytest.fixture
def made(tmp_path) -> kit.Made:
    return kit.make_layout(tmp_path / "made", [kit.layer(kit.entry("x", b"1"))])


def entries(me: User) -> dict:
    return json.loads((me.folder / "recipe.lock.json").read_text())["images"]


def test_a_registry_is_asked_once(me: User, made):
    with FakeRegistry(made.folder) as registry:
        name = registry.reference()
        me.recipe(name)
        first = me("lock", "recipe.py")
        assert first.status == 0, first.stderr
        assert first.stdout == f"locked     {name} {made.digest}\n"
        asked = len(registry.requests)
        again = me("lock", "recipe.py")
        assert again.stdout == f"kept       {name} {made.digest}\n"
        assert len(registry.requests) == asked
    found = entries(me)[name]
    assert found["source"] == name
    assert found["platforms"]["linux/amd64"] == {
        "config": made.config,
        "digest": made.digest,
        "media_type": f"{kit.OCI}.manifest.v1+json",
        "size": made.blob(made.layers[0]).stat().st_size,
        "variables": ["PATH=/bin"],
    }


def test_a_tag_that_moved_is_followed_only_when_asked(me: User, made, tmp_path):
    reference = f"oci:{made.folder}:t"
    me.recipe(reference)
    me("lock", "recipe.py")
    moved = kit.make_layout(made.folder, [kit.layer(kit.entry("x", b"2"))])
    assert me("lock", "recipe.py").stdout.startswith("kept")
    assert made.digest in str(entries(me))
    assert me("lock", "recipe.py", "--update", reference).stdout == f"moved      {reference} {moved.digest}\n"
    assert moved.digest in str(entries(me))


def test_who_cannot_be_asked_is_unresolved_and_what_was_known_is_kept(me: User, made):
    gone = "127.0.0.1:9/team/tool:1"
    text = "from hermetic import Image, Script\n"
    text += (
        f"a = Script('s.sh', environment=Image({gone!r}))\nb = Script('s.sh', environment=Image({made.reference!r}))\n"
    )
    me.write("recipe.py", text)
    me.write("s.sh", "")
    ran = me("lock", "recipe.py")
    assert ran.status == 4
    assert "registry-unreachable" in ran.stderr
    found = entries(me)
    assert "cannot be reached" in found[gone]["unresolved"]
    assert made.digest in str(found[made.reference])
    made.folder.rename(made.folder.with_name("away"))
    assert me("lock", "recipe.py", "--update", made.reference).status == 4
    assert made.digest in str(entries(me)[made.reference])


def test_check_asks_nobody(me: User, made):
    me.recipe(made.reference)
    missing = me("lock", "recipe.py", "--check")
    assert missing.status == 3
    assert "error[recipe/not-locked]" in missing.stderr
    assert "hermetic lock recipe.py" in missing.stderr
    assert not (me.folder / "recipe.lock.json").exists()
    me("lock", "recipe.py")
    made.folder.rename(made.folder.with_name("away"))
    assert me("lock", "recipe.py", "--check").status == 0


def test_json(me: User, made):
    me.recipe(made.reference)
    document = json.loads(me("lock", "recipe.py", "--json").stdout)
    assert document["image"] == made.reference
    assert document["changed"] is True
    assert document["platforms"]["linux/amd64"]["digest"] == made.digest
    assert json.loads(me("lock", "recipe.py", "--json").stdout)["changed"] is False


def test_an_unknown_name_is_refused(me: User, made):
    me.recipe(made.reference)
    ran = me("lock", "recipe.py", "--update", "other")
    assert ran.status == 2
    assert made.reference in ran.stderr


def test_other_sections_stay(me: User, made):
    me.recipe(made.reference)
    me.write("recipe.lock.json", '{"format": "hermetic lock 1", "models": {"x": 1}}')
    assert me("lock", "recipe.py").status == 0
    assert json.loads((me.folder / "recipe.lock.json").read_text())["models"] == {"x": 1}


def test_the_real_registry(me: User, pushed: str, tiny: kit.Made):
    me.recipe(pushed)
    assert me("lock", "recipe.py").stdout == f"locked     {pushed} {tiny.digest}\n"


def test_the_archive_that_nix_pulls_is_known_by_its_hash(me: User, pushed: str, tiny: kit.Made, tmp_path: Path):
    """As nixpkgs' pullImage has it, whose command is repeated here; and the builder unpacks that archive."""
    me.recipe(pushed)
    me("lock", "recipe.py")
    assert me("nix", "export", "recipe.py").status == 0
    assert "archives" not in exported(me)
    ran = me("nix", "export", "recipe.py", "--archives")
    assert ran.status == 0, ran.stderr
    archive = tmp_path / "image.tar"
    source = f"docker://{pushed.removesuffix(':1')}@{tiny.digest}"
    words = ["--insecure-policy", f"--tmpdir={tmp_path}", "copy", "--src-tls-verify=false", source]
    subprocess.run(["skopeo", *words, f"docker-archive://{archive}:image:pinned"], check=True, capture_output=True)
    assert exported(me)["archives"] == {PLATFORM: hashlib.sha256(archive.read_bytes()).hexdigest()}
    assert me("nix", "export", "recipe.py", "--check").status == 0
    unpack(str(archive), str(tmp_path / "image"))
    assert "hello from the image" in (tmp_path / "image/rootfs/opt/tool/hello").read_text()
    assert not (tmp_path / "image/rootfs/etc/deleted").exists()
    assert json.loads((tmp_path / "image/variables.json").read_text())["FLAVOUR"] == "vanilla"


def exported(me: User) -> dict[str, object]:
    (found,) = json.loads((me.folder / "recipe.nix.json").read_text())["environments"].values()
    return dict(found)


def test_commands_are_shown_from_the_lock_file_alone(me: User, made, golden):
    """No registry, no image, no engine: only the recipe and its lock file."""
    name = "registry.example.com/tools/tiny:1"
    me.recipe(made.reference)
    me("lock", "recipe.py")
    made.folder.rename(made.folder.with_name("away"))
    document = json.loads((me.folder / "recipe.lock.json").read_text())
    document["images"] = {name: document["images"][made.reference] | {"source": name}}
    me.recipe(name)
    me.write("recipe.lock.json", json.dumps(document))
    ran = me("plan", "recipe.py", "--commands")
    assert ran.status == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("bwrap ", "podman ", "docker "))]
    assert [line.split()[0] for line in lines] == ["bwrap", "podman", "docker"]
    assert f"registry.example.com/tools/tiny@{made.digest} /build/program/recipe.sh" in lines[2]
    assert f"{me.store}/images/{made.digest.removeprefix('sha256:')}/rootfs" in lines[0]


def test_the_commands_work_when_pasted(me: User, pushed: str):
    need("bash")
    me.recipe(pushed, "hello > /build/out/said")
    me("lock", "recipe.py")
    assert me("realise", "recipe.py", "--no-link").path
    script = me("plan", "recipe.py", "--commands").stdout
    place = "/tmp/hermetic-out"
    mine = str(me.folder / "pasted")
    script = script.partition("# podman")[0].replace(place, mine)
    prepared = f"set -e\nchmod 755 {me.folder}\n{script.partition('# bubblewrap')[0]}\nchmod 777 {mine}/*\n"
    subprocess.run(["bash", "-c", prepared + script.partition("# bubblewrap")[2]], check=True)
    assert (Path(mine) / "out/said").read_text() == "hello from the image\n"
