"""Engines against the memory of their GPU, from sizes alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.checkpoint import dimensions
from hermetic.llm import memory
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.tensorrt_llm import Engine, Quantise
from hermetic.recipe import FixedOutput, Gpu, Host, Source, Stage
from hermetic.recipe.lockfile import FixedEntry, LockedFile

CONFIGS = json.loads((Path(__file__).parents[1] / "llm" / "capacity_configs.json").read_text())
ENVIRONMENT = Host(paths=("/bin/sh",))
CARD = Gpu("NVIDIA GeForce RTX 5090", memory_gib=32, sm="12.0")
SMALL = Gpu("NVIDIA L4", memory_gib=22, sm="8.9")
URI = "hf://Qwen/Qwen3-32B@main"


def quantised(snapshot: Source, weights: str = "int4_wo", **fields: object) -> Quantise:
    return Quantise(environment=ENVIRONMENT, release="1.2.1", snapshot=snapshot, format=weights, **fields)


def engine(checkpoint: Stage | Source, gpu: Gpu, **options: int) -> Engine:
    return Engine(environment=ENVIRONMENT, release="1.2.1", checkpoint=checkpoint, gpu=gpu, options=options)


def codes(stage: Engine) -> list[str]:
    return [finding.code for finding in memory.findings(stage)]


@pytest.fixture
def model(tmp_path: Path) -> Source:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["qwen3-32b"]))
    return Source(tmp_path)


@pytest.fixture
def fetched() -> FixedOutput:
    """As the lock file of Qwen3-32B has it: 65.5 GB of weights."""
    files = {"model-1.safetensors": LockedFile(size=65_524_246_528), "README.md": LockedFile(size=10)}
    entry = FixedEntry(files=files, commit="0" * 40, source="https://hub.example.com/Qwen/Qwen3-32B")
    return FixedOutput(URI, entry=entry)


def with_config(fetched: FixedOutput, config: dict[str, object]) -> FixedOutput:
    """The same as a lock file has it that knows the model's dimensions."""
    assert fetched.entry is not None
    kept = dimensions(json.dumps(config).encode())
    return FixedOutput(URI, entry=fetched.entry.model_copy(update={"config": kept}))


class TestFromConfig:
    def test_the_guide_s_model_fits_its_card(self, model: Source) -> None:
        assert codes(engine(quantised(model), CARD, max_batch_size=4, max_seq_len=5120)) == []

    def test_little_is_left_of_a_smaller_one(self, model: Source) -> None:
        assert codes(engine(quantised(model), SMALL, max_batch_size=1, max_seq_len=1024)) == ["little-cache"]

    def test_a_batch_that_will_wait(self, model: Source) -> None:
        assert codes(engine(quantised(model), CARD, max_batch_size=8, max_seq_len=16384)) == ["batch-over-cache"]

    def test_what_can_not_fit_is_an_error_of_the_recipe(self, model: Source) -> None:
        with pytest.raises(HermeticError, match=r"weights take at least .* of the 32.0 GiB") as caught:
            engine(model, CARD)
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "does-not-fit")
        assert "more GPUs" in (caught.value.hint or "")

    def test_four_gpus_share_it(self, model: Source) -> None:
        assert codes(engine(quantised(model, "int8_wo", tp=4), SMALL, max_batch_size=1, max_seq_len=1024)) == []

    def test_a_builder_s_memory(self, model: Source) -> None:
        given = {"environment": ENVIRONMENT, "release": "1.2.1", "checkpoint": quantised(model), "gpu": CARD}
        stage = Engine(**given, memory_mb=65536, options={"max_batch_size": 1, "max_seq_len": 1024})
        assert codes(stage) == ["host-memory"]

    def test_without_a_gpu_nothing_is_said(self, model: Source) -> None:
        assert memory.need(Engine(environment=ENVIRONMENT, release="1.2.1", checkpoint=model)) is None

    def test_any_gpu_of_a_compute_capability_has_no_memory_that_is_known(self, model: Source) -> None:
        assert memory.need(engine(model, Gpu(sm="9.0", portable="sm"))) is None

    def test_unless_the_recipe_says_what_it_has_at_least(self, model: Source) -> None:
        with pytest.raises(HermeticError, match=r"weights take at least .* of the 22.0 GiB"):
            engine(model, Gpu(sm="8.9", portable="sm", at_least_gib=22))


