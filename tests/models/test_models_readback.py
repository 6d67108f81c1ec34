"""What a quantised checkpoint holds is read from its bits, and two of them are graded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import architecture
import checkpoint_grade
import checkpoints
import numpy as np
import pytest
import quantised_checkpoint
import quantised_values
import safetensors_file
from models_kit import TINY, in_place, settings_of, write_quantised
from quantised_checkpoint import FORMATS, Asked
from stage_file import Refused, StageFile


class TestReadBack:
    LINEAR = "model__layers__1__mlp__up_proj__"

    def check(self, folder: Path, name: str, kv_cache: str = "fp8") -> str:
        found = architecture.parse_config(settings_of(TINY))
        with pytest.raises(Refused) as caught:
            quantised_checkpoint.read_back(folder, Asked(name, kv_cache, "hf"), found)
        return str(caught.value)

    @pytest.mark.parametrize("name", FORMATS)
    def test_what_was_asked_for(self, name: str, tmp_path: Path) -> None:
        folder = write_quantised(tmp_path / "q", name)
        found = architecture.parse_config(settings_of(TINY))
        held = quantised_checkpoint.read_back(folder, Asked(name, "fp8", "hf"), found)
        assert held["ranks"] == 1

    @pytest.mark.parametrize("name", FORMATS)
    def test_a_matrix_that_stayed_in_sixteen_bits(self, name: str, tmp_path: Path) -> None:
        folder = write_quantised(tmp_path / "q", name, **{f"{self.LINEAR}weight": ("BF16", (640, 256))})
        assert "model.layers.1.mlp.up_proj.weight was to be stored as" in self.check(folder, name)

    def test_another_format(self, tmp_path: Path) -> None:
        assert "the files say quant_algo 'FP8', not 'W4A8_AWQ'" in self.check(
            write_quantised(tmp_path / "q", "fp8"), "w4a8_awq"
        )

    def test_no_cache_scales(self, tmp_path: Path) -> None:
        folder = write_quantised(tmp_path / "q", "fp8", "none")
        assert "kv_cache_quant_algo None, not 'FP8'" in self.check(folder, "fp8")
        path = folder / "hf_quant_config.json"
        path.write_text(path.read_text().replace("null", '"FP8"'))
        assert "self_attn.k_proj.k_scale is missing" in self.check(folder, "fp8")

    def test_a_layer_that_was_left_out(self, tmp_path: Path) -> None:
        folder = write_quantised(tmp_path / "q", "fp8")
        path = folder / "hf_quant_config.json"
        found = json.loads(path.read_text())
        found["quantization"]["exclude_modules"] = ["lm_head", "model.layers.0*"]
        path.write_text(json.dumps(found))
        assert "model.layers.0* was left out" in self.check(folder, "fp8")

    def test_scales_that_are_no_numbers(self, tmp_path: Path) -> None:
        folder = write_quantised(tmp_path / "q", "fp8")
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes().replace(np.float32(1).tobytes(), np.float32("nan").tobytes(), 1))
        assert "holds a scale that is not a positive number" in self.check(folder, "fp8")


class TestReadBackOfRanks:
    ASKED = Asked("w4a8_awq", "fp8", "tensorrt_llm", tp=2)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A checkpoint of two ranks as the export ``tensorrt_llm`` of the tiny model."""
        place = tmp_path / "ranks"
        place.mkdir()
        for rank in range(2):
            self.write(place, rank)
        quantisation = {"quant_algo": "W4A8_AWQ", "kv_cache_quant_algo": "FP8", "group_size": 128}
        mapping = {"world_size": 2, "tp_size": 2, "pp_size": 1}
        (place / "config.json").write_text(json.dumps({"quantization": quantisation, "mapping": mapping}))
        return place

    def write(self, place: Path, rank: int, **wrong: tuple[str, tuple[int, ...]]) -> None:
        wanted = dict(quantised_checkpoint._wanted(self.ASKED, architecture.parse_config(settings_of(TINY))))
        wanted |= {key.replace("__", "."): value for key, value in wrong.items()}
        sizes = {"U8": 1, "BF16": 2, "F32": 4}
        data = {}
        for name, (dtype, shape) in wanted.items():
            count = int(np.prod(shape))
            data[name] = (
                dtype,
                shape,
                np.float32(1).tobytes() * count if dtype == "F32" else bytes(count * sizes[dtype]),
            )
        checkpoints.write_safetensors(place / f"rank{rank}.safetensors", data)

    def check(self, folder: Path) -> str:
        with pytest.raises(Refused) as caught:
            quantised_checkpoint.read_back(folder, self.ASKED, architecture.parse_config(settings_of(TINY)))
        return str(caught.value)

    def test_both_whole(self, folder: Path) -> None:
        found = architecture.parse_config(settings_of(TINY))
        assert quantised_checkpoint.read_back(folder, self.ASKED, found)["ranks"] == 2

    def test_a_rank_that_fell_back(self, folder: Path) -> None:
        self.write(folder, 1, transformer__layers__2__mlp__fc__weight=("BF16", (320, 256)))
        said = self.check(folder)
        assert said.startswith("rank 1: transformer.layers.2.mlp.fc.weight was to be stored as U8 [160, 256], but")

    def test_a_rank_without_scales_of_the_cache(self, folder: Path) -> None:
        self.write(folder, 0, transformer__layers__0__attention__kv_cache_scaling_factor=("F32", (2,)))
        assert "rank 0: transformer.layers.0.attention.kv_cache_scaling_factor" in self.check(folder)

    def test_ranks_and_mapping(self, folder: Path) -> None:
        in_place(folder / "config.json", mapping={"world_size": 2, "tp_size": 1, "pp_size": 2})
        assert "config.json maps (2, 1, 2) ranks (all, tp, pp), but (2, 2, 1)" in self.check(folder)
        (folder / "rank1.safetensors").unlink()
        assert "2 ranks were asked for, but the files are rank0.safetensors" in self.check(folder)
        in_place(folder / "config.json", quantization={})
        assert "the files say quant_algo None" in self.check(folder)


