"""What files say of themselves: engines, checkpoints, plans; and what they lie about."""

import json
import struct
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.llm.inspection import inspect

HEADER = b"ftrt" + bytes(20) + bytes((10, 14, 1)) + b"rest"


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def safetensors(dtype: str = "BF16", size: int = 8, said: int | None = None) -> bytes:
    header = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, said or size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


CONFIG = {
    "version": "1.2.1",
    "pretrained_config": {
        "architecture": "Qwen3ForCausalLM",
        "dtype": "bfloat16",
        "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1},
        "quantization": {"quant_algo": "W4A8_AWQ", "kv_cache_quant_algo": "FP8"},
    },
    "build_config": {
        "max_batch_size": 4,
        "max_seq_len": 5120,
        "max_draft_len": 0,
        "kv_cache_type": "PAGED",
        "plugin_config": {"tokens_per_block": 32, "use_paged_context_fmha": True},
    },
}


class TestEngine:
    def test_what_it_says(self, tmp_path) -> None:
        found = inspect(write(tmp_path, config__json=CONFIG, rank0__engine=HEADER, rank1__engine=HEADER))
        assert found.kind == "tensorrt-llm engine"
        assert found.problems == ()
        facts = found.facts
        assert (facts["tensorrt_llm"], facts["tensorrt"], facts["gpu"]) == ("1.2.1", "10.14.1", "unknown")
        assert (facts["quantisation"], facts["kv_cache_quantisation"]) == ("W4A8_AWQ", "FP8")
        assert facts["limits"] == {"max_batch_size": 4, "max_seq_len": 5120}
        assert facts["ranks"] == {"world": 2, "tp": 2, "pp": 1, "present": [0, 1]}

    def test_a_missing_rank_is_named(self, tmp_path) -> None:
        assert inspect(write(tmp_path, config__json=CONFIG, rank0__engine=HEADER)).problems == (
            "rank1.engine is missing",
        )

    def test_ranks_of_two_toolchains_are_named(self, tmp_path) -> None:
        other = HEADER[:24] + bytes((10, 13, 3))
        found = inspect(write(tmp_path, config__json=CONFIG, rank0__engine=HEADER, rank1__engine=other))
        assert found.facts["tensorrt"] == "unknown"
        assert "10.13.3" in found.problems[0]

    @pytest.mark.parametrize("plan", [b"", b"ftrt", b"PK\x03\x04" + bytes(30), b"ftrt" + b"\xff" * 40])
    def test_a_header_that_tells_nothing_is_unknown(self, tmp_path, plan: bytes) -> None:
        file = tmp_path / "model.plan"
        file.write_bytes(plan)
        found = inspect(file)
        assert found.facts["tensorrt"] == "unknown"
        assert bool(found.problems) == (not plan.startswith(b"ftrt"))


class TestCheckpoints:
    def test_tensorrt_llm(self, tmp_path) -> None:
        write(tmp_path, config__json=CONFIG["pretrained_config"], rank0__safetensors=safetensors())
        found = inspect(tmp_path)
        assert (found.kind, found.problems) == ("tensorrt-llm checkpoint", ("rank1.safetensors is missing",))

    def test_hugging_face(self, tmp_path) -> None:
        config = {"architectures": ["Qwen3ForCausalLM"], "dtype": "bfloat16", "max_position_embeddings": 40960}
        quantised = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
        write(tmp_path, config__json=config, hf_quant_config__json=quantised, model__safetensors=safetensors("U8"))
        found = inspect(tmp_path)
        assert (found.kind, found.facts["quantisation"], found.facts["stored"]) == (
            "hugging face checkpoint",
            "NVFP4",
            ["U8"],
        )

    def test_a_shard_that_the_index_names_and_a_header_that_lies(self, tmp_path) -> None:
        config = {"architectures": ["Qwen3ForCausalLM"]}
        index = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
        write(tmp_path, config__json=config, a__safetensors=safetensors(said=99))
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        problems = inspect(tmp_path).problems
        assert "speaks of" in problems[0]
        assert problems[1] == "b.safetensors is in the index and missing"


class TestRefusals:
    @pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
    def test_a_config_that_is_no_object(self, tmp_path, content: bytes) -> None:
        with pytest.raises(HermeticError) as caught:
            inspect(write(tmp_path, config__json=content))
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "unreadable-config")

    @pytest.mark.parametrize("name", ["", "nothing", "file"])
    def test_what_is_nothing_known(self, tmp_path, name: str) -> None:
        (tmp_path / "file").write_text("text")
        with pytest.raises(HermeticError) as caught:
            inspect(tmp_path / name)
        assert caught.value.domain == Domain.USAGE


def test_the_command(tmp_path, cli) -> None:
    write(tmp_path / "engine", config__json=CONFIG, rank0__engine=HEADER)
    result = cli("inspect", "engine", "--json")
    assert result.exit_code == 6
    assert json.loads(result.lines[0])["kind"] == "tensorrt-llm engine"
    text = cli("inspect", "engine").stdout
    assert "max_seq_len 5120" in text
