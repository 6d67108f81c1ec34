"""Bad input is said by name, before torch is imported, and nothing is left half-made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import adapter_file
import architecture
import calibration_set
import checkpoints
import pytest
import pytorch_model
import safetensors_file
import trtllm_convert
from models_kit import (
    CALIBRATION,
    MERGE,
    QUANTISE,
    TINY,
    in_place,
    settings_of,
    write_adapter,
    write_dataset,
    write_quantised,
)
from stage_file import Refused, StageFile

FAMILIES = {"qwen": ["Qwen3ForCausalLM"]}


def refused(build: Any, parameters: dict[str, Any], out: Path, **inputs: Path) -> str:
    """What `build` says. It must not have written anything."""
    with pytest.raises(Refused) as caught:
        build(StageFile("stage", parameters, inputs, out))
    assert not out.exists(), "nothing is written for what is refused"
    return str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoints.write(tmp_path / "model", checkpoints.config(), shards=2)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    data = write_dataset(tmp_path / "data.jsonl")
    calibration_set.build(StageFile("samples", CALIBRATION, {"dataset": data}, folder))
    return folder


class TestAdapters:
    def check(self, folder: Path, model: Path) -> str:
        with pytest.raises(Refused) as caught:
            adapter_file.read_adapter(folder, architecture.parse_config(settings_of(model)))
        return str(caught.value)

    def test_one_that_fits(self, model: Path, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "adapter", model, rslora=True)
        found = adapter_file.read_adapter(folder, architecture.parse_config(settings_of(model)))
        assert (found.rank, found.alpha, found.rslora, found.dora, found.layers) == (4, "8", True, False, (0, 1))
        assert found.modules == ("mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj")

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"hidden_size": 256}, "is for another base: layer 0, self_attn.q_proj is 192 x 128 there, but lora_A"),
            ({"num_hidden_layers": 3}, "is for another base: it changes layer 2"),
            ({"intermediate_size": 512}, "is for another base: layer 0, mlp.down_proj"),
        ],
    )
    def test_for_another_base(self, other: dict[str, Any], said: str, model: Path, tmp_path: Path) -> None:
        base = checkpoints.write(tmp_path / "other", checkpoints.config(**other))
        assert said in self.check(write_adapter(tmp_path / "adapter", base), model)

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ({"peft_type": "IA3"}, "of type 'IA3'; LORA is supported"),
            ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
            ({"trainable_token_indices": [1]}, "uses trainable_token_indices"),
            ({"bias": "all"}, "trains biases (bias 'all')"),
            ({"fan_in_fan_out": True}, "uses fan_in_fan_out"),
            ({"r": 16}, "has rank 4, but adapter_config.json says r 16"),
            (
                {"target_modules": ["q_proj", "o_proj"]},
                "names the target 'o_proj', for which the adapter holds nothing",
            ),
            ({"auto_mapping": {"base_model_class": "LlamaForCausalLM"}}, "it was made for LlamaForCausalLM"),
        ],
    )
    def test_settings(self, config: dict[str, Any], said: str, model: Path, tmp_path: Path) -> None:
        assert said in self.check(write_adapter(tmp_path / "adapter", model, **config), model)

    def test_a_pickled_one(self, model: Path, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "adapter", model)
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        assert "adapter_model.bin is a pickle" in self.check(folder, model)

    def test_half_of_a_pair(self, model: Path, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "adapter", model)
        in_place(folder / "adapter_config.json", use_dora=True)
        assert "the adapter holds lora_A, lora_B, not" in self.check(folder, model)

    def test_merging_refuses_a_bad_base_and_a_small_disk(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import disk_space
        import lora_merge

        def refuse(base: Path = model) -> str:
            return refused(lora_merge.build, MERGE, tmp_path / "out", base=base, adapter=adapter)

        adapter = write_adapter(tmp_path / "adapter", model)
        shard = next(iter(sorted(model.glob("model-*.safetensors"))))
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-10])
        assert "its header describes" in refuse()
        shard.unlink()
        assert f"the shard {shard.name} is named" in refuse()
        shard.write_bytes(whole)
        small = checkpoints.write(tmp_path / "small", checkpoints.config(vocab_size=1600))
        assert "the tokenizer does not fit" in refuse(small)
        monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: SimpleNamespace(free=100_000))
        assert "disk too small: the result takes about" in refuse()

    def test_the_stage_writes_nothing_for_it(self, model: Path, tmp_path: Path) -> None:
        import lora_merge

        other = checkpoints.write(tmp_path / "other", checkpoints.config(num_hidden_layers=3))
        adapter = write_adapter(tmp_path / "adapter", other)
        said = refused(lora_merge.build, MERGE, tmp_path / "out", base=model, adapter=adapter)
        assert "another base" in said
        named = MERGE | {"base_name": "acme/another"}
        fitting = write_adapter(tmp_path / "fitting", model)
        said = refused(lora_merge.build, named, tmp_path / "out", base=model, adapter=fitting)
        assert "says it is for 'acme/tiny-qwen3', not for 'acme/another'" in said


class TestCalibrationSets:
    def refuse(self, data: Path, tmp_path: Path, **changes: Any) -> str:
        return refused(calibration_set.build, CALIBRATION | changes, tmp_path / "out", dataset=data)

    def test_no_text_column(self, tmp_path: Path) -> None:
        data = tmp_path / "data.jsonl"
        data.write_text('{"prompt": "a"}\n')
        assert "has no column 'text': data.jsonl has prompt" in self.refuse(data, tmp_path)

    def test_a_column_of_numbers(self, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data.jsonl", n=1)
        assert "the column 'n' of the calibration set is no text" in self.refuse(data, tmp_path, column="n")

    def test_too_few_rows_with_text(self, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data.jsonl", ["a", " ", "", "b"])
        assert "has 2 rows with text, but 4 samples" in self.refuse(data, tmp_path)

    def test_broken_files(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.write_bytes(b'{"text": "a"}\n{"text": \n')
        assert "data:2: not valid JSON" in self.refuse(data, tmp_path)
        data.write_bytes(b'{"text": "\xff"}')
        assert "is not UTF-8 text" in self.refuse(data, tmp_path)
        data.write_text("one\n\ntwo")
        assert "plain text; leave column empty" in self.refuse(data, tmp_path)

    def test_splits(self, tmp_path: Path) -> None:
        folder = tmp_path / "set"
        (folder / "data").mkdir(parents=True)
        write_dataset(folder / "data" / "train-0.jsonl", ["a", "b"])
        write_dataset(folder / "data" / "train-1.jsonl", ["c", "d"])
        write_dataset(folder / "data" / "test-0.jsonl", ["e"])
        assert "no file of the data set belongs to the split 'valid'" in self.refuse(folder, tmp_path, split="valid")
        assert "one file, which has no split" in self.refuse(folder / "data" / "test-0.jsonl", tmp_path, split="test")
        out = tmp_path / "chosen"
        calibration_set.build(StageFile("c", CALIBRATION | {"split": "train"}, {"dataset": folder}, out))
        rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        assert sorted(row["text"] for row in rows) == ["a", "b", "c", "d"]

    @pytest.mark.parametrize(
        ("content", "column"),
        [
            ('[{"text": "a"}, {"text": "b"}, {"text": "c"}, {"text": "d"}]', "text"),
            ("id,text\n1,a\n2,b\n3,c\n4,d\n", "text"),
            ("a\n\nb\n\nc\n\nd\n", ""),
            ("[INST] a\n\nb\n\n{c\n\nd", ""),
        ],
    )
    def test_a_file_has_no_name_in_the_sandbox(self, content: str, column: str, tmp_path: Path) -> None:
        """So its content says what it is."""
        data = tmp_path / "dataset"
        data.write_text(content)
        out = tmp_path / "out"
        calibration_set.build(StageFile("c", CALIBRATION | {"column": column}, {"dataset": data}, out))
        texts = [
            json.loads(line)["text"].strip("[INST] {") for line in (out / "samples.jsonl").read_text().splitlines()
        ]
        assert sorted(texts) == ["a", "b", "c", "d"]

    def test_line_separators_that_are_none_of_json_lines(self, tmp_path: Path) -> None:
        texts = ["a\u2028b", "c\u0085d", "e\x0bf", "g"]
        data = tmp_path / "data.jsonl"
        data.write_text(
            "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8"
        )
        out = tmp_path / "out"
        calibration_set.build(StageFile("c", CALIBRATION, {"dataset": data}, out))
        lines = (out / "samples.jsonl").read_text(encoding="utf-8").split("\n")
        assert sorted(json.loads(line)["text"] for line in lines if line) == sorted(texts)

    def test_json_lines_without_a_column(self, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data")
        assert "has no column ''" in self.refuse(data, tmp_path, column="")

    def test_the_seed_decides_and_nothing_else(self, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "data.jsonl")

        def chosen(name: str, **changes: Any) -> str:
            calibration_set.build(StageFile("c", CALIBRATION | changes, {"dataset": data}, tmp_path / name))
            return (tmp_path / name / "samples.jsonl").read_text()

        assert chosen("one") == chosen("two")
        assert chosen("three", seed=2) != chosen("one-more")


@pytest.mark.parametrize("export", ["hf", "tensorrt_llm"])
class TestQuantise:
    def refuse(self, checkpoint: Path, samples: Path, tmp_path: Path, **changes: Any) -> str:
        import modelopt_quantise

        parameters = QUANTISE | changes
        return refused(
            modelopt_quantise.build, parameters, tmp_path / "out", checkpoint=checkpoint, calibration=samples
        )

    def test_bad_checkpoints(self, export: str, model: Path, samples: Path, tmp_path: Path) -> None:
        shard = next(iter(sorted(model.glob("model-*.safetensors"))))
        whole = shard.read_bytes()
        shard.unlink()
        assert f"the shard {shard.name} is named" in self.refuse(model, samples, tmp_path, export=export)
        shard.write_bytes(whole[:-10])
        assert "its header describes" in self.refuse(model, samples, tmp_path, export=export)
        shard.write_bytes(whole)
        in_place(model / "config.json", vocab_size=1600)
        assert "model.embed_tokens.weight has shape" in self.refuse(model, samples, tmp_path, export=export)
        in_place(model / "config.json", vocab_size=1700, quantization_config={"quant_method": "gptq"})
        assert "already quantised (gptq)" in self.refuse(model, samples, tmp_path, export=export)

    def test_a_tokenizer_of_another_vocabulary(self, export: str, samples: Path, tmp_path: Path) -> None:
        model = checkpoints.write(tmp_path / "small", checkpoints.config(vocab_size=1600))
        assert "the tokenizer does not fit" in self.refuse(model, samples, tmp_path, export=export)

    def test_a_disk_that_is_too_small(
        self, export: str, model: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import disk_space
        import modelopt_quantise

        monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: SimpleNamespace(free=100_000))
        monkeypatch.setattr(modelopt_quantise, "read_samples", lambda *places: ([[1]], {"count": 1}))
        said = self.refuse(model, samples, tmp_path, export=export)
        assert said == "disk too small: the result takes about 0.000764 GB, but 0.0001 GB are free"

    def test_calibration_that_is_none(self, export: str, model: Path, tmp_path: Path) -> None:
        assert "is not the output of calibration(...)" in self.refuse(model, model, tmp_path, export=export)

    def test_splits_and_groups(self, export: str, model: Path, samples: Path, tmp_path: Path) -> None:
        said = self.refuse(model, samples, tmp_path, export="tensorrt_llm", tp=4)
        assert "tp 4 and pp 1 do not divide 6 heads" in said
        said = self.refuse(model, samples, tmp_path, export=export, format="w4a8_awq")
        assert "groups of 128 weights, which do not divide the 192 of self_attn.o_proj" in said
        del export


class TestConvert:
    PARAMETERS: ClassVar[dict[str, Any]] = {
        "families": FAMILIES,
        "family": "",
        "tp": 1,
        "pp": 1,
        "dtype": "auto",
        "options": {},
        "release": "1.2.1",
    }

    def refuse(self, snapshot: Path, tmp_path: Path, **changes: Any) -> str:
        return refused(trtllm_convert.build, self.PARAMETERS | changes, tmp_path / "out", snapshot=snapshot)

    def test_a_quantised_snapshot_names_its_route(self, tmp_path: Path) -> None:
        folder = write_quantised(tmp_path / "q", "nvfp4")
        shutil.copy(TINY / "config.json", folder)
        said = self.refuse(folder, tmp_path)
        assert "already quantised (NVFP4 by ModelOpt)" in said
        assert "tensorrt-llm-pytorch" in said

    def test_snapshots(self, model: Path, tmp_path: Path) -> None:
        assert "no script is known for the architecture" in self.refuse(model, tmp_path, families={"llama": []})
        assert "tp 4 does not divide 6 attention heads" in self.refuse(model, tmp_path, tp=4)
        assert "pp 9 is more than the 2 layers" in self.refuse(model, tmp_path, pp=9)
        assert "this environment has no /app/tensorrt_llm/examples" in self.refuse(model, tmp_path)

    @pytest.mark.parametrize(
        ("changes", "needed"),
        [
            ({}, 1),
            ({"dtype": "float32"}, 1),
            ({"dtype": "float16"}, 0.5),
            ({"options": {"use_weight_only": True}}, 0.25),
        ],
    )
    def test_a_disk_that_is_too_small(
        self, changes: dict[str, Any], needed: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Asked before the script runs, by what the result has at least."""
        import disk_space

        model = checkpoints.write(tmp_path / "model", checkpoints.config(), dtype="F32")
        size = sum(tensor.end - tensor.begin for tensor in safetensors_file.read_checkpoint(model).values())
        monkeypatch.setattr(trtllm_convert, "_SCRIPT", __file__)
        monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: SimpleNamespace(free=int(size * needed) - 1))
        assert "disk too small: the result takes about" in self.refuse(model, tmp_path, **changes)
        monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: SimpleNamespace(free=int(size * needed)))
        monkeypatch.setattr(trtllm_convert.subprocess, "run", lambda *words, **more: SimpleNamespace(returncode=7))
        assert "ended with status 7" in self.refuse(model, tmp_path, **changes)

    def test_a_shard_that_is_missing(self, model: Path, tmp_path: Path) -> None:
        next(iter(model.glob("model-*.safetensors"))).unlink()
        assert "is missing" in self.refuse(model, tmp_path)


