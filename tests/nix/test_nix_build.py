"""Nix builds what a recipe says: the same trees, once, in its own sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from nix_machine import Done, Machine, Nix, tree

from hermetic.digest import hash_bytes
from hermetic.testing.hub import Hub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RECIPES = Path(__file__).parents[2] / "recipes"


class TestFlake:
    def test_it_shows_what_it_has(self, nix: Nix) -> None:
        shown = json.loads(nix("flake", "show", "", "--json").stdout)
        for system in ("aarch64-linux", "x86_64-linux"):
            assert {"default", "hermetic", "qwen3-32b-engine", "tiny-engine"} <= set(shown["packages"][system])
            assert set(shown["apps"][system]) == {"default", "openai-qwen3", "tritonserver-qwen3"}
            assert set(shown["checks"][system]) == {"command", "tiny-smoke"}
            assert set(shown["devShells"][system]) == {"default"}
        assert {"formatter", "lib", "nixosModules", "overlays"} <= set(shown)

    def test_its_checks_pass_and_the_store_is_whole(self, nix: Nix) -> None:
        nix("flake", "check", "")
        verify = ["nix-store", "--store", str(nix.root), "--verify", "--check-contents"]
        assert subprocess.run(verify, check=False, capture_output=True).returncode == 0

    def test_the_command_runs(self, nix: Nix) -> None:
        assert nix("run", "", "--", "--version").stdout.startswith("hermetic, version")

    def test_the_server_starts_what_hermetic_serves_with(self, nix: Nix) -> None:
        assert "hermetic serve triton" in nix("run", "#tritonserver-qwen3", "--", "--help").stdout

    def test_a_server_without_an_engine_says_so(self, nix: Nix) -> None:
        done = nix("run", "#tritonserver-qwen3", ok=False)
        assert done.exit_code not in (0, 1), done.stderr
        assert "qwen3" in done.stderr

    def test_no_path_of_this_machine_is_in_a_derivation(self, nix: Nix, repository: Path) -> None:
        packages = json.loads(nix("flake", "show", "", "--json").stdout)["packages"]["x86_64-linux"]
        shown = nix("show-derivation", "-r", *(f"#{name}" for name in packages)).stdout
        assert {"tiny-engine", "qwen3-32b-engine", "hermetic"} <= set(packages)
        assert "/nix/store/" in shown
        for word in (str(repository), str(nix.root), "/usr/bin", os.path.expanduser("~")):
            assert word not in shown

    def test_inside_git_it_is_the_same_derivation(self, nix: Nix, tmp_path: Path) -> None:
        outside = nix("eval", "#packages.x86_64-linux.tiny-engine.drvPath").stdout
        copy = tmp_path / "checkout"
        shutil.copytree(nix.flake, copy, symlinks=True)
        (copy / ".gitignore").write_text(".cache\n")
        (copy / ".cache").mkdir()
        (copy / ".cache/a-store").write_text("a store")
        git = ["git", "-C", str(copy), "-c", "user.name=test", "-c", "user.email=test@example.com"]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
            subprocess.run([*git, *words], check=True)
        inside = nix("eval", f"git+file://{copy}#packages.x86_64-linux.tiny-engine.drvPath").stdout
        assert inside == outside
        assert not list(nix.root.glob("nix/store/*/.cache/a-store"))

    def test_what_a_stage_does_not_use_changes_nothing(self, nix: Nix, tmp_path: Path) -> None:
        """A model beside the recipes, a document, another room's module: no derivation of an engine has them."""
        before = nix("eval", "#packages.x86_64-linux.tiny-engine.drvPath").stdout
        copy = tmp_path / "checkout"
        shutil.copytree(nix.flake, copy, symlinks=True)
        (copy / "model.safetensors").write_bytes(bytes(1000))
        (copy / "README.md").write_text("other words")
        (copy / "hermetic/cli/app.py").write_text("")
        assert nix("eval", "#packages.x86_64-linux.tiny-engine.drvPath", flake=copy).stdout == before
        (copy / "hermetic/harvest/judge.py").write_text("")
        assert nix("eval", "#packages.x86_64-linux.tiny-engine.drvPath", flake=copy).stdout != before


class TestTiny:
    def test_every_stage_has_the_tree_of_the_other_driver(self, nix: Nix, cli, repository: Path) -> None:
        recipe = repository / "recipes/tiny_qwen3.py"
        result = cli("realise", recipe)
        assert result.exit_code == 0, result.stderr
        built, done = nix.build("tiny-engine")
        assert tree(built) == tree(result.lines[0])
        for stage in ("weights", "quantised"):
            here = next(path for path in (nix.root / "nix/store").iterdir() if path.name.endswith(f"-{stage}"))
            assert tree(here) == tree(cli("path", f"{recipe}#{stage}").lines[0])
        assert "/nix/store" not in done.stderr.partition("engine is tree")[2]

    def test_building_again_builds_and_adds_nothing(self, nix: Nix) -> None:
        nix.build("tiny-engine")
        before = nix.paths()
        _, done = nix.build("tiny-engine")
        assert (done.built, nix.paths()) == ([], before)