class TestValues:
    """What is decoded from the bits, against an encoder written here from the formats' definitions."""

    E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)

    def encoded(self, name: str, values: np.ndarray[Any, Any], folder: Path) -> dict[str, Any]:
        rows, width = values.shape
        fmt = FORMATS[name]
        tensors: dict[str, Any] = {}
        if name == "nvfp4":
            groups = values.reshape(rows, -1, 16)
            index = np.abs(np.abs(groups)[..., None] - self.E2M1).argmin(-1) | (groups < 0).astype(np.int64) << 3
            codes = index.reshape(rows, width).astype(np.uint8)
            tensors["weight"] = ("U8", (rows, width // 2), (codes[:, 1::2] << 4 | codes[:, 0::2]).tobytes())
            tensors["weight_scale"] = ("F8_E4M3", (rows, width // 16), bytes([0x38]) * (rows * width // 16))  # one
            tensors["weight_scale_2"] = ("F32", (), np.float32(1).tobytes())
        else:
            codes = np.clip(np.round(values), -8, 7).astype(np.int8).astype(np.uint8) & 15
            tensors["weight"] = ("U8", (rows // 2, width), (codes[1::2] << 4 | codes[0::2]).tobytes())
            tensors["weight_scale"] = (
                "F32",
                (rows, width // fmt.group),
                np.ones((rows, width // fmt.group), np.float32).tobytes(),
            )
        path = folder / "model.safetensors"
        checkpoints.write_safetensors(path, {f"m.{key}": value for key, value in tensors.items()})
        return safetensors_file.read_header(path, safetensors_file.QUANTISED)

    @pytest.mark.parametrize(("name", "values"), [("nvfp4", [0.5, -6, 3, 0, 1.5]), ("int4_awq", [1, -8, 7, 0, -3])])
    def test_bits(self, name: str, values: list[float], tmp_path: Path) -> None:
        matrix = np.resize(np.array(values, dtype=np.float32), (4, 128))
        held = self.encoded(name, matrix, tmp_path)
        assert np.array_equal(quantised_values.decoded(name, "m", held, 4), matrix)

    def test_every_number_of_e4m3(self) -> None:
        found = quantised_values._E4M3
        assert (found[0x7E], found[0x01], found[0x38], found[0xB8]) == (448, 2.0**-9, 1, -1)
        assert np.isnan(found[[0x7F, 0xFF]]).all()
        assert (np.diff(found[:0x7F]) > 0).all()

    def test_nonsense_is_a_loss_and_moved_scale_is_none(self) -> None:
        rng = np.random.default_rng(1)
        matrix = rng.standard_normal((64, 128)).astype(np.float32)
        factors = rng.uniform(0.1, 9, (1, 128)).astype(np.float32), rng.uniform(0.1, 9, (64, 1)).astype(np.float32)
        assert quantised_values._loss(matrix * factors[0] * factors[1], matrix) < 1e-3
        assert quantised_values._loss(rng.standard_normal((64, 128)).astype(np.float32), matrix) > 0.9
        assert quantised_values._loss(np.zeros_like(matrix), matrix) == 1
        assert quantised_values._loss(np.where(np.arange(128) < 32, 0, matrix), matrix) > 0.3
        assert quantised_values._loss(np.zeros_like(matrix), np.zeros_like(matrix)) == 0


class TestGrades:
    def grade(self, first: Path, second: Path, tmp_path: Path) -> str:
        checkpoint_grade.build(StageFile("grade", {}, {"first": first, "second": second}, tmp_path / "graded"))
        return json.loads((tmp_path / "graded" / "grade.json").read_text())["grade"]

    def test_other_files_with_the_same_tensors(self, tmp_path: Path) -> None:
        first = checkpoints.write(tmp_path / "first", checkpoints.config(), shards=3)
        second = tmp_path / "second"
        second.mkdir()
        safetensors_file.write_file(second / "model.safetensors", safetensors_file.read_checkpoint(first))
        assert self.grade(first, second, tmp_path) == "structural"

    @pytest.mark.parametrize(("factor", "grade"), [(1.001, "numeric"), (1.1, "different")])
    def test_values(self, factor: float, grade: str, tmp_path: Path) -> None:
        folders = []
        for name, scale in (("first", 1.0), ("second", factor)):
            folder = tmp_path / name
            folder.mkdir()
            data = np.full(8, scale, dtype=np.float32).tobytes()
            checkpoints.write_safetensors(folder / "rank0.safetensors", {"x": ("F32", (8,), data)})
            folders.append(folder)
        assert self.grade(*folders, tmp_path) == grade

    def test_packed_integers(self, tmp_path: Path) -> None:
        first, second = write_quantised(tmp_path / "first", "nvfp4"), write_quantised(tmp_path / "second", "nvfp4")
        path = second / "model.safetensors"
        tensor = safetensors_file.read_checkpoint(second, safetensors_file.QUANTISED)[
            "model.layers.0.mlp.up_proj.weight"
        ]
        content = bytearray(path.read_bytes())
        content[tensor.begin : tensor.begin + 100] = bytes([1]) * 100
        path.write_bytes(content)
        assert self.grade(first, second, tmp_path) == "numeric"
        assert self.grade(first, write_quantised(tmp_path / "third", "fp8"), tmp_path) == "different"
