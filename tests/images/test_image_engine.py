"""The STAND-IN for TensorRT-LLM as an image: from a real registry, locked, pulled, run, harvested; whatever it does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_harness import User, need

from hermetic.errors import Domain, HermeticError
from hermetic.testing.trtllm.image import CONVERT, QUANTIZE, StandinImage, build_image

REPOSITORY = Path(__file__).parents[2]
RECIPE = Path(__file__).parent / "engine"


@pytest.fixture(scope="session")
def standin(area: Path) -> StandinImage:
    made = build_image(area / "standin")
    subprocess.run(["chmod", "-R", "a+rX", area / "standin"], check=True)
    return made


@pytest.fixture(scope="session")
def served(registry: str, standin: StandinImage) -> str:
    """The image in the real registry: its reference."""
    need("skopeo")
    reference = f"{registry}/nvidia/tensorrt-llm:{standin.tag}"
    copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--preserve-digests", standin.reference]
    subprocess.run([*copy, f"docker://{reference}"], check=True, capture_output=True)
    return reference


@pytest.fixture(scope="module")
def builder(area: Path, served: str) -> Iterator[User]:
    """One user with one store for all: the image is unpacked once. The recipe is locked to what the registry has."""
    folder = Path(tempfile.mkdtemp(dir=area))
    shutil.copytree(RECIPE, folder, dirs_exist_ok=True)
    write_weights(folder)
    (folder / "home").mkdir()
    user = User(None, folder, [sys.executable, "-m", "hermetic"], {"PYTHONPATH": str(REPOSITORY)})
    locked = user("lock", "recipe.py", "--set", f"image={served}")
    assert locked.status == 0, locked.stderr
    yield user
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    shutil.rmtree(folder)


def write_weights(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [5000], "data_offsets": [0, 10000]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(10000)
    (folder / "model/model.safetensors").write_bytes(data)


def realise(user: User, served: str, behaviour: str, *more: str):
    words = ("--set", f"image={served}", "--set", f"behaviour={behaviour}", *more)
    return user("realise", "recipe.py#engine", "--no-link", *words)


def attempt(user: User) -> dict:
    """The newest attempt's record."""
    newest = max((user.store / "builds").iterdir(), key=lambda folder: folder.name.split("-")[1])
    record: dict = json.loads((newest / "record.json").read_bytes())
    return record


def left_behind() -> list[str]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"standin-worker" in words and b"in-an-image" in words:
            found.append(name)
    return found


ENGINE = ["config.json", "rank0.engine", "rank1.engine", "tokenizer.json"]


class TestUnderBubblewrap:
    @pytest.mark.parametrize(
        ("behaviour", "outcome"), [("hang", "harvested"), ("exit", "exited"), ("fail", "harvested")]
    )
    def test_a_whole_engine_is_taken(self, builder: User, served: str, behaviour: str, outcome: str):
        ran = realise(builder, served, behaviour)
        assert ran.status == 0, ran.stderr
        assert sorted(os.listdir(ran.path)) == ENGINE
        assert {(ran.path / f"rank{rank}.engine").stat().st_size for rank in range(2)} == {200_000}
        config = json.loads((ran.path / "config.json").read_bytes())
        assert config["version"] == "1.2.1"
        assert config["build_config"]["max_batch_size"] == 8
        assert config["pretrained_config"]["architecture"] == "Qwen3ForCausalLM"
        assert attempt(builder)["outcome"] == outcome
        assert left_behind() == []

    @pytest.mark.parametrize(
        ("behaviour", "code", "outcome"),
        [
            ("nothing", 100, "exited-incomplete"),
            ("crash", 100, "crashed"),
            ("truncate", 101, "timed-out-incomplete"),
            ("linger", 101, "timed-out-incomplete"),
            ("slow", 101, "timed-out-incomplete"),
        ],
    )
    def test_what_is_not_whole_is_not_taken(self, builder: User, served: str, behaviour: str, code: int, outcome: str):
        timeout = 60 if code == 100 else 3  # enough for what ends by itself on any machine; too little for the others
        ran = realise(builder, served, behaviour, "--set", f"timeout={timeout}")
        assert ran.status == code, ran.stderr
        assert attempt(builder)["outcome"] == outcome
        assert left_behind() == []

    @pytest.mark.parametrize("behaviour", ["hang", pytest.param("exit", marks=pytest.mark.slow)])
    def test_the_bench_as_it_is_usually_started(self, builder: User, served: str, behaviour: str):
        """Through mpirun, as a module; hanging it leaves a workspace, ending it leaves a copy and no workspace."""
        ran = realise(builder, served, behaviour, "--set", "tool=trtllm-bench")
        assert ran.status == 0, ran.stderr
        assert sorted(os.listdir(ran.path)) == ENGINE

    def test_an_option_that_the_version_has_not(self, builder: User, served: str):
        ran = realise(builder, served, "exit", "--set", "tool=wrong")
        assert ran.status == 100
        assert "unrecognized arguments: --checkpoint-dir" in ran.stderr
        assert attempt(builder)["status"] == 2


