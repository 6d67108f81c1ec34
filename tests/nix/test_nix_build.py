"""Nix builds what a recipe says, once, in its own sandbox, with the other driver's trees; and what it built is used.

All that builds is in this one file, since a worker of the tests takes files whole and each would fill a Nix store anew.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import nix_consumer
import pytest
from nix_machine import Done, Machine, Nix, tree

from hermetic.digest import hash_bytes
from hermetic.testing.hub import Hub
from hermetic.testing.ports import free_ports

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
DOCUMENT = RECIPES.parent / "docs/nix.md"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The store of the other driver, one for all tests: variables for `cli`."""
    return {"HERMETIC_STORE": str(tmp_path_factory.mktemp("ours") / "store")}


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

    def test_a_server_without_an_engine_says_so(self, nix: Nix) -> None:
        done = nix("run", "#tritonserver-qwen3", ok=False)
        assert done.exit_code not in (0, 1), done.stderr
        assert "qwen3" in done.stderr

    def test_what_nobody_could_be_asked_for_fails_alone_and_says_what_to_do(self, nix: Nix) -> None:
        """The flake's checks have evaluated these packages too."""
        done = nix("build", "#mistral", "#whisper", "--keep-going", "--no-link", "-L", ok=False)
        assert "hf://mistralai/Mistral-7B-Instruct-v0.3@main could not be locked" in done.stderr
        assert "hermetic lock mistral.py, then hermetic nix export mistral.py" in done.stderr
        assert "hermetic nix export RECIPE --archives" in done.stderr

    def test_no_path_of_this_machine_is_in_a_derivation(self, nix: Nix, repository: Path) -> None:
        packages = json.loads(nix("flake", "show", "", "--json").stdout)["packages"]["x86_64-linux"]
        shown = nix("show-derivation", "-r", *(f"#{name}" for name in packages)).stdout
        assert {"tiny-engine", "qwen3-32b-engine", "hermetic"} <= set(packages)
        assert "/nix/store/" in shown
        for word in (str(repository), str(nix.root), "/usr/bin", os.path.expanduser("~")):
            assert word not in shown

    def test_in_git_or_with_other_files_it_is_the_same_derivation(self, nix: Nix, tmp_path: Path) -> None:
        """A model beside the recipes, a document, another room's module: no derivation of an engine has them."""
        attribute = "packages.x86_64-linux.tiny-engine.drvPath"
        before = nix("eval", f"#{attribute}").stdout
        copy = tmp_path / "checkout"
        shutil.copytree(nix.flake, copy, symlinks=True)
        (copy / ".gitignore").write_text(".cache\n")
        (copy / ".cache").mkdir()
        (copy / ".cache/a-store").write_text("a store")
        (copy / "model.safetensors").write_bytes(bytes(1000))
        (copy / "README.md").write_text("other words")
        (copy / "hermetic/cli/app.py").write_text("")
        git = ["git", "-C", str(copy), "-c", "user.name=test", "-c", "user.email=test@example.com"]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
            subprocess.run([*git, *words], check=True)
        assert nix("eval", f"git+file://{copy}#{attribute}").stdout == before
        assert not list(nix.root.glob("nix/store/*/.cache/a-store"))
        shutil.rmtree(copy / ".git")
        assert nix("eval", f"#{attribute}", flake=copy).stdout == before
        (copy / "hermetic/harvest/judge.py").write_text("")
        assert nix("eval", f"#{attribute}", flake=copy).stdout != before


class TestTiny:
    def test_every_stage_has_the_tree_of_the_other_driver(self, nix: Nix, cli, ours: dict[str, str]) -> None:
        recipe = nix.flake / "recipes/tiny_qwen3.py"
        result = cli("realise", recipe, env=ours)
        assert result.exit_code == 0, result.stderr
        built, done = nix.build("tiny-engine")
        assert tree(built) == tree(result.lines[0])
        for stage in ("weights", "quantised"):
            here = next(path for path in (nix.root / "nix/store").iterdir() if path.name.endswith(f"-{stage}"))
            assert tree(here) == tree(cli("path", f"{recipe}#{stage}", env=ours).lines[0])
        assert "/nix/store" not in done.stderr.partition("engine is tree")[2]

    def test_building_again_builds_and_adds_nothing(self, nix: Nix) -> None:
        nix.build("tiny-engine")
        before = nix.paths()
        _, done = nix.build("tiny-engine")
        assert (done.built, nix.paths()) == ([], before)