@pytest.fixture(scope="module")
def qwen3(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``recipes/qwen3.py``, locked and exported with a Hub and an image that are stand-ins."""
    folder = tmp_path_factory.mktemp("qwen3")
    for name in ("qwen3.py", "tiny_qwen3/calibration.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(RECIPES / name, folder / name)
    return folder


class TestQwen3:
    def test_the_graph_has_the_trees_of_the_other_driver(self, nix: Nix, qwen3: Path, cli, monkeypatch) -> None:
        chosen = ("--set", f"image={nix.image.reference}", "--set", "gpu=none")
        with Hub() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            files = {path.name: path.read_bytes() for path in (RECIPES / "tiny_qwen3/model").iterdir()}
            hub.repository("Qwen/Qwen3-32B").commit({**files, "README.md": b"---\nlicense: apache-2.0\n---\n"})
            assert cli("lock", "qwen3.py", *chosen, cwd=qwen3).exit_code == 0
            ours = {}
            for stage in ("nvfp4_engine", "engine", "manifest"):
                result = cli("realise", f"qwen3.py#{stage}", *chosen, cwd=qwen3)
                assert result.exit_code == 0, result.stderr
                ours[stage] = tree(result.lines[0])
        shutil.copy(RECIPES / "qwen3.nix.json", qwen3)  # which has the wheels of its locks, so no index is asked
        assert cli("nix", "export", "qwen3.py", *chosen, cwd=qwen3).exit_code == 0
        for name in ("qwen3.py", "qwen3.lock.json", "qwen3.nix.json"):
            shutil.copy(qwen3 / name, nix.flake / "recipes" / name)
        blackwell, _ = nix.build("qwen3-32b-engine")
        manifest, done = nix.build("qwen3")
        assert tree(blackwell) == ours["nvfp4_engine"]
        assert tree(manifest) == ours["manifest"]
        assert f"engine is tree {ours['engine']}" in done.stderr

    def test_an_option_of_the_engine_builds_the_engine_alone(self, nix: Nix, qwen3: Path) -> None:
        nix.build("qwen3-32b-engine")
        graph = nix.flake / "recipes/qwen3.nix.json"
        found = json.loads(graph.read_text())
        found["stages"]["nvfp4_engine"]["parameters"]["options"]["max_batch_size"] = 16
        graph.write_text(json.dumps(found))
        _, done = nix.build("qwen3-32b-engine")
        assert done.built == ["nvfp4_engine"]


CONSUMER = """\
{
  inputs.hermetic.url = "path:%s";
  outputs = { self, hermetic }:
    let made = hermetic.lib.x86_64-linux; in {
      packages.x86_64-linux = made.fromRecipe { export = ./trial.nix.json; root = ./.; } // {
        bench = made.mkEngine { name = "tiny"; hfModel = ./model; maxBatchSize = 4; };
        gpu = made.mkEngine { name = "tiny"; hfModel = ./model; gpu = %s; };
        hub = made.mkHfModel { hfModel = "Qwen/Qwen3-32B"; };
        named = made.mkEngine { name = "named"; hfModel = "Qwen/Qwen3-32B"; quantization = "NVFP4"; };
        repository = made.mkTritonRepo { engine = ./model; maxBatchSize = 2; };
        tokenizer = made.mkTritonServerRuntime { name = "named"; tokenizerModel = "Qwen/Qwen3-32B"; };
        unpinned = made.mkHfModel { hfModel = "somebody/a-model"; };
        server = made.mkTritonServerRuntime { name = "tiny"; manifest = ./manifest; };
        relaxed = made.relaxed.mkEngine { name = "tiny"; hfModel = ./model; gpu = %s; };
      };
    };
}
"""
GPU = '{ product = "NVIDIA H200"; memory_gib = 140; sm = "9.0"; count = 1; }'
TRIAL = """\
from hermetic import Harvest, LogLine, PythonEnv, Script, Source

env = PythonEnv("lock.txt")
harvest = Harvest(artifacts=("engine",), folders=("tmp/work",), complete=LogLine("all written", per_rank=False))
hanging = Script("hanging.py", environment=env, harvest=harvest, inputs={"data": Source("data.txt")})
half = Script("half.py", environment=env, harvest=harvest.model_copy(update={"timeout": 3}))
network = Script("network.py", environment=env)
sees = Script("sees.py", environment=env, parameters={"a": 1}, inputs={"data": Source("data.txt")})
names = Script("names.py", environment=env, inputs={"data": Source("data.txt")})
leaves = Script("leaves.py", environment=env)
long = Script("hanging.py", environment=env, timeout=2)
default = sees
"""
PROGRAMS = {
    "hanging.py": """\