@pytest.mark.slow
class TestUnderPodman:
    @pytest.fixture
    def contained(self, podman: User, builder: User) -> User:
        """A podman that works, on the store that has the image."""
        return User(None, builder.folder, builder.command, builder.variables | podman.variables)

    def test_a_whole_engine_is_the_same_one(self, contained: User, builder: User, served: str):
        first = realise(builder, served, "hang")
        contained.variables["HERMETIC_STORE"] = str(contained.folder / "podman-store")
        ran = realise(contained, served, "hang", "--runtime", "podman")
        assert ran.status == 0, ran.stderr
        assert ran.path.name == first.path.name
        for name in ENGINE:
            assert (ran.path / name).read_bytes() == (first.path / name).read_bytes()
        assert left_behind() == []

    def test_a_truncated_one_is_not_taken(self, contained: User, served: str):
        ran = realise(contained, served, "truncate", "--set", "timeout=4", "--runtime", "podman")
        assert ran.status == 101, ran.stderr
        assert "not complete" in ran.stderr
        assert left_behind() == []


class TestTheImage:
    def test_its_digest_is_the_same_each_time_and_survives_the_registry(
        self, builder: User, standin: StandinImage, served: str, tmp_path: Path
    ):
        assert build_image(tmp_path).digest == standin.digest
        locked = json.loads((builder.folder / "recipe.lock.json").read_bytes())
        assert locked["images"][served]["platforms"]["linux/amd64"]["digest"] == standin.digest

    def test_versions_share_what_is_not_theirs(self, tmp_path: Path):
        made = [build_image(tmp_path, version) for version in ("1.2.1", "0.16.0")]
        index = json.loads((tmp_path / "index.json").read_bytes())
        assert {item["digest"] for item in index["manifests"]} == {image.digest for image in made}
        assert len({image.reference for image in made}) == 2
        layers = [json.loads((tmp_path / "blobs/sha256" / image.digest[7:]).read_bytes())["layers"] for image in made]
        assert layers[0][0] == layers[1][0]
        assert layers[0][1] != layers[1][1]

    def test_a_version_without_a_builder(self, tmp_path: Path):
        with pytest.raises(HermeticError) as caught:
            build_image(tmp_path, "1.4.0")
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "unknown-version")

    def test_its_tools_lie_where_the_real_ones_do_and_say_what_they_are(self, builder: User, standin: StandinImage):
        tools = f"trtllm-build --help; trtllm-bench --help; python3 {CONVERT} --help; python3 {QUANTIZE} --help"
        builder.recipe(standin.reference, f"({tools}) > /build/out/said", name="tools")
        assert builder("lock", "tools.py").status == 0
        said = (builder("realise", "tools.py", "--no-link").path / "said").read_text()
        assert said.count("STAND-IN") >= 4
        assert "--use_paged_context_fmha" in said
        assert "--weight_only_precision" in said
        assert "--qformat" in said