class TestQwen3:
    """``recipes/qwen3.py``, locked and exported with a Hub and an image that are stand-ins."""

    def test_the_graph_has_the_trees_of_the_other_driver(
        self, nix: Nix, tmp_path: Path, cli, ours: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("qwen3.py", "tiny_qwen3/calibration.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(RECIPES / name, tmp_path / name)
        chosen = ("--set", f"image={nix.image.reference}", "--set", "gpu=none")
        with Hub() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            files = {path.name: path.read_bytes() for path in (RECIPES / "tiny_qwen3/model").iterdir()}
            hub.repository("Qwen/Qwen3-32B").commit({**files, "README.md": b"---\nlicense: apache-2.0\n---\n"})
            assert cli("lock", "qwen3.py", *chosen).exit_code == 0
            result = cli("realise", "qwen3.py", *chosen, env=ours)
        assert result.exit_code == 0, result.stderr
        engine = tree(cli("path", "qwen3.py#engine", *chosen, env=ours).lines[0])
        shutil.copy(RECIPES / "qwen3.nix.json", tmp_path)  # which has the wheels of its locks, so no index is asked
        assert cli("nix", "export", "qwen3.py", *chosen).exit_code == 0
        for name in ("qwen3.py", "qwen3.lock.json", "qwen3.nix.json"):
            shutil.copy(tmp_path / name, nix.flake / "recipes" / name)
        manifest, done = nix.build("qwen3")
        assert tree(manifest) == tree(result.lines[0])
        assert f"engine is tree {engine}" in done.stderr

    def test_an_option_of_the_engine_builds_the_engine_alone(self, nix: Nix) -> None:
        nix.build("qwen3-32b-engine")
        graph = nix.flake / "recipes/qwen3.nix.json"
        found = json.loads(graph.read_text())
        found["stages"]["nvfp4_engine"]["parameters"]["options"]["max_batch_size"] = 16
        graph.write_text(json.dumps(found))
        _, done = nix.build("qwen3-32b-engine")
        assert done.built == ["nvfp4_engine"]


@pytest.fixture(scope="module")
def consumer(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flake of somebody who uses this one."""
    folder = tmp_path_factory.mktemp("consumer")
    nix_consumer.write(folder, nix.flake, RECIPES / "tiny_qwen3/model")
    return folder


def build(nix: Nix, consumer: Path, name: str, *options: str, ok: bool = True) -> tuple[Path, Done]:
    """A package of the consumer's flake."""
    return nix.build(name, *options, flake=consumer, prefix="hermetic/", ok=ok)


class TestSandbox:
    def test_a_program_sees_what_it_sees_under_the_other_driver(
        self, nix: Nix, consumer: Path, cli, ours: dict[str, str]
    ) -> None:
        built, _ = build(nix, consumer, "sees")
        result = cli("realise", "trial.py#sees", cwd=consumer, env=ours)
        assert result.exit_code == 0, result.stderr
        seen = [Path(place, "seen.json").read_text() for place in (built, result.lines[0])]
        assert json.loads(seen[0]) == json.loads(seen[1])

    def test_what_hangs_is_harvested(self, nix: Nix, consumer: Path) -> None:
        built, done = build(nix, consumer, "hanging")
        assert (os.listdir(built), (built / "engine").read_bytes()) == (["engine"], b"whole" * 1000)
        assert "hanging harvested" in done.stderr

    def test_what_a_program_leaves_running_keeps_nobody_waiting(self, nix: Nix, consumer: Path) -> None:
        """It holds the pipe of the output open; its end is ours to bring about."""
        built, _ = build(nix, consumer, "leaves")
        assert os.listdir(built) == ["done"]

    def test_what_must_not_be_fails_and_says_why(self, nix: Nix, consumer: Path) -> None:
        """All at once, since two of them wait for a time limit."""
        errors = {
            "half": "timeout/timed-out-incomplete",
            "long": "timeout/stage-timed-out",
            "names": "build/output-store-path",
            "network": "Network is unreachable",
        }
        names = [f"#{name}" for name in errors]
        options = ("--no-link", "-L", "--keep-going", "--max-jobs", str(len(errors)))
        done = nix("build", *names, *options, flake=consumer, prefix="hermetic/", ok=False)
        assert done.exit_code != 0
        for name, error in errors.items():
            assert re.search(rf"(?m)^{name}> .*{error}", done.stderr), done.stderr

    @pytest.mark.parametrize("name", ["hub", "named", "tokenizer"])
    def test_the_documented_functions_evaluate(self, name: str, nix: Nix, consumer: Path) -> None:
        """Models by the name that a lock file pins: what they fetch is fixed, and lies where Nix cannot ask here."""
        shown = nix("show-derivation", "-r", f"path:{consumer}#{name}", prefix="hermetic/").stdout
        assert '"outputHashAlgo": "sha256"' in shown

    def test_a_repository_is_told_how_to_schedule(self, nix: Nix, consumer: Path) -> None:
        told = json.loads(environment_of(nix, consumer, "repository")["spec"])["parameters"]
        assert (told["max_batch_size"], told["chunked_context"], told["kv_cache_reuse"]) == (2, False, True)
        assert told["parameters"] == {
            "batch_scheduler_policy": "max_utilization",
            "cancellation_check_period_ms": "50",
            "kv_cache_free_gpu_mem_fraction": "0.85",
        }

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("unpinned", "hf://somebody/a-model@main is not locked"),
            ("undealt", "moeTensorParallelSize times moeExpertParallelSize must be tensorParallelSize, 1"),
            ("fp8experts", "quantise in a recipe"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_is_built(
        self, name: str, why: str, nix: Nix, consumer: Path
    ) -> None:
        done = nix("show-derivation", f"path:{consumer}#{name}", prefix="hermetic/", ok=False)
        assert why in done.stderr

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
        build(nix, consumer, "server")
        before = nix.paths()
        (engine / "config.json").write_text("{ }")
        done = nix("run", "#server", flake=consumer, prefix="hermetic/", ok=False)
        assert "trust/engine-changed" in done.stderr
        (engine / "rank0.engine").touch()
        done = nix("run", "#server", flake=consumer, prefix="hermetic/", ok=False)
        assert f"error: {engine} has 1 ranks, and worldSize is 2" in done.stderr
        assert nix.paths() == before

    def test_an_engine_of_the_documented_function(self, nix: Nix, consumer: Path) -> None:
        built, done = build(nix, consumer, "bench")
        assert {"config.json", "rank0.engine", "tokenizer.json"} <= set(os.listdir(built))
        assert "--max_batch_size 4" in done.stderr
        assert "engine harvested" in done.stderr

    def test_experts_are_dealt_to_the_ranks_by_a_conversion(self, nix: Nix, consumer: Path) -> None:
        built, done = build(nix, consumer, "experts")
        assert {"config.json", "rank0.engine", "rank1.engine", "tokenizer.json"} <= set(os.listdir(built))
        assert "--moe_ep_size 2" in done.stderr
        assert "--moe_plugin float16" in done.stderr


def environment_of(nix: Nix, consumer: Path, name: str) -> dict[str, str]:
    """The variables of a package's derivation."""
    shown = nix("show-derivation", f"path:{consumer}#{name}", prefix="hermetic/").stdout
    (found,) = json.loads(shown).values()
    return dict(found["env"])


class TestGpu:
    """A stage that declares a GPU: where Nix lets it be built, and what its builder says where there is none."""

    def test_only_machines_with_the_feature_build_it(self, nix: Nix, consumer: Path) -> None:
        assert environment_of(nix, consumer, "gpu")["requiredSystemFeatures"] == "cuda"
        assert "requiredSystemFeatures" not in environment_of(nix, consumer, "bench")
        assert json.loads(environment_of(nix, consumer, "gpu")["spec"])["parameters"]["device_gib"] == 140
        _, done = build(nix, consumer, "gpu", ok=False)
        assert "features {cuda}" in done.stderr

    def test_relaxed_it_asks_for_no_feature_and_for_no_sandbox(self, nix: Nix, consumer: Path) -> None:
        found = environment_of(nix, consumer, "relaxed")
        assert (found["__noChroot"], "requiredSystemFeatures" in found) == ("1", False)

    def test_the_builder_looks_for_the_gpu_in_nix_sandbox(self, nix: Nix, consumer: Path) -> None:
        _, done = build(nix, consumer, "gpu", "--option", "extra-system-features", "cuda", ok=False)
        assert "error[environment/gpu-mismatch]" in done.stderr

    def test_and_without_it(self, machine: Machine, nix: Nix, consumer: Path) -> None:
        done = in_place(machine, nix, consumer, "relaxed", "--option", "sandbox", "relaxed", ok=False)
        assert "built without Nix's sandbox" in done.stderr
        assert "error[environment/gpu-mismatch]" in done.stderr


def in_place(machine: Machine, nix: Nix, consumer: Path, *words: str, ok: bool = True) -> Done:
    """Build packages with the store at /nix: in a store elsewhere Nix always has a sandbox."""
    given = ["--override-input", "hermetic/nixpkgs", f"path:{nix.standin}", "--no-write-lock-file", "--no-link", "-L"]
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    packages = [f"path:{consumer}#{name}" for name in words[:first]]
    return machine("nix", "build", *packages, *given, *words[first:], ok=ok)


class TestWithoutNixSandbox:
    """``--option sandbox false``, as the flake of docs/from/nix-flake.md builds: the builder makes itself a sandbox."""

    def test_built_again_it_is_the_same(self, machine: Machine, nix: Nix, consumer: Path) -> None:
        names = ("sees", "hanging", "bench")
        nix("build", *(f"#{name}" for name in names), "--no-link", flake=consumer, prefix="hermetic/")
        done = in_place(machine, nix, consumer, *names, "--option", "sandbox", "false", "--rebuild")
        assert done.stderr.count("built without Nix's sandbox") == len(names)

    def test_there_is_no_network(self, machine: Machine, nix: Nix, consumer: Path) -> None:
        done = in_place(machine, nix, consumer, "network", "--option", "sandbox", "false", ok=False)
        assert "Network is unreachable" in done.stderr


def commands(heading: str) -> list[str]:
    """The lines of the shell blocks below a heading of docs/nix.md, without comments."""
    section = DOCUMENT.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def post(url: str, body: str) -> Any:
    with urllib.request.urlopen(url, body.encode()) as answer:
        return json.load(answer)


class TestQuickStart:
    """The quick start as docs/nix.md has it, with the tiny engine in the large one's place."""

    def test_its_commands_one_after_the_other(self, machine: Machine) -> None:
        lines = [line.replace("qwen3-32b-engine", "tiny-engine") for line in commands("Quick start")]
        names = ("TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT", "OPENAI_PORT")
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))  # on one's own machine: none of these
        built, folder, linked, triton, openai, curl = lines
        machine("sh", "-c", f"{built} && {folder} && {linked}")
        link = machine.home / ".cache/trtllm-engines/qwen3"
        assert re.fullmatch(r"/nix/store/\w{32}-engine", os.readlink(link))
        with machine.started("sh", "-c", f"exec {triton}", **ports) as said:
            assert said == f"http://127.0.0.1:{ports['TRITON_HTTP_PORT']}\n"
            asked = json.dumps({"text_input": "What is a store path?", "max_tokens": 8})
            assert post(f"{said.strip()}/v2/models/ensemble/generate", asked)["text_output"]
            with machine.started("sh", "-c", f"exec {openai}", **ports):
                command, url, data, body = shlex.split(curl)
                assert (command, data) == ("curl", "-d")
                answer = post(url.replace(":9000/", f":{ports['OPENAI_PORT']}/"), body)
                assert answer["choices"][0]["message"]["content"].startswith("Hello! I am the tiny model")


def hermetic(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "hermetic", *words)


class TestAcross:
    @pytest.fixture
    def engine(self, machine: Machine) -> str:
        """The tiny engine's path in Nix's store."""
        built = machine("nix", "build", ".#tiny-engine", "--no-link", "--json")
        return str(json.loads(built.stdout)[0]["outputs"]["out"])

    def test_an_engine_of_nix_is_adopted_with_the_tree_it_has(self, machine: Machine, engine: str) -> None:
        done = machine(*hermetic("import", engine, "--json"))
        made = json.loads(done.stdout.splitlines()[0])
        assert made["tree"] == tree(f"{machine.root}{engine}")
        assert made["path"].endswith("-engine")

    def test_a_link_shows_it_where_it_is(self, machine: Machine, engine: str) -> None:
        machine(*hermetic("link", "shown", engine))
        assert os.path.realpath(machine.home / ".cache/trtllm-engines/shown") == engine

    def test_nix_vouches_for_it_and_against_it(self, machine: Machine, engine: str) -> None:
        """For what Nix does not know nobody vouches; against what was changed since, Nix bears witness."""
        folder = Path(f"{machine.root}{engine}")
        other = folder.with_name("0" * 32 + "-engine")
        shutil.copytree(folder, other)
        done = machine(*hermetic("serve", "triton", f"/nix/store/{other.name}"), ok=False)
        assert "trust/no-manifest" in done.stderr
        config = folder / "config.json"
        before = config.read_bytes()
        try:
            os.chmod(config, 0o644)
            config.write_bytes(before + b"\n")
            done = machine(*hermetic("serve", "triton", engine), ok=False)
            assert (done.exit_code, "trust/engine-changed" in done.stderr) == (5, True)
        finally:
            config.write_bytes(before)
            os.chmod(config, 0o444)
            os.utime(config, (1, 1))

    def test_copied_without_compression_it_is_the_same(self, machine: Machine, engine: str, tmp_path: Path) -> None:
        cache = f"file://{tmp_path}/cache?compression=none"
        machine("nix", "copy", "--to", cache, engine)
        assert list((tmp_path / "cache/nar").glob("*.nar"))
        machine("nix", "copy", "--from", cache, "--to", tmp_path / "there", "--no-check-sigs", engine)
        assert tree(f"{tmp_path}/there{engine}") == tree(f"{machine.root}{engine}")
        subprocess.run(["chmod", "-R", "u+w", tmp_path / "there"], check=True)