import os, pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
work = pathlib.Path("work")
work.mkdir()
(work / "engine").write_bytes(b"whole" * 1000)
print("all written", flush=True)
signal.pause()
""",
    "half.py": """\
import pathlib, signal
pathlib.Path("work").mkdir()
pathlib.Path("work/engine").write_bytes(b"half")
signal.pause()
""",
    "network.py": """\
import socket
socket.create_connection(("192.0.2.1", 80), timeout=5)
""",
    "sees.py": """\
import json, os, pathlib, pwd, socket, sys
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
seen = {
    "variables": {name: text for name, text in os.environ.items() if name not in ("LD_LIBRARY_PATH", "SHLVL", "PWD")},
    "stage": json.loads(pathlib.Path("/build/stage.json").read_text()),
    "data": pathlib.Path("/build/in/data").read_text(),
    "where": os.getcwd(), "host": socket.gethostname(), "ids": [os.getuid(), os.getgid()],
    "build": sorted(os.listdir("/build")), "program": sorted(os.listdir("/build/program")),
    "executable": sys.executable, "argv": sys.argv, "umask": os.umask(0),
}
pathlib.Path("/build/out/seen.json").write_text(json.dumps(seen, sort_keys=True))
""",
    "leaves.py": """\
import pathlib, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
pathlib.Path("out").touch()
pathlib.Path("/build/out/done").touch()
""",
    "names.py": "import os\nopen('/build/out/place', 'w').write('at ' + os.path.realpath('/build/in/data'))\n",
}


@pytest.fixture(scope="module")
def consumer(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flake of somebody who uses this one."""
    folder = tmp_path_factory.mktemp("consumer")
    for name, text in {**PROGRAMS, "trial.py": TRIAL, "lock.txt": "", "data.txt": "some data\n"}.items():
        (folder / name).write_text(text)
    shutil.copytree(RECIPES / "tiny_qwen3/model", folder / "model")
    head = json.dumps({"t": {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}}).encode()
    weights = len(head).to_bytes(8, "little") + head + bytes(1000)  # or the stand-in's engine would weigh too little
    (folder / "model/model.safetensors").write_bytes(weights)
    (folder / "flake.nix").write_text(CONSUMER % (nix.flake, GPU, GPU))
    return folder


@pytest.fixture
def exported(consumer: Path, cli) -> None:
    assert cli("nix", "export", "trial.py", cwd=consumer).exit_code == 0


