"""The collector and images that umoci unpacked: odd modes and owners, and stages that run in them meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import image_kit as kit
import pytest
from image_harness import User

ODD = kit.layer(
    kit.folder("closed", mode=0o000),
    kit.entry("closed/secret", b"s" * 100, mode=0o000, uid=4711, gid=4711),
    kit.folder("bin", mode=0o555),
    kit.entry("bin/suid", b"x", mode=0o6755),
)


@pytest.fixture
def odd(area: Path, tmp_path: Path, shell_layer: bytes) -> kit.Made:
    made = kit.make_layout(area / tmp_path.name, [shell_layer, ODD])
    (area / tmp_path.name).chmod(0o755)
    return made


def test_an_image_with_odd_modes_and_owners_is_verified_and_goes(user: User, odd: kit.Made):
    user.recipe(odd.reference)
    user("lock", "recipe.py")
    assert user("realise", "recipe.py").path
    assert user("verify").status == 0
    listed = [json.loads(line) for line in user("du", "--json").stdout.splitlines()]
    (image,) = [line for line in listed if "image" in line]
    assert image["image"] == odd.reference
    assert image["size"] > 100
    kept = user("gc", "--dry-run").stdout
    assert "what out was made in" in kept
    user("root", "remove", "result")
    gone = user("gc")
    assert gone.status == 0, gone.stderr
    assert odd.digest.removeprefix("sha256:") in gone.stdout
    assert os.listdir(user.store / "images") == os.listdir(user.store / "trash") == []
    assert user("realise", "recipe.py", "--no-link").path


@pytest.mark.parametrize("runtime", ["bwrap", "podman"])
def test_a_collector_beside_a_running_stage(request, me: User, tiny: kit.Made, runtime: str):
    """It is frozen once it has decided; the stage, which began before and ends after, has its image all the time."""
    user = me if runtime == "bwrap" else request.getfixturevalue("podman")
    user.recipe(
        tiny.reference, "busybox mkfifo -m 666 /build/tmp/go; echo begun; cat /build/tmp/go; hello > /build/out/f"
    )
    user("lock", "recipe.py")
    stage = user.start("realise", "recipe.py", "--no-link", "--runtime", runtime, "--json")
    assert stage.stdout is not None
    said = next(line for line in stage.stdout if '"begun"' in line)
    fifo = user.folder / "fifo"
    os.mkfifo(fifo)
    user.variables["HERMETIC_TEST_SYNC"] = f"gc.after-mark:{fifo}"
    collector = user.start("gc")
    assert fifo.read_text() == "gc.after-mark\n", said
    (workspace,) = [path for path in (user.store / "tmp").iterdir() if (path / "out").is_dir()]
    fifo.write_text("")
    out, err = collector.communicate()
    assert collector.returncode == 0, err
    assert "0 paths" in err, out + err
    (workspace / "tmp/go").write_text("")
    _, err = stage.communicate()
    assert stage.returncode == 0, err
