"""The lock file: what is written, what is refused, and what a recipe makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.recipe import Image, load
from hermetic.recipe.image_reference import parse_reference
from hermetic.recipe.lockfile import PLATFORM, ImageEntry, LockedImage, LockFile, lock_path

NAME = "registry.example.com/tool:1"
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def locked(digest: str = A) -> LockedImage:
    return LockedImage(digest=digest, media_type="m", size=7, config=C, variables=("PATH=/bin",))


def write(folder: Path, image: str = NAME, entry: ImageEntry | None = None) -> str:
    (folder / "s.sh").touch()
    (folder / "r.py").write_text(
        f"from hermetic import Image, Script\n\n\nout = Script('s.sh', environment=Image({image!r}))\n"
    )
    if entry is not None:
        LockFile(str(folder / "r.lock.json"), {NAME: entry}).write()
    return str(folder / "r.py")


def refused(recipe: str) -> HermeticError:
    with pytest.raises(HermeticError) as caught:
        load(recipe)
    return caught.value


def test_its_bytes(golden, tmp_path):
    entry = ImageEntry(platforms={"linux/arm64": locked(B), "linux/amd64": locked()}, index=C, source=NAME)
    unresolved = ImageEntry(unresolved="registry.example.com cannot be reached")
    lock = LockFile(str(tmp_path / "r.lock.json"), {"registry.example.com/z:2": unresolved, NAME: entry})
    lock.others = {"models": {"b": 1, "a": 2}}
    golden("images/recipe.lock.json", lock.text())
    lock.write()
    again = LockFile.read(lock.path)
    assert (again.text(), again.images, again.others) == (lock.text(), lock.images, lock.others)


def test_it_is_written_only_when_it_changes(tmp_path):
    lock = LockFile(str(tmp_path / "r.lock.json"), {NAME: ImageEntry(platforms={PLATFORM: locked()})})
    assert lock.write()
    before = (tmp_path / "r.lock.json").stat()
    assert not lock.write()
    after = (tmp_path / "r.lock.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["r.lock.json"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lock-unreadable"),
        ("[]", "lock-unreadable"),
        ('{"images": {}}', "lock-unreadable"),
        ('{"format": "hermetic lock 2", "images": {}}', "lock-too-new"),
        ('{"format": "hermetic lock 1", "images": []}', "lock-unreadable"),
        ('{"format": "hermetic lock 1", "images": {"x/y:1": {"digest": "sha256:1"}}}', "lock-unreadable"),
        ('{"format": "hermetic lock 1", "images": {"x/y:1": {"platforms": {"linux/amd64": {}}}}}', "lock-unreadable"),
    ],
)
def test_what_is_no_lock_file_is_refused(tmp_path, text, reason):
    recipe = write(tmp_path)
    (tmp_path / "r.lock.json").write_text(text)
    error = refused(recipe)
    assert (error.domain, error.reason) == (Domain.RECIPE, reason)
    assert "r.lock.json" in error.message


def test_a_tag_without_an_entry_is_refused_with_the_line_and_the_command(tmp_path, monkeypatch):
    recipe = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    error = refused("r.py")
    assert (error.domain, error.reason) == (Domain.RECIPE, "not-locked")
    assert error.message.startswith("r.py:4: ")
    assert error.hint == "hermetic lock r.py"
    assert lock_path(recipe) == str(tmp_path / "r.lock.json")


def test_an_unresolved_entry_says_why(tmp_path):
    error = refused(write(tmp_path, entry=ImageEntry(unresolved="nobody could ask")))
    assert (error.domain, error.reason) == (Domain.RECIPE, "unresolved")
    assert "nobody could ask" in error.message


def test_an_image_for_other_machines_only_is_refused(tmp_path):
    error = refused(write(tmp_path, entry=ImageEntry(platforms={"linux/s390x": locked()})))
    assert (error.domain, error.reason) == (Domain.RECIPE, "image-platform")
    assert "linux/s390x" in error.message


def test_the_entry_becomes_the_environment(tmp_path):
    entry = ImageEntry(platforms={PLATFORM: locked(), "linux/other": locked(B)}, index=C)
    recipe = load(write(tmp_path, entry=entry))
    environment = recipe.stages["out"].environment
    assert isinstance(environment, Image)
    assert (environment.digest, environment.config, environment.variables) == (A, C, ("PATH=/bin",))


def test_a_digest_needs_no_entry(tmp_path):
    recipe = load(write(tmp_path, f"registry.example.com/tool@{B}"))
    assert recipe.stages["out"].environment.digest == B


def test_outside_of_a_recipe_only_a_digest_will_do():
    assert Image(f"registry.example.com/tool:1@{B}").digest == B
    with pytest.raises(HermeticError, match="not-locked"):
        Image(NAME)


def test_paths_are_relative_to_the_recipe(tmp_path):
    recipe = load(write(tmp_path, f"oci:images/tool:1@{B}"))
    assert recipe.stages["out"].environment.location == f"oci:{tmp_path}/images/tool:1@{B}"


@pytest.mark.parametrize(
    ("text", "transport", "place", "name", "selector"),
    [
        ("registry.example.com/a/b:1", "registry", "registry.example.com", "a/b", "1"),
        ("localhost:5000/a", "registry", "localhost:5000", "a", "latest"),
        (f"[::1]:5000/a@{A}", "registry", "[::1]:5000", "a", A),
        (f"registry.example.com/a:1@{A}", "registry", "registry.example.com", "a", A),
        ("oci:/x/y:1", "oci", "/x/y", "", "1"),
        ("oci:x", "oci", "x", "", ""),
        ("oci-archive:/x.tar:v1", "oci-archive", "/x.tar", "", "v1"),
        ("containers-storage:localhost/a:1", "containers-storage", "localhost/a:1", "", ""),
        ("docker-daemon:a:1", "docker-daemon", "a:1", "", ""),
    ],
)
def test_references(text, transport, place, name, selector):
    found = parse_reference(text)
    assert (found.transport, found.place, found.name, found.selector) == (transport, place, name, selector)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tool",
        "tool:1",
        "library/tool:1",
        "registry.example.com/Tool",
        "r.example.com/a:-",
        "oci:",
        "r.x/a@sha256:1",
    ],
)
def test_what_names_no_image(tmp_path, text):
    error = refused(write(tmp_path, text))
    assert (error.domain, error.reason) == (Domain.RECIPE, "image-reference")


def test_all_of_a_recipe_s_mistakes_are_shown_together(tmp_path):
    (tmp_path / "s.sh").touch()
    (tmp_path / "r.py").write_text(
        "from hermetic import Image, Script\n"
        "a = Script('s.sh', environment=Image('tool'))\n"
        f"b = Script('s.sh', environment=Image({NAME!r}))\n"
    )
    error = refused(str(tmp_path / "r.py"))
    assert [one.reason for one in error.errors] == ["image-reference", "not-locked"]


def test_only_the_manifest_is_in_the_key(tmp_path):
    from hermetic.sandbox.images import value

    one = Image(f"registry.example.com/tool@{A}")
    assert value(one) == {"kind": "image", "manifest": A}
    assert value(Image(f"oci:elsewhere@{A}")) == value(one)
    assert value(Image(f"registry.example.com/tool@{A}", python="/opt/python")) != value(one)
    assert value(Image(f"registry.example.com/tool@{B}")) != value(one)


def test_its_format_is_plain_json(tmp_path):
    write(tmp_path, entry=ImageEntry(platforms={PLATFORM: locked()}))
    document = json.loads((tmp_path / "r.lock.json").read_text())
    assert document["format"] == "hermetic lock 1"
    assert document["images"][NAME]["platforms"][PLATFORM]["digest"] == A
