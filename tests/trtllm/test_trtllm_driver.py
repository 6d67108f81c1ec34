"""The machine's driver against the CUDA of images: refused before anything is built."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hermetic.llm.drivers import cuda_of, findings
from hermetic.llm.support.releases import driver_for, newest_cuda
from hermetic.recipe import Gpu, Host, Image, Script
from hermetic.sandbox.gpu import TEST_INVENTORY
from hermetic.testing.gpu import H200

RELEASE = "nvcr.io/nvidia/tensorrt-llm/release:1.2.1@sha256:" + "0" * 64  # CUDA 13.1
OWN = "registry.example.com/builder:7@sha256:" + "0" * 64
RECIPE = """\
from hermetic import Gpu, Image, Script
stage = Script("build.py", environment=Image({image!r}), gpu=Gpu("NVIDIA H200"{more}))
"""


def stage(image: str = RELEASE, variables: tuple[str, ...] = (), **gpu: str) -> Script:
    environment = Image(image).model_copy(update={"variables": variables})
    return Script(__file__, environment=environment, gpu=Gpu("NVIDIA H200", **gpu))


@pytest.mark.parametrize(
    ("reference", "variables", "cuda"),
    [
        (RELEASE, (), "13.1"),
        (RELEASE, ("PATH=/bin", "CUDA_VERSION=12.8.1.012"), "12.8.1.012"),  # the image knows better than its tag
        (OWN, ("CUDA_VERSION=12.4.1",), "12.4.1"),
        (OWN, (), ""),
    ],
)
def test_the_cuda_of_an_image(reference: str, variables: tuple[str, ...], cuda: str) -> None:
    assert cuda_of(Image(reference).model_copy(update={"variables": variables})) == cuda


@pytest.mark.parametrize(
    ("driver", "newest"),
    [("450.80.02", "11"), ("535.104", "12"), ("580", "13"), ("590.44.01", "13"), ("1", ""), ("", "")],
)
def test_what_a_driver_serves(driver: str, newest: str) -> None:
    assert newest_cuda(driver) == newest


def test_minimum_drivers_have_a_source() -> None:
    assert driver_for("12.8")[0] == "525"
    assert "docs.nvidia.com" in driver_for("12.8")[1]
    assert driver_for("99.0")[0] == ""


class TestFindings:
    @pytest.mark.parametrize(
        ("driver", "variables", "too_old"),
        [
            ("570.86.10", (), True),
            ("580.65.06", (), False),
            ("570.86.10", ("CUDA_VERSION=12.8.1",), False),
            ("470.1", ("CUDA_VERSION=12.8.1",), True),
        ],
    )
    def test_of_a_machine(self, driver: str, variables: tuple[str, ...], too_old: bool) -> None:
        found = list(findings([(stage(variables=variables), "engine")], driver))
        assert [one.code for one in found] == ["driver-too-old"] * too_old

    def test_the_guide_s_card_with_the_guide_s_driver(self) -> None:
        """The build guide: an RTX 5090 with driver 555.85."""
        card = Gpu("NVIDIA GeForce RTX 5090", memory_gib=32, sm="12.0", at_least_driver="555.85")
        own = Script(__file__, environment=Image(OWN), gpu=card)
        (found,) = findings([(own, "engine")])
        assert "NVIDIA GeForce RTX 5090 (32 GiB, sm 12.0) needs driver 570 or later" in found.message
        assert found.source
        assert not list(findings([(own, "engine")], "570.133.20"))

    def test_what_is_not_known_is_not_refused(self) -> None:
        assert not list(findings([(stage(OWN), "engine")], "470.1"))
        no_gpu = Script(__file__, environment=Image(RELEASE))
        no_image = Script(__file__, environment=Host(paths=("/bin/sh",)), gpu=Gpu("NVIDIA H200"))
        assert not list(findings([(no_gpu, "one"), (no_image, "other")], "470.1"))

    def test_a_driver_that_the_recipe_asks_for(self) -> None:
        asking = stage(OWN, at_least_driver="575.51")
        assert [one.code for one in findings([(asking, "engine")], "570.86")] == ["driver-too-old"]
        assert not list(findings([(asking, "engine")], "575.51.03"))

    def test_it_is_in_no_key(self) -> None:
        assert Gpu("NVIDIA H200", at_least_driver="580").identity() == Gpu("NVIDIA H200").identity()


class TestCommands:
    @pytest.fixture
    def write(self, tmp_path: Path):
        def make(driver: str, more: str = "") -> dict[str, str]:
            (tmp_path / "build.py").touch()
            (tmp_path / "recipe.py").write_text(RECIPE.format(image=RELEASE, more=more))
            inventory = {"devices": [asdict(H200())], "driver": driver, "cuda": "12.2"}
            (tmp_path / "gpus.json").write_text(json.dumps(inventory))
            return {TEST_INVENTORY: str(tmp_path / "gpus.json")}

        return make

    def test_realise_refuses_before_it_fetches_the_image(self, cli, write) -> None:
        done = cli("realise", "recipe.py", env=write("535.104.05"))
        assert done.exit_code == 4
        assert "environment/driver-too-old" in done.stderr
        assert "driver 580 or later" in done.stderr

    def test_a_plan_may_be_for_another_machine(self, cli, write) -> None:
        assert cli("plan", "recipe.py", env=write("535.104.05")).exit_code == 0

    def test_lint_takes_the_recipe_at_its_word(self, cli, write) -> None:
        env = write("535.104.05", ', at_least_driver="555.85"')
        (found,) = [json.loads(line) for line in cli("lint", "recipe.py", "--json", env=env).lines]
        assert (found["severity"], found["code"], found["where"]) == ("error", "driver-too-old", "stage: gpu")
        assert found["line"] == 2
        assert "Minor Version Compatibility" in found["source"]
        env = write("535.104.05", ', at_least_driver="580"')
        assert cli("lint", "recipe.py", env=env).exit_code == 0

    def test_doctor_says_which_images_run_here(self, cli, write) -> None:
        said = cli("doctor", env=write("535.104.05")).stdout
        assert "driver    535.104.05, CUDA 12.2, by stand-in; images with CUDA 12 and before" in said
