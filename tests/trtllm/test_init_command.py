"""``hermetic init``: every recipe that it writes is sound, and what cannot run is refused with what can."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import checkpoints
import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.llm.lint import RECIPES
from hermetic.llm.starter.code import Call, Let, Text, module
from hermetic.llm.starter.kinds import recipe
from hermetic.llm.starter.request import KINDS, QUANTISATIONS, accelerator, family_of, request
from hermetic.recipe import load
from hermetic.recipe.pins import locking
from hermetic.testing.hub import Hub

MODELS = {
    "llama": "meta-llama/Llama-3.1-8B-Instruct",
    "mistral": "mistralai/Mistral-7B-Instruct-v0.3",
    "qwen2": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3": "Qwen/Qwen3-8B",
    "deepseek": "deepseek-ai/DeepSeek-R1",
    "whisper": "openai/whisper-large-v3",
}
GPUS = ("a100", "l4:2", "h100", "h200:8", "b200", "NVIDIA L4,22,8.9", "t4", "cpu")


@pytest.fixture
def venv(tmp_path: Path) -> str:
    place = tmp_path / "venv"
    (place / "lib" / "python3.11" / "site-packages" / "torch").mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "bin" / "python3").symlink_to(sys.executable)
    (place / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    return str(place)


def refused(**asked: str) -> HermeticError:
    with pytest.raises(HermeticError) as caught:
        request(**({"model": MODELS["qwen3"], "kind": "tensorrt-llm", "gpu": "h100"} | asked))
    assert caught.value.domain is Domain.USAGE
    assert caught.value.hint
    return caught.value


class TestEveryRecipe:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_sound_or_refused_before_it_is_written(self, kind: str, tmp_path: Path, venv: str) -> None:
        """All families, GPUs and quantisations: no other error than one of usage, and no recipe with a mistake."""
        written, domains = 0, set[Domain]()
        for family, gpu, quantisation in product(MODELS, GPUS, QUANTISATIONS[kind]):
            try:
                asked = request(MODELS[family], kind=kind, gpu=gpu, quantisation=quantisation, torch=venv)
            except HermeticError as error:
                domains.add(error.domain)
                continue
            assert family in KINDS[kind]
            file = tmp_path / f"{kind}_{family}_{written}.py"
            file.write_text(recipe(asked))
            with locking():
                found = list(RECIPES.run(load(str(file))))
            assert {one.code for one in found} == ({"host-environment"} if kind == "aoti" else set()), file.read_text()
            written += 1
        assert domains <= {Domain.USAGE}
        assert written >= {"tensorrt-llm": 100, "tensorrt-llm-pytorch": 60, "openvino": 9, "aoti": 15}[kind]
        for words in (("format", "--check"), ("check", "--ignore", "INP001")):
            command = [sys.executable, "-m", "ruff", *words, "--config", "line-length=120", "--isolated", str(tmp_path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

    def test_a_model_of_this_machine_says_its_family_and_context_itself(self, tmp_path: Path) -> None:
        (tmp_path / 'a "quoted" name').mkdir()
        folder = checkpoints.write(tmp_path / 'a "quoted" name' / "mine", checkpoints.config("llama"))
        asked = request(str(folder), kind="openvino")
        assert (asked.family, asked.name, asked.longest) == ("llama", "mine", 512)
        (tmp_path / "mine.py").write_text(recipe(asked))
        assert next(iter(load(str(tmp_path / "mine.py")).names.values())) == "weights"

    def test_nothing_that_is_given_becomes_code(self) -> None:
        nasty = '"""\nimport os\n\\'
        namespace: dict[str, object] = {}
        text = module(Text((nasty,)), [Let("kept", {"a": nasty, "b": "'", "c": "'\""}), Let("made", Call("dict"))])
        exec(compile(text, "recipe", "exec"), namespace)
        assert namespace["kept"] == {"a": nasty, "b": "'", "c": "'\""}
        assert "os" not in namespace


