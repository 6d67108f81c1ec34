"""The recipes of Llama, Mistral, DeepSeek, Whisper and adapters: checked as they are, built to the end with stand-ins.

In front of the real image and Hub nothing changes but the lock file; here the image's name is given with ``--set``.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from whisper_kit import vocabulary, wav

from hermetic.recipe.lockfile import LockFile
from hermetic.testing.hub import Hub
from hermetic.testing.trtllm.image import build_image

RECIPES = Path(__file__).parents[2] / "recipes"
DIGEST = "sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
TOKEN = "hf_of_this_test"
#: What each recipe comes to, and whether all of its pins could be cited.
TARGETS = {
    "llama": ("repository", True),
    "mistral": ("repository", False),
    "deepseek": ("repository", False),
    "whisper": ("repository", True),
    "lora_llama": ("repository", False),
}


class TestAsTheyAre:
    @pytest.mark.parametrize("name", TARGETS)
    def test_the_checks_find_no_error(self, name: str, cli) -> None:
        result = cli("lint", RECIPES / f"{name}.py", "--json")
        assert result.exit_code == 0
        found = {json.loads(line)["code"] for line in result.lines}
        assert found == (set() if TARGETS[name][1] else {"unresolved"})

    @pytest.mark.parametrize("name", [name for name, (_, cited) in TARGETS.items() if cited])
    def test_what_is_pinned_is_planned_offline(self, name: str, cli) -> None:
        result = cli("plan", RECIPES / f"{name}.py", "--commands")
        assert result.exit_code == 0, result.stderr
        assert f"# {TARGETS[name][0]}: " in result.stdout
        assert DIGEST in result.stdout

    @pytest.mark.parametrize("name", [name for name, (_, cited) in TARGETS.items() if not cited])
    def test_what_nobody_has_published_stays_unresolved(self, name: str, cli) -> None:
        result = cli("plan", RECIPES / f"{name}.py")
        assert result.exit_code == 3
        assert "[recipe/unresolved]" in result.stderr
        assert f"hermetic lock {RECIPES / name}.py" in result.stderr

    def test_another_batch_size_is_another_engine_of_the_same_weights(self, cli) -> None:
        def keys(*words: str) -> dict[str, str]:
            lines = cli("plan", RECIPES / "llama.py", "--json", *words).lines
            return {step["stage"]: step["key"] for step in map(json.loads, lines)}

        before, after = keys(), keys("--set", "max_batch_size=8")
        changed = [stage for stage, key in after.items() if before[stage] != key]
        assert changed == ["engine", "smoke", "manifest", "repository"]

    def test_what_is_wrong_with_whisper_is_said(self, cli, tmp_path: Path) -> None:
        shutil.copy(RECIPES / "whisper.lock.json", tmp_path / "recipe.lock.json")
        wrong = "untested = Manifest(engine=engine)\n"
        wrong += "wide = triton_repository(engine, manifest=manifest, max_batch_size=99, bls=True)\n"
        (tmp_path / "recipe.py").write_text((RECIPES / "whisper.py").read_text() + wrong)
        result = cli("lint", "recipe.py", "--json")
        found = {(one["where"], one["code"]) for one in map(json.loads, result.lines)}
        assert found == {
            ("untested: smoke", "published-untested"),
            ("wide: max_batch_size", "repository-over-engine"),
            ("wide: bls", "repository-setting"),
        }

    def test_the_cited_pins(self) -> None:
        llama = LockFile.read(str(RECIPES / "llama.lock.json")).fixed[f"hf://{LLAMA}@main"]
        assert (llama.commit, llama.licence) == ("0e9e39f249a16976918f6564b8830bc894c89659", "llama3.1")
        weights = [file.size for name, file in llama.files.items() if name.endswith(".safetensors")]
        assert sum(weights) == 2 * 8_030_261_248 + 33_880  # parameters in BF16, and four headers
        whisper = LockFile.read(str(RECIPES / "whisper.lock.json")).fixed
        (weights,) = (entry for entry in whisper.items() if "large-v3.pt" in entry[1].files)
        assert weights[1].files["large-v3.pt"].sha256 in weights[0]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        served.tokens[TOKEN] = "somebody"
        yield served


def random_model(folder: Path, architecture: str = "LlamaForCausalLM") -> Path:
    settings = checkpoints.config("llama", architectures=[architecture], vocab_size=2048, num_attention_heads=4)
    return checkpoints.write(folder, settings, shards=2)


def random_llama(hub: Hub, folder: Path) -> Path:
    model = random_model(folder)
    repository = hub.repository(LLAMA, gated=True, allowed={TOKEN}, licence="llama3.1")
    files = {path.name: path for path in model.iterdir()}
    repository.commit({**files, "original/params.json": b"{}", "LICENSE": b"Meta's"})
    return model


Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, cli, standin, shared) -> Build:
    """``build("llama", "stage", "name=value")``: locked, linted, realised; the result's folder."""

    def run(name: str, stage: str = "", *sets: str) -> Path:
        for file in (f"{name}.py", "tiny_qwen3/calibration.txt"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            shutil.copy(RECIPES / file, tmp_path / file)
        words = [word for one in (f"image={standin.reference}", *sets) for word in ("--set", one)]
        locked = cli("lock", f"{name}.py", *words, env=shared)
        assert locked.exit_code == 0, locked.stderr
        made = cli("realise", f"{name}.py{stage and '#'}{stage}", *words, env=shared)
        assert made.exit_code == 0, made.stderr
        return Path(made.lines[0])

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestToTheEnd:
    def test_llama_is_quantised_and_split_over_two_ranks(self, hub: Hub, build: Build, tmp_path: Path) -> None:
        random_llama(hub, tmp_path / "model")
        deployment = read(build("llama") / "deployment.json")
        assert (deployment["kind"], deployment["quantisation"], deployment["world"]) == ("tensorrt-llm", "FP8", 2)
        assert deployment["limits"]["max_batch_size"] == 64
        assert {"rank0.engine", "rank1.engine", "tokenizer.json"} <= set(deployment["engine"]["files"])

    def test_mistral_is_converted_by_llama_s_script(self, hub: Hub, build: Build, tmp_path: Path) -> None:
        model = random_model(tmp_path / "model", "MistralForCausalLM")
        files = {path.name: path for path in model.iterdir()}
        twice = {"consolidated.safetensors": b"the same again", "params.json": b"{}"}
        hub.repository("mistralai/Mistral-7B-Instruct-v0.3", licence="apache-2.0").commit(files | twice)
        deployment = read(build("mistral") / "deployment.json")
        assert (deployment["quantisation"], deployment["world"]) == ("W8A16", 1)
        assert not hub.bodies("consolidated")

    def test_deepseek_is_loaded_as_it_is(self, hub: Hub, build: Build, tmp_path: Path) -> None:
        model = tmp_path / "model"
        checkpoints.write(model, checkpoints.config("llama", vocab_size=2048))
        settings = {
            "architectures": ["DeepseekV3ForCausalLM"],
            "num_attention_heads": 8,
            "vocab_size": 2048,
            "max_position_embeddings": 163840,
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        }
        (model / "config.json").write_text(json.dumps(settings))
        block = {"w.weight": ("F8_E4M3", (128, 128), bytes(128 * 128)), "w.weight_scale_inv": ("F32", (1, 1), bytes(4))}
        checkpoints.write_safetensors(model / "model.safetensors", block)
        files = {path.name: path for path in model.iterdir()}
        hub.repository("deepseek-ai/DeepSeek-R1", licence="mit").commit(files | {"modeling_deepseek.py": b"code"})
        deployment = read(build("deepseek") / "deployment.json")
        assert (deployment["kind"], deployment["world"]) == ("tensorrt-llm-pytorch", 8)
        assert deployment["limits"] == {"max_seq_len": 16384}

    def test_whisper_hears_and_is_asked(self, hub: Hub, build: Build, cli, shared, tmp_path: Path) -> None:
        sound = wav(tmp_path / "jfk.wav", 2)
        files = {"large-v3.pt": bytes(range(256)) * 2000, "multilingual.tiktoken": vocabulary(), "jfk.wav": sound}
        hub.repository("openai/whisper").commit(files)
        place = f"{hub.endpoint}/openai/whisper/resolve/main"
        image = build_image(tmp_path / "image", variables={"STANDIN_PAUSE": "0"}, installed=["numpy"]).reference
        chosen = (
            *(f"{name}={place}/{file}" for name, file in zip(("weights", "vocabulary", "speech"), files, strict=True)),
            "transcript=12345678: an answer of the stand-in",
            f"image={image}",
        )
        deployment = read(build("whisper", "", *chosen) / "deployment.json")
        assert (deployment["models"], deployment["quantisation"]) == (["whisper_bls", "tensorrt_llm"], "W8A16")
        assert set(deployment["tokenizer"]["files"]) == {"multilingual.tiktoken"}
        words = [word for one in chosen for word in ("--set", one)]
        manifest = read(Path(cli("path", "whisper.py#manifest", *words, env=shared).lines[0]) / "manifest.json")
        assert manifest["files"] == deployment["engine"]["files"]
        decoder, encoder = manifest, manifest["encoder"]
        assert (decoder["model"]["architecture"], encoder["model"]["architecture"]) == (
            "DecoderModel",
            "WhisperEncoder",
        )
        assert decoder["quantisation"] == encoder["quantisation"] == {"quant_algo": "W8A16"}
        assert decoder["build"]["effective"]["max_beam_width"] == 4
        assert decoder["files"]["decoder/rank0.engine"] != decoder["files"]["encoder/rank0.engine"]
        assert manifest["smoke"]["golden"] == {"word_error_rate": "0.14", "allowed": "0.2"}
        sound.chmod(0o600)
        asked = cli("run", "whisper.py#engine", sound, *words, env=shared)
        assert (asked.exit_code, asked.stdout.strip()) == (0, manifest["smoke"]["text"]), asked.stderr
        assert cli("run", "whisper.py#engine", sound, "--system", "Be brief", *words, env=shared).exit_code == 2
        nothing = cli("run", "whisper.py#engine", "Who are you?", *words, env=shared)
        assert (nothing.exit_code, "is asked with a WAV file" in nothing.stderr) == (2, True)

    @pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="models-cpu.txt is for CPython 3.11")
    def test_an_adapter_is_merged_or_laid_out(self, hub: Hub, build: Build, tmp_path: Path) -> None:
        import by_hand  # noqa: F401  # makes the programs importable
        import models_kit

        if not models_kit.torch_is_offered():
            pytest.skip("needs an index or folder that offers the CPU build of torch (UV_INDEX, PIP_FIND_LINKS)")
        model = random_llama(hub, tmp_path / "model")
        adapter = models_kit.write_adapter(tmp_path / "adapter", model)
        files = {path.name: path for path in adapter.iterdir()}
        hub.repository("nvidia/llama-3.1-nemoguard-8b-topic-control", licence="other").commit(files)
        chosen = ("accept_adapter=other", "merge_memory_mb=4096")
        deployment = read(build("lora_llama", "", *chosen) / "deployment.json")
        assert deployment["quantisation"] == "FP8"
        assert (build("lora_llama", "tuned", *chosen) / "topic-control" / "adapter_config.json").is_file()
        unmerged = read(build("lora_llama", "lora_repository", *chosen) / "deployment.json")
        assert unmerged["quantisation"] == "none"