@pytest.mark.usefixtures("exported")
class TestSandbox:
    def test_a_program_sees_what_it_sees_under_the_other_driver(self, nix: Nix, consumer: Path, cli) -> None:
        built, _ = nix.build("sees", flake=consumer, prefix="hermetic/")
        result = cli("realise", "trial.py#sees", cwd=consumer)
        assert result.exit_code == 0, result.stderr
        assert json.loads((built / "seen.json").read_text()) == json.loads(
            Path(result.lines[0], "seen.json").read_text()
        )

    def test_what_hangs_is_harvested(self, nix: Nix, consumer: Path) -> None:
        built, done = nix.build("hanging", flake=consumer, prefix="hermetic/")
        assert (os.listdir(built), (built / "engine").read_bytes()) == (["engine"], b"whole" * 1000)
        assert "hanging harvested" in done.stderr

    def test_what_a_program_leaves_running_keeps_nobody_waiting(self, nix: Nix, consumer: Path) -> None:
        """It holds the pipe of the output open; its end is ours to bring about."""
        built, _ = nix.build("leaves", flake=consumer, prefix="hermetic/")
        assert os.listdir(built) == ["done"]

    @pytest.mark.parametrize(
        ("stage", "error"),
        [
            ("half", "timeout/timed-out-incomplete"),
            ("network", "Network is unreachable"),
            ("names", "build/output-store-path"),
            ("long", "timeout/stage-timed-out"),
        ],
    )
    def test_what_must_not_be_fails_and_says_why(self, stage: str, error: str, nix: Nix, consumer: Path) -> None:
        _, done = nix.build(stage, flake=consumer, prefix="hermetic/", ok=False)
        assert done.exit_code != 0
        assert error in done.stderr

    @pytest.mark.parametrize("name", ["hub", "named", "repository", "tokenizer"])
    def test_the_documented_functions_evaluate(self, name: str, nix: Nix, consumer: Path) -> None:
        """Models by the name that a lock file pins: what they fetch is fixed, and lies where Nix cannot ask here."""
        shown = nix("show-derivation", "-r", f"path:{consumer}#{name}", prefix="hermetic/").stdout
        assert name == "repository" or '"outputHashAlgo": "sha256"' in shown

    def test_a_model_that_no_lock_pins_is_refused(self, nix: Nix, consumer: Path) -> None:
        done = nix("show-derivation", f"path:{consumer}#unpinned", prefix="hermetic/", ok=False)
        assert "hf://somebody/a-model@main is not locked" in done.stderr

    def test_a_manifest_in_nix_store_vouches_for_an_engine_elsewhere(
        self, nix: Nix, consumer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The engine itself is not copied, and one byte more in it is found."""
        engine, listed = tmp_path / "engine", consumer / "manifest"
        for folder in (engine, listed):
            folder.mkdir()
        (engine / "config.json").write_text("{}")
        files = {"config.json": {"blake3": hash_bytes(b"{}").hex, "size": 2}}
        (listed / "manifest.json").write_text(json.dumps({"files": files}))
        monkeypatch.setenv("TRTLLM_ENGINE_PATH", str(engine))
        nix.build("server", flake=consumer, prefix="hermetic/")
        before = nix.paths()
        (engine / "config.json").write_text("{ }")
        done = nix("run", "#server", flake=consumer, prefix="hermetic/", ok=False)
        assert "trust/engine-changed" in done.stderr
        assert nix.paths() == before

    def test_an_engine_of_the_documented_function(self, nix: Nix, consumer: Path) -> None:
        built, done = nix.build("bench", flake=consumer, prefix="hermetic/")
        assert {"config.json", "rank0.engine", "tokenizer.json"} <= set(os.listdir(built))
        assert "--max_batch_size 4" in done.stderr
        assert "engine harvested" in done.stderr


@pytest.mark.usefixtures("exported")
class TestGpu:
    """A stage that declares a GPU: where Nix lets it be built, and what its builder says where there is none."""

    def derivation(self, nix: Nix, consumer: Path, name: str) -> dict[str, str]:
        shown = nix("show-derivation", f"path:{consumer}#{name}", prefix="hermetic/").stdout
        (found,) = json.loads(shown).values()
        return dict(found["env"])

    def test_only_machines_with_the_feature_build_it(self, nix: Nix, consumer: Path) -> None:
        assert self.derivation(nix, consumer, "gpu")["requiredSystemFeatures"] == "cuda"
        assert "requiredSystemFeatures" not in self.derivation(nix, consumer, "bench")
        _, done = nix.build("gpu", flake=consumer, prefix="hermetic/", ok=False)
        assert "features {cuda}" in done.stderr

    def test_relaxed_it_asks_for_no_feature_and_for_no_sandbox(self, nix: Nix, consumer: Path) -> None:
        found = self.derivation(nix, consumer, "relaxed")
        assert (found["__noChroot"], "requiredSystemFeatures" in found) == ("1", False)

    def test_the_builder_looks_for_the_gpu_in_nix_sandbox(self, nix: Nix, consumer: Path) -> None:
        done = nix(
            "build",
            "#gpu",
            "--option",
            "extra-system-features",
            "cuda",
            "-L",
            flake=consumer,
            prefix="hermetic/",
            ok=False,
        )
        assert "error[environment/gpu-mismatch]" in done.stderr

    def test_and_without_it(self, machine: Machine, nix: Nix, consumer: Path) -> None:
        done = in_place(machine, nix, consumer, "relaxed", "--option", "sandbox", "relaxed", ok=False)
        assert "built without Nix's sandbox" in done.stderr
        assert "error[environment/gpu-mismatch]" in done.stderr


def in_place(machine: Machine, nix: Nix, consumer: Path, name: str, *options: str, ok: bool = True) -> Done:
    """Build it with the store at /nix: in a store elsewhere Nix always has a sandbox."""
    given = ["--override-input", "hermetic/nixpkgs", f"path:{nix.standin}", "--no-write-lock-file", "--no-link", "-L"]
    return machine("nix", "build", f"path:{consumer}#{name}", *given, *options, ok=ok)


@pytest.mark.usefixtures("exported")
class TestWithoutNixSandbox:
    """``--option sandbox false``, as the flake of docs/from/nix-flake.md builds: the builder makes itself a sandbox."""

    @pytest.mark.parametrize("name", ["sees", "hanging", "bench"])
    def test_built_again_it_is_the_same(self, name: str, machine: Machine, nix: Nix, consumer: Path) -> None:
        nix.build(name, flake=consumer, prefix="hermetic/")
        done = in_place(machine, nix, consumer, name, "--option", "sandbox", "false", "--rebuild")
        assert "built without Nix's sandbox" in done.stderr

    def test_there_is_no_network(self, machine: Machine, nix: Nix, consumer: Path) -> None:
        done = in_place(machine, nix, consumer, "network", "--option", "sandbox", "false", ok=False)
        assert "Network is unreachable" in done.stderr