class TestRefusals:
    @pytest.mark.parametrize(
        ("asked", "reason", "said"),
        [
            ({"gpu": "h9"}, "gpu-unknown", "'h9'"),
            ({"gpu": "h100:no"}, "gpu-unknown", "no number of GPUs"),
            ({"gpu": "h100:"}, "gpu-unknown", "no number of GPUs"),
            ({"kind": "tensorrtllm"}, "kind-unknown", "'tensorrtllm'"),
            ({"gpu": ""}, "gpu-missing", "one GPU product"),
            ({"gpu": "cpu"}, "kind-and-gpu", "needs an NVIDIA GPU"),
            ({"gpu": "t4"}, "kind-and-gpu", "sm 7.5"),
            ({"kind": "openvino"}, "kind-and-gpu", "runs on processors"),
            ({"quantisation": "nvfp4"}, "format-for-gpu", "nvfp4"),
            ({"quantisation": "int3"}, "quantisation-for-kind", "'int3'"),
            ({"quantisation": "fp8", "kind": "aoti"}, "quantisation-for-kind", "'fp8'"),
            ({"quantisation": "int8_sq", "kind": "tensorrt-llm-pytorch"}, "quantisation-for-kind", "int8_sq"),
            ({"model": MODELS["deepseek"]}, "family-for-kind", "from deepseek"),
            ({"model": MODELS["whisper"]}, "family-for-kind", "from whisper"),
            ({"model": "Qwen/Qwen3-30B-A3B", "kind": "aoti"}, "family-for-kind", "mixture of experts"),
            (
                {"model": MODELS["deepseek"], "kind": "tensorrt-llm-pytorch", "quantisation": "fp8"},
                "family-for-kind",
                "",
            ),
            ({"model": "acme/secret"}, "family-unknown", "acme/secret"),
            ({"family": "bert"}, "family-unknown", "'bert'"),
            ({"model": "no such folder"}, "bad-model", "no such folder"),
            ({"name": "../escape"}, "bad-name", "../escape"),
            ({"config": "/no/such/config.json"}, "bad-config", "/no/such/config.json"),
            ({"kind": "aoti"}, "torch-missing", "virtual environment"),
            ({"kind": "aoti", "gpu": "h100:2"}, "kind-and-gpu", "for one GPU, not for 2"),
            ({"model": str(checkpoints.TINY), "gpu": "h100:3"}, "ranks-for-model", "attention heads"),
        ],
    )
    def test_what_cannot_be_is_said_with_what_can(self, asked: dict[str, str], reason: str, said: str) -> None:
        error = refused(**asked)
        assert error.reason == reason
        assert said in error.message

    @pytest.mark.parametrize(
        ("asked", "meant"),
        [({"gpu": "h1000"}, "h100"), ({"gpu": "RTX_6000"}, "rtx-pro-6000"), ({"kind": "onnx-genai"}, "")],
    )
    def test_a_slip_is_told_what_was_meant(self, asked: dict[str, str], meant: str) -> None:
        hint = refused(**asked).hint or ""
        assert hint.startswith(f"did you mean {meant}?" if meant else "--kind with one of")

    def test_a_family_comes_from_whoever_knows_best(self) -> None:
        assert family_of("deepseek-ai/DeepSeek-R1-Distill-Llama-8B") == "llama"
        assert family_of("acme/mystery", settings={"architectures": ["Qwen3MoeForCausalLM"]}) == "qwen3"
        assert family_of("acme/qwen3", given="llama", settings={"architectures": ["Qwen3ForCausalLM"]}) == "llama"

    def test_a_gpu_that_is_not_known_can_be_described(self) -> None:
        found = accelerator("NVIDIA L4,22,8.9:4")
        assert (found.product, found.memory_gib, found.sm, found.count) == ("NVIDIA L4", 22, "8.9", 4)
        assert accelerator("H100").product == "NVIDIA H100 80GB HBM3"
        assert (accelerator("a100").product, accelerator("a100").sm) == ("", "8.0")