class TestForTheLlmApi:
    """A checkpoint that TensorRT-LLM loads itself takes the same memory where it is run."""

    def model(self, checkpoint: Source, gpu: Gpu | None = CARD, tp: int = 1, **options: object) -> PyTorchModel:
        return PyTorchModel(checkpoint=checkpoint, release="1.2.1", tp=tp, runtime_gpu=gpu, options=options)

    def test_what_can_not_fit_is_an_error_of_the_recipe(self, model: Source) -> None:
        with pytest.raises(HermeticError, match="weights take at least") as caught:
            self.model(model)
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "does-not-fit")
        assert self.model(model, None).findings() == []

    def test_ranks_and_the_cache_s_format_count(self, model: Source) -> None:
        four = self.model(model, tp=4, max_batch_size=8, max_seq_len=32768)
        assert [one.code for one in four.findings()] == ["batch-over-cache"]
        half = self.model(model, tp=4, max_batch_size=8, max_seq_len=32768, kv_cache_config={"dtype": "fp8"})
        before, after = memory.need(four), memory.need(half)
        assert before is not None
        assert after is not None
        assert after.cache * 2 == before.cache

    def test_its_size_is_known_before_it_was_built(self, fetched: FixedOutput) -> None:
        assert self.model(fetched, None).expected_bytes() == 65_524_246_528


class TestFromTheLockFile:
    def test_weights_alone(self, fetched: FixedOutput) -> None:
        found = memory.need(engine(quantised(fetched), CARD))
        assert found is not None
        assert (found.weights, found.cache) == (65_524_246_528 // 4, 0)

    def test_sixteen_bits_do_not_fit(self, fetched: FixedOutput) -> None:
        with pytest.raises(HermeticError, match=r"weights take at least 61\.0 GiB"):
            engine(fetched, CARD)
        assert codes(engine(fetched, Gpu("NVIDIA H200"))) == []

    def test_with_the_dimensions_as_if_it_lay_beside_the_recipe(self, fetched: FixedOutput, model: Source) -> None:
        known = with_config(fetched, CONFIGS["qwen3-32b"])
        options = {"max_batch_size": 8, "max_seq_len": 16384}
        assert codes(engine(quantised(known), CARD, **options)) == ["batch-over-cache"]
        one, other = (memory.need(engine(quantised(item), CARD, **options)) for item in (known, model))
        assert one == other
        with pytest.raises(HermeticError, match="weights take at least"):
            engine(known, CARD, **options)

    def test_a_request_that_is_longer_than_the_cache(self, fetched: FixedOutput) -> None:
        known = with_config(fetched, CONFIGS["qwen3-32b"])
        stage = engine(quantised(known), CARD, max_batch_size=1, max_seq_len=131072)
        assert codes(stage) == ["request-over-cache"]

    @pytest.mark.parametrize("name", ["config", "file"])
    def test_of_a_quantised_one_the_files_say_what_it_weighs(self, fetched: FixedOutput, name: str) -> None:
        known = with_config(fetched, CONFIGS["qwen3-32b"] | ({"quantization_config": {}} if name == "config" else {}))
        if name == "file":
            assert known.entry is not None
            files = known.entry.files | {"hf_quant_config.json": LockedFile(size=10)}
            known = FixedOutput(URI, entry=known.entry.model_copy(update={"files": files}))
        found = memory.need(engine(known, Gpu("NVIDIA H200")))
        assert found is not None
        assert (found.weights, found.cache) == (65_524_246_528, 0)

    def test_neither_does_the_builder_shrink_it_again(self, fetched: FixedOutput) -> None:
        assert fetched.entry is not None
        files = fetched.entry.files | {"hf_quant_config.json": LockedFile(size=10)}
        quantised_already = FixedOutput(URI, entry=fetched.entry.model_copy(update={"files": files}))
        options = {"quantization": "NVFP4", "max_batch_size": 8, "max_num_tokens": 8192, "max_seq_len": 8192}
        given = {"builder": "trtllm-bench", "model": "nvidia/x", "checkpoint": quantised_already, "options": options}
        found = memory.need(Engine(environment=ENVIRONMENT, release="1.2.1", gpu=Gpu("NVIDIA H200"), **given))
        assert found is not None
        assert found.weights == 65_524_246_528

    def test_what_is_not_locked_yet_is_not_judged(self, fetched: FixedOutput) -> None:
        fetched.entry = None
        assert memory.need(engine(fetched, CARD)) is None


def test_a_warning_in_lint(tmp_path: Path, model: Source, cli) -> None:
    (tmp_path / "recipe.py").write_text(
        "from hermetic import Gpu, Image, Source\nfrom hermetic.llm import tensorrt_llm\n"
        f"image = Image('example.com/tensorrt-llm/release:1.2.1@sha256:{'0' * 64}')\n"
        "weights = tensorrt_llm.Quantise(environment=image, release='1.2.1', snapshot=Source('.'), format='int4_wo')\n"
        "engine = tensorrt_llm.Engine(environment=image, release='1.2.1', checkpoint=weights,\n"
        "    gpu=Gpu('NVIDIA L4', memory_gib=22, sm='8.9'), options={'max_batch_size': 1, 'max_seq_len': 1024})\n"
    )
    result = cli("lint", "recipe.py", "--json")
    found = [json.loads(line) for line in result.lines]
    said = [(one["severity"], one["code"]) for one in found]
    assert (result.exit_code, said) == (0, [("warning", "little-cache"), ("note", "format-not-listed")])