class TestPyTorchModel:
    PARAMETERS: ClassVar[dict[str, Any]] = {
        "decimals": {"kv_cache_config": ["free_gpu_memory_fraction"]},
        "options": {"max_batch_size": 8, "kv_cache_config": {"free_gpu_memory_fraction": "0.85", "dtype": "fp8"}},
        "pp": 1,
        "quantisation": "FP8",
        "release": "1.2.1",
        "tp": 2,
    }

    @pytest.fixture
    def quantised(self, tmp_path: Path) -> Path:
        folder = write_quantised(tmp_path / "q", "fp8")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY / name, folder)
        return folder

    def test_one_artefact(self, quantised: Path, tmp_path: Path) -> None:
        cache = tmp_path / "autotuner.json"
        cache.write_text('{"metadata": {"device_name": "a GPU"}}')
        out = tmp_path / "out"
        inputs = {"checkpoint": quantised, "autotuner_cache": cache}
        pytorch_model.build(StageFile("model", self.PARAMETERS, inputs, out))
        assert sorted(path.name for path in out.iterdir()) == ["autotuner.json", "checkpoint", "model.yaml"]
        assert (out / "model.yaml").read_text() == (
            'backend: "pytorch"\nkv_cache_config:\n  dtype: "fp8"\n  free_gpu_memory_fraction: 0.85\n'
            "max_batch_size: 8\n"
            'model: "checkpoint"\npipeline_parallel_size: 1\ntensor_parallel_size: 2\n'
        )

    def test_what_is_refused(self, quantised: Path, tmp_path: Path) -> None:
        def refuse(checkpoint: Path, **changes: Any) -> str:
            return refused(pytorch_model.build, self.PARAMETERS | changes, tmp_path / "out", checkpoint=checkpoint)

        assert "NVFP4 was asked for, but the checkpoint is FP8" in refuse(quantised, quantisation="NVFP4")
        assert "tp 3 does not divide 4 attention heads" in refuse(quantised, tp=3)
        wrong = {"kv_cache_config": {"free_gpu_memory_fraction": 1}}
        assert "expected a decimal as a string" in refuse(quantised, options=wrong)
        in_place(quantised / "config.json", quantization_config={"quant_algo": "NVFP4"})
        assert "config.json says NVFP4, but hf_quant_config.json says FP8" in refuse(quantised)
        (quantised / "tokenizer.json").unlink()
        assert "has no tokenizer" in refuse(quantised)
        (quantised / "rank0.safetensors").touch()
        assert "one for trtllm-build" in refuse(quantised)
