"""Wheels over an image: chosen for its Python, imported before what it has, the same key and tree everywhere."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shlex
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_harness import User

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.wheels import Suiting
from hermetic.recipe.environments import Image
from hermetic.sandbox import abi, environments
from hermetic.sandbox.environments import Identity
from hermetic.sandbox.plan import LaunchPlan
from hermetic.store import Store
from hermetic.testing.trtllm.image import StandinImage, build_image

DIGEST = "sha256:" + "d" * 64
RECIPE = """\
from hermetic import Image, Script, param
out = Script("look.py", environment=Image({reference!r}{image}).with_wheels("wheels.lock"{wheels}))
"""
LOOK = """\
import json, subprocess, sys
import tensorrt_llm, transformers
found = {"transformers": transformers.__version__, "from": transformers.__file__, "theirs": tensorrt_llm.__version__}
found["script"] = subprocess.run(["transformers-cli"], capture_output=True, text=True).stdout.strip()
found["path"] = sys.path[1]
json.dump(found, open("/build/out/found.json", "w"))
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Index:
    """A PEP 503 index with one project, in as many wheels as are added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "transformers"
        self.folder.mkdir(parents=True)
        self._hashes: list[str] = []

    def add(self, tag: str, text: str) -> None:
        info = "transformers-4.0.dist-info"
        files = {
            "transformers/__init__.py": f"__version__ = {text!r}\ndef main(): print('ran ' + __version__)\n",
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: transformers\nVersion: 4.0\n",
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
            f"{info}/entry_points.txt": "[console_scripts]\ntransformers-cli = transformers:main\n",
        }
        files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        path = self.folder / f"transformers-4.0-{tag}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        self._hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
        names = sorted(each.name for each in self.folder.glob("*.whl"))
        (self.folder / "index.html").write_text("".join(f'<a href="{name}">{name}</a>' for name in names))

    @property
    def lock(self) -> str:
        return "transformers==4.0 " + " ".join(f"--hash=sha256:{each}" for each in self._hashes) + "\n"


@pytest.fixture(scope="module")
def index(area: Path) -> Iterator[tuple[Index, str]]:
    """Wheels for several Pythons and for two ages of glibc."""
    folder = area / "index"
    made = Index(folder)
    for minor in (10, 11, 12, 13):
        made.add(f"cp3{minor}-cp3{minor}-manylinux_2_17_{'x86_64'}", f"old libc, 3.{minor}")
        made.add(f"cp3{minor}-cp3{minor}-manylinux_2_31_{'x86_64'}", f"new libc, 3.{minor}")
        made.add(f"cp3{minor}-cp3{minor}-manylinux_2_99_{'x86_64'}", "libc of nobody")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def standin(area: Path) -> StandinImage:
    """An image with a Python, and with an older `transformers` of its own."""
    packages = {"transformers/__init__.py": b'__version__ = "the image has this"\n'}
    return build_image(area / "wheels-standin", packages=packages)


def write(user: User, index: tuple[Index, str], reference: str, *, image: str = "", wheels: str = "") -> None:
    user.variables["UV_DEFAULT_INDEX"] = index[1]
    user.write("wheels.lock", index[0].lock)
    user.write("look.py", LOOK)
    user.write("recipe.py", RECIPE.format(reference=reference, image=image, wheels=wheels))


def found(user: User, *words: str) -> dict[str, str]:
    ran = user("realise", "recipe.py", "--no-link", *words)
    assert ran.status == 0, ran.stderr
    document: dict[str, str] = json.loads((ran.path / "found.json").read_bytes())
    return document


class TestTheImageIsAsked:
    def test_once_and_the_answer_is_locked(self, me: User, index, standin: StandinImage):
        write(me, index, standin.reference)
        assert "not locked" in me("plan", "recipe.py").stderr
        assert me("lock", "recipe.py").status == 0
        locked = json.loads((me.folder / "recipe.lock.json").read_bytes())
        (entry,) = locked["images"].values()
        (python,) = entry["platforms"]["linux/amd64"]["pythons"].items()
        assert python[0] == "python3"
        assert python[1].startswith(f"{standin.python} glibc 2.")
        before = (me.folder / "recipe.lock.json").read_bytes()
        assert "kept" in me("lock", "recipe.py").stdout
        assert (me.folder / "recipe.lock.json").read_bytes() == before
        minor = ".".join(standin.python.split(".")[:2])
        assert found(me) == {
            "transformers": f"new libc, {minor}",
            "from": "/build/env/wheels/transformers/__init__.py",
            "theirs": "1.2.1",
            "script": f"ran new libc, {minor}",
            "path": "/build/env/wheels",
        }
        write(me, index, standin.reference)
        me.write("recipe.py", (me.folder / "recipe.py").read_text().replace('.with_wheels("wheels.lock")', ""))
        me.write("look.py", LOOK.replace('["transformers-cli"]', '["true"]'))
        assert found(me)["transformers"] == "the image has this"

    def test_one_without_a_python(self, me: User, index, tiny):
        write(me, index, tiny.reference)
        ran = me("lock", "recipe.py")
        assert ran.status == 4
        assert "error[environment/image-python]" in ran.stderr or "error[environment/sandbox-failed]" in ran.stderr

    def test_a_lock_file_from_before_the_wheels(self, me: User, index, standin: StandinImage):
        """The digest stays: only what is missing is asked for."""
        me.recipe(standin.reference)
        me("lock", "recipe.py")
        before = json.loads((me.folder / "recipe.lock.json").read_bytes())
        write(me, index, standin.reference)
        ran = me("plan", "recipe.py")
        assert "nobody has asked which Python 'python3' of the image" in ran.stderr
        assert me("lock", "recipe.py", "--check").status == 3
        assert me("lock", "recipe.py").status == 0
        after = json.loads((me.folder / "recipe.lock.json").read_bytes())
        (entry,) = after["images"].values()
        assert entry["platforms"]["linux/amd64"].pop("pythons")
        assert after == before


class TestDeclared:
    def test_without_asking(self, me: User, index, standin: StandinImage):
        minor = ".".join(standin.python.split(".")[:2])
        write(me, index, f"{standin.reference}@{standin.digest}", wheels=f", python={minor!r}")
        assert found(me)["transformers"] == f"old libc, {minor}"
        write(me, index, f"{standin.reference}@{standin.digest}", wheels=f", python={minor!r}, libc='2.36'")
        assert found(me)["transformers"] == f"new libc, {minor}"

    @pytest.mark.parametrize(
        ("libc", "expected"),
        [("2.17", "2_17"), ("2.27", "2_17"), ("2.28", "2_28"), ("2.36", "2_36"), ("2.45", "2_40"), ("3.0", "2_40")],
    )
    def test_the_newest_glibc_that_wheels_are_made_for_and_it_has(self, libc: str, expected: str):
        assert Suiting("3.12", libc).arguments()[3].endswith(f"-manylinux_{expected}")

    def test_a_glibc_that_no_wheel_is_made_for(self):
        with pytest.raises(HermeticError) as caught:
            Suiting("3.12", "2.12").arguments()
        assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "unsupported-interpreter")


class TestKeys:
    def keys(self, user: User) -> str:
        ran = user("path", "recipe.py")
        assert ran.status == 0, ran.stderr
        return ran.stdout

    def test_what_is_in_them(self, me: User, index, standin: StandinImage):
        pinned = f"registry.example.com/nvidia/tensorrt-llm@{standin.digest}"
        seen = set()
        for wheels in (", python='3.12'", ", python='3.11'", ", python='3.12', libc='2.39'"):
            write(me, index, pinned, wheels=wheels)
            seen.add(self.keys(me))
        me.recipe(pinned)
        seen.add(self.keys(me))
        write(me, index, pinned, wheels=", python='3.12'")
        (me.folder / "wheels.lock").write_text("# a comment\n" + index[0].lock)
        assert self.keys(me) in seen
        (me.folder / "wheels.lock").write_text("other==1.0 --hash=sha256:" + "0" * 64)
        seen.add(self.keys(me))
        assert len(seen) == 5

    def test_podman_and_bubblewrap_have_the_same_keys_and_trees(self, podman: User, index, standin: StandinImage):
        write(podman, index, standin.reference)
        assert podman("lock", "recipe.py").status == 0
        results = []
        for runtime in ("bwrap", "podman"):
            podman.variables["HERMETIC_STORE"] = str(podman.folder / f"store-{runtime}")
            ran = podman("realise", "recipe.py", "--no-link", "--json", "--runtime", runtime)
            assert ran.status == 0, ran.stderr
            results.append(json.loads(ran.stdout.splitlines()[-1]))
        assert (results[0]["key"], results[0]["tree"]) == (results[1]["key"], results[1]["tree"])


def test_arguments(golden, tmp_path: Path):
    """What would run, worked out from the lock file alone. A path for Python that the image sets comes behind ours."""
    (tmp_path / "wheels.lock").write_text("idna==3.10 --hash=sha256:" + "1" * 64)
    image = Image(
        f"registry.example.com/tool@{DIGEST}",
        variables=("PATH=/usr/bin", "PYTHONPATH=/opt/theirs"),
    ).with_wheels(tmp_path / "wheels.lock", python="3.12", libc="2.39")
    mounts = environments.planned(image, Identity({}), Store.open(tmp_path / "store"))
    assert mounts.variables["PYTHONPATH"] == "/build/env/wheels:/opt/theirs"
    plan = LaunchPlan(
        argv=(*mounts.python, f"{abi.PROGRAM}/p.py"),
        workspace="/w",
        mounts=mounts.mounts,
        environment=mounts.variables,
        root=mounts.root,
        image=mounts.image,
        masked=(),
    )
    for name, words in (("docker", plan.docker_args("n")), ("podman", plan.podman_args("n"))):
        lines = "".join(("\n" if word.startswith("--") else " ") + shlex.quote(word) for word in words)
        golden(f"images/wheels-{name}.txt", lines.replace(str(tmp_path), "/s").strip() + "\n")
