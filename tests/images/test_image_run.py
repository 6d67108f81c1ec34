"""Stages in an image: what they see, under bubblewrap and under podman, as root and as an ordinary user."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import image_kit as kit
from image_harness import User

from hermetic.sandbox import abi
from hermetic.sandbox.plan import LaunchPlan, Limits, Mount

LOOK = """\
hello > /build/out/hello
cat /etc/motd > /build/out/motd
id -u > /build/out/uid; id -un > /build/out/name; id -g > /build/out/gid
echo "$HOME $FLAVOUR $PATH $PWD" > /build/out/variables
(touch /new || touch /etc/new || touch /build/new) 2> /dev/null && exit 1
touch /tmp/a /var/tmp/b /build/home/c
ls /build/tmp > /build/out/tmp
ls /etc/deleted > /build/out/deleted 2>&1 || true
ls /build > /build/out/build
cat /etc/passwd /etc/group /etc/hosts > /build/out/etc
"""


def tree(user: User, *arguments: str) -> dict:
    ran = user("realise", "recipe.py", "--no-link", "--json", *arguments)
    assert ran.status == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_what_a_stage_sees(user: User, pushed: str):
    user.recipe(pushed, LOOK)
    user("lock", "recipe.py")
    out = user("realise", "recipe.py", "--no-link").path
    said = {path.name: path.read_text() for path in out.iterdir()}
    assert said["hello"] == "hello from the image\n"
    assert said["motd"] == "tiny\n"
    assert (said["uid"], said["gid"], said["name"]) == ("1000\n", "100\n", "build\n")
    assert said["variables"] == f"/build/home vanilla {abi.ENV_PATH}:/opt/tool:/bin /build/tmp\n"
    assert said["tmp"] == "a\nb\n"
    assert "No such file" in said["deleted"]
    assert said["build"].split() == ["env", "home", "in", "out", "program", "stage.json", "tmp"]
    assert said["etc"] == abi.ETC["passwd"] + abi.ETC["group"] + abi.ETC["hosts"]


def test_root_and_ordinary_users_have_the_same_keys_and_trees(make_user, pushed: str):
    from image_harness import ORDINARY

    results = []
    for uid in (None, ORDINARY):
        user = make_user(uid)
        user.recipe(
            pushed,
            LOOK + "ls -lan / /bin /opt /etc/motd | grep -v -E ' (proc|dev|sys|\\.|\\.\\.)$' > /build/out/all || true",
        )
        user("lock", "recipe.py")
        results.append(tree(user))
    assert results[0]["key"] == results[1]["key"]
    assert results[0]["tree"] == results[1]["tree"]


def test_podman_and_bubblewrap_have_the_same_keys_and_trees(podman: User, pushed: str):
    podman.recipe(pushed, LOOK)
    podman("lock", "recipe.py")
    first = tree(podman, "--runtime", "bwrap")
    podman.variables["HERMETIC_STORE"] = str(podman.folder / "other-store")
    second = tree(podman, "--runtime", "podman")
    assert first["key"] == second["key"]
    assert first["tree"] == second["tree"]
    assert first["path"] != second["path"]


def test_podman_runs_what_is_in_no_image_too(podman: User, busybox):
    text = f"from hermetic import Host, Script\nout = Script('s.sh', environment=Host(paths=({str(busybox)!r},)))\n"
    podman.write("recipe.py", text)
    podman.write(
        "s.sh",
        f"#!{busybox} sh\necho $HOME > /build/out/f; echo x > /tmp/y; {busybox} ls /build/tmp >> /build/out/f\n",
        0o755,
    )
    first = tree(podman, "--runtime", "bwrap")
    podman.variables["HERMETIC_STORE"] = str(podman.folder / "other-store")
    assert tree(podman, "--runtime", "podman")["tree"] == first["tree"]


def test_where_the_image_came_from_is_in_no_key(me: User, pushed: str, tiny: kit.Made):
    keys = set()
    for reference in (pushed, tiny.reference, f"{tiny.reference}@{tiny.digest}"):
        me.recipe(reference)
        me("lock", "recipe.py")
        keys.add(me("path", "recipe.py").stdout)
    assert len(keys) == 1


def test_a_key_needs_no_download(me: User, tiny: kit.Made):
    me.recipe(f"registry.example.com/tools/tiny@{tiny.digest}")
    assert me("path", "recipe.py").status == 0
    assert me("plan", "recipe.py").status == 0


def test_the_lock_file_is_observed(me: User, tiny: kit.Made):
    """The fast answer to a command that changes nothing must see that the image has moved."""
    me.variables["HERMETIC_TEST_SETTLED"] = "1"
    me.recipe(tiny.reference)
    assert "not-locked" in me("realise", "recipe.py", "--no-link").stderr
    me("lock", "recipe.py")
    assert me("realise", "recipe.py", "--no-link").path
    before = me("path", "recipe.py").stdout
    lock = me.folder / "recipe.lock.json"
    lock.write_text(lock.read_text().replace(tiny.digest, "sha256:" + "0" * 64))
    assert me("path", "recipe.py").stdout != before


def test_a_python_program_without_python_says_so(me: User, tiny: kit.Made):
    me.recipe(f"{tiny.reference}@{tiny.digest}")
    me.write("recipe.py", (me.folder / "recipe.py").read_text().replace("recipe.sh", "p.py"))
    me.write("p.py", "print(1)")
    ran = me("realise", "recipe.py", "--no-link")
    assert ran.status in {4, 100}
    assert "python3" in ran.stdout + ran.stderr


def sample_plan(**changes: object) -> LaunchPlan:
    plan = LaunchPlan(
        argv=("/build/program/go.sh", "an argument"),
        workspace="/var/lib/store/tmp/1",
        mounts=(Mount("/var/lib/store/store/k-wheels", "/build/env/wheels"), Mount("/with,comma", "/with,comma")),
        environment={"PATH": "/usr/local/cuda/bin:/usr/bin", "CUDA_VERSION": "13", "HOME": "/root"},
        limits=Limits(memory_mb=4096, processes=512, shm_mb=2048),
        root="/var/lib/store/images/d1/rootfs",
        image="registry.example.com/tool@sha256:" + "d" * 64,
        masked=("/proc/cmdline", "/proc/acpi"),
    )
    return replace(plan, **changes)


def test_arguments(golden):
    """Docker has run none of them here: its arguments are what its documentation says."""
    plan = sample_plan()
    golden("images/bwrap.txt", _lines(plan.bwrap_args()))
    golden("images/podman-root.txt", _lines(plan.podman_args("n", ids=(64733, 64733))))
    golden("images/podman-rootless.txt", _lines(plan.podman_args("n")))
    golden("images/docker.txt", _lines(plan.docker_args("n")))
    golden("images/podman-no-image.txt", _lines(sample_plan(root=None, image="").podman_args("n")))


def _lines(words: list[str]) -> str:
    """An option and its values a line."""
    text = ""
    for word in words:
        text += ("\n" if word.startswith("--") else " ") + shlex.quote(word)
    return text.strip() + "\n"