class TestCommand:
    def test_it_writes_once_and_says_what_is_next(self, cli, tmp_path: Path) -> None:
        first = cli("init", MODELS["qwen3"], "--gpu", "h100", "--kind", "tensorrt-llm", "--name", "mine")
        assert (first.exit_code, first.lines) == (0, ["mine.py"])
        assert "hermetic lock mine.py" in first.stderr
        kept = (tmp_path / "mine.py").read_text()
        again = cli("init", MODELS["llama"], "--gpu", "h100", "--kind", "tensorrt-llm", "--name", "mine")
        assert again.exit_code == 2
        assert "[usage/file-exists]" in again.stderr
        assert (tmp_path / "mine.py").read_text() == kept
        assert cli("lint", "mine.py").exit_code == 0
        planned = cli("plan", "mine.py")
        assert planned.exit_code == 0
        assert [line.split()[:2] for line in planned.lines] == [
            ["unlocked", stage] for stage in ("weights", "engine", "smoke", "manifest", "repository")
        ]
        assert "5 stages, no keys: 2 pins not locked: hermetic lock mine.py" in planned.stderr
        (found, *_) = (json.loads(line) for line in cli("plan", "mine.py#weights", "--json").lines)
        assert found == {"stage": "weights", "action": "unlocked", "pins": sorted(found["pins"])}
        assert len(found["pins"]) == 2
        for refused in (("plan", "--commands"), ("realise",)):  # without digests there is nothing to run
            assert "[recipe/not-locked]" in cli(*refused, "mine.py").stderr

    @pytest.mark.parametrize(
        ("model", "words", "said"),
        [
            ("nvidia/Qwen3-32B-NVFP4", "--kind tensorrt-llm --gpu rtx-pro-6000", ""),
            ("nvidia/Qwen3-32B-NVFP4", "--kind tensorrt-llm-pytorch --gpu b200", ""),
            ("nvidia/Qwen3-32B-NVFP4", "--kind tensorrt-llm --gpu h100", "format-for-gpu"),
            ("nvidia/Qwen3-32B-NVFP4", "--kind tensorrt-llm --gpu b200:2", "kind-and-gpu"),
            (
                "nvidia/Qwen3-32B-NVFP4",
                "--kind tensorrt-llm-pytorch --gpu b200 --quantisation fp8",
                "already-quantised",
            ),
            ("nvidia/Qwen3-32B-NVFP4", "--kind openvino", "already-quantised"),
            ("Qwen/Qwen3-32B-FP8", "--kind tensorrt-llm --gpu h100", "already-quantised"),
            ("Qwen/Qwen3-32B-FP8", "--kind tensorrt-llm-pytorch --gpu h100", ""),
            ("Qwen/Qwen3-32B-GPTQ-Int4", "--kind tensorrt-llm --gpu h100", "already-quantised"),
        ],
    )
    def test_a_model_that_its_maker_has_quantised_is_taken_as_it_is(
        self, cli, tmp_path: Path, model: str, words: str, said: str
    ) -> None:
        done = cli("init", model, *words.split(), "--name", "mine")
        assert (done.exit_code, f"[usage/{said}]" in done.stderr) == ((2, True) if said else (0, False))
        if not said:
            text = (tmp_path / "mine.py").read_text()
            assert "convert(" not in text
            assert "quantise(" not in text
            assert ('builder="trtllm-bench"' in text) == ("pytorch" not in words)
            assert cli("lint", "mine.py").exit_code == 0

    def test_what_cannot_fit_is_not_written(self, cli, tmp_path: Path) -> None:
        whole = json.loads((Path(__file__).parents[1] / "llm" / "capacity_configs.json").read_text())["qwen3-32b"]
        (tmp_path / "config.json").write_text(json.dumps(whole))
        asked = ("init", "Qwen/Qwen3-32B", "--config", "config.json", "--kind", "tensorrt-llm", "--dry-run", "--gpu")
        done = cli(*asked, "l4")
        assert (done.exit_code, done.lines) == (2, [])
        assert "[usage/does-not-fit]" in done.stderr
        assert 'Gpu(sm="8.9", portable="sm", at_least_gib=22, count=4)' in cli(*asked, "l4:4").stdout
        assert cli(*asked, "h100").exit_code == 0

    def test_a_lock_file_of_another_recipe_is_not_taken_over(self, cli, tmp_path: Path) -> None:
        (tmp_path / "qwen3_8b.lock.json").write_text("{}")
        result = cli("init", MODELS["qwen3"], "--kind", "openvino")
        assert result.exit_code == 2
        assert not (tmp_path / "qwen3_8b.py").exists()

    def test_a_dry_run_writes_nothing(self, cli, tmp_path: Path) -> None:
        words = ("init", MODELS["qwen3"], "--kind", "openvino", "--quantisation", "int8", "--dry-run")
        text = cli(*words).stdout
        found = json.loads(cli(*words, "--json").stdout)
        assert found["text"] == text
        assert (found["written"], found["file"], found["family"]) == (False, "qwen3_8b.py", "qwen3")
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".py"] == []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        files = {path.name: path for path in checkpoints.TINY.iterdir()}
        served.repository(MODELS["qwen3"], licence="apache-2.0").commit(files)
        yield served


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestToTheEnd:
    def test_openvino(self, cli, hub: Hub, tmp_path: Path, shared: dict[str, str]) -> None:
        assert cli("init", MODELS["qwen3"], "--kind", "openvino", "--name", "mine").exit_code == 0
        for verb in ("lock", "plan", "realise"):
            done = cli(verb, "mine.py", env=shared)
            assert done.exit_code == 0, done.stderr
        assert (Path(done.lines[0]) / "openvino_model.xml").is_file()

    def test_tensorrt_llm(self, cli, hub: Hub, standin, shared: dict[str, str]) -> None:
        news = "".join(json.dumps({"article": f"Of news there are {number}."}) + "\n" for number in range(600))
        data = hub.repository("abisee/cnn_dailymail", kind="dataset", licence="apache-2.0")
        data.commit({"3.0.0/validation-00000-of-00001.jsonl": news.encode(), "3.0.0/train.jsonl": b""})
        words = ("--kind", "tensorrt-llm", "--gpu", "h100:2", "--quantisation", "fp8", "--name", "mine")
        assert cli("init", MODELS["qwen3"], *words).exit_code == 0
        for verb in ("lock", "plan", "realise"):
            done = cli(verb, "mine.py", "--set", f"image={standin.reference}", env=shared)
            assert done.exit_code == 0, done.stderr
        assert json.loads((Path(done.lines[0]) / "deployment.json").read_text())["world"] == 2
