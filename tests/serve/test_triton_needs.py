"""What an engine of TensorRT-LLM needs, from whoever says it; and what of this machine a given Triton sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.recipe import Gpu, Image
from hermetic.serve.launch_command import Binary, Place, Settings, command
from hermetic.serve.launch_given import given
from hermetic.serve.launch_image import insist_on_cuda, insist_on_image, served_in
from hermetic.serve.triton_deployment import Deployment
from hermetic.serve.triton_needs import Known, Needs, insist_on_release, needs

H100 = Gpu("NVIDIA H100 80GB HBM3")
DIGEST = "@sha256:" + "0" * 64
CUDA_13 = Image(f"nvcr.io/nvidia/tritonserver:26.05-trtllm-python-py3{DIGEST}")  # TensorRT-LLM 1.2.1


def deployment(kind: str = "tensorrt-llm", world: int = 1) -> Deployment:
    return Deployment(kind, "none", {}, (), "1.2.1", "", "", {}, {}, world)


@pytest.fixture
def engine(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text('{"version": "1.2.1"}')
    return str(tmp_path)


def manifest(folder: Path, gpu: object) -> Known:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"platform": {"gpu": gpu}}))
    return Known(str(path))


def reason(error: pytest.ExceptionInfo[HermeticError]) -> tuple[Domain, str]:
    return error.value.domain, error.value.reason


class TestGpu:
    def test_the_manifest_s_with_one_for_each_rank(self, engine: str, tmp_path: Path) -> None:
        found = needs("e", engine, deployment(world=4), manifest(tmp_path, H100.identity()), "")
        assert found.gpu is not None
        assert (found.gpu.product, found.gpu.count, found.release) == (H100.product, 4, "1.2.1")

    def test_of_an_engine_for_every_gpu_of_one_capability(self, engine: str, tmp_path: Path) -> None:
        found = needs("e", engine, deployment(), manifest(tmp_path, {"sm": "9.0", "count": 1}), "")
        assert str(found.gpu) == "1 x any GPU of sm 9.0"

    def test_the_recipe_s(self, engine: str) -> None:
        assert needs("e", engine, deployment(), Known(gpu=H100), "").gpu == H100

    def test_what_nobody_says_must_be_said(self, engine: str, tmp_path: Path) -> None:
        known = manifest(tmp_path, "not declared")
        with pytest.raises(HermeticError) as error:
            needs("e", engine, deployment(), known, "")
        assert reason(error) == (Domain.ENVIRONMENT, "gpu-unknown")
        assert needs("e", engine, deployment(), known, "none").gpu is None
        assert needs("e", engine, deployment(), known, H100.product).gpu == H100

    @pytest.mark.parametrize("said", ["none", "NVIDIA H200"])
    def test_what_is_known_can_not_be_said_otherwise(self, engine: str, said: str) -> None:
        with pytest.raises(HermeticError, match=f"--gpu says {said}") as error:
            needs("e", engine, deployment(), Known(gpu=H100), said)
        assert reason(error) == (Domain.USAGE, "gpu-declared")

    def test_a_manifest_that_can_not_be_meant(self, engine: str, tmp_path: Path) -> None:
        with pytest.raises(HermeticError) as error:
            needs("e", engine, deployment(), manifest(tmp_path, {"sm": 9}), "")
        assert reason(error) == (Domain.TRUST, "manifest-invalid")


class TestRelease:
    def test_a_checkpoint_of_the_llm_api_needs_the_recipe_s_if_any(self, engine: str) -> None:
        of = deployment("tensorrt-llm-pytorch")
        assert needs("e", engine, of, Known(gpu=H100, release="1.2.0"), "").release == "1.2.0"
        assert needs("e", engine, of, Known(gpu=H100), "").release == ""

    @pytest.mark.parametrize("there", ["1.2.0", ""])
    def test_another_or_an_unknown_one_is_refused(self, there: str) -> None:
        with pytest.raises(HermeticError, match=r"is of TensorRT-LLM 1\.2\.1, and the image i has") as error:
            insist_on_release("e", "1.2.1", there, "the image i")
        assert reason(error) == (Domain.ENVIRONMENT, "release-mismatch")
        insist_on_release("e", there, there, "the image i")


class TestGiven:
    def test_its_own_folders_and_the_system_s(self, tmp_path: Path) -> None:
        for name in ("bin", "backends", "site"):
            (tmp_path / name).mkdir()
        program = tmp_path / "bin" / "tritonserver"
        program.touch(0o755)
        mounts, binary = given(str(program), "", {"PYTHONPATH": f"{tmp_path}/site", "PATH": ""})
        shown = {mount.source: mount.target for mount in mounts.mounts}
        assert shown["/usr"] == "/usr"
        assert "/root" not in shown
        assert "/home" not in shown
        inside = shown[str(tmp_path)]
        assert binary == Binary(f"{inside}/bin/tritonserver", "mpirun", f"{inside}/backends")
        assert mounts.variables == {"PYTHONPATH": f"{inside}/site", "LD_LIBRARY_PATH": f"{inside}/lib"}

    @pytest.mark.parametrize(("program", "why"), [("nothing", "no-triton"), ("bin", "no-triton"), ("t", "no-backends")])
    def test_what_is_none(self, tmp_path: Path, program: str, why: str) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "t").touch(0o755)
        with pytest.raises(HermeticError) as error:
            given(str(tmp_path / program), f"{tmp_path}/backends", {})
        assert reason(error) == (Domain.USAGE, why)

    def test_the_command_line_names_its_programs(self) -> None:
        line = command(2, Settings(), "127.0.0.1", Binary("/t/tritonserver", "/m/mpirun", "/t/backends"))
        assert line[0] == "/m/mpirun"
        assert line.count("/t/tritonserver") == 2
        assert line.count("--backend-directory=/t/backends") == 2


class TestImage:
    """What an image's tag tells is held against the engine before the image is brought."""

    def test_which_one_it_is(self) -> None:
        named = Place(image=f"example.com/other{DIGEST}")
        found = served_in("tensorrt-llm", CUDA_13, named)
        assert found is not None
        assert found.reference == named.image
        assert served_in("tensorrt-llm", CUDA_13, Place()) is CUDA_13
        assert served_in("tensorrt-llm", CUDA_13, Place(triton="/opt/tritonserver")) is None
        assert served_in("openvino", CUDA_13, named) is None

    @pytest.mark.parametrize(
        ("release", "gpu", "driver", "expected"),
        [
            ("1.2.1", H100, "580.159.04", ""),
            ("1.2.1", H100, "", ""),
            ("1.2.1", None, "470.1", ""),
            ("1.2.0", H100, "580.159.04", "release-mismatch"),
            ("1.2.1", H100, "570.86.10", "driver-too-old"),
            ("1.2.1", Gpu("NVIDIA H100 80GB HBM3", at_least_driver="570.1"), "", "driver-too-old"),
        ],
    )
    def test_what_is_refused(self, release: str, gpu: Gpu | None, driver: str, expected: str) -> None:
        if not expected:
            insist_on_image("e", CUDA_13, Needs(gpu, release), driver)
            return
        with pytest.raises(HermeticError) as error:
            insist_on_image("e", CUDA_13, Needs(gpu, release), driver)
        assert reason(error) == (Domain.ENVIRONMENT, expected)

    def test_the_configuration_knows_better_than_the_tag(self) -> None:
        new = Gpu("NVIDIA B300", memory_gib=268, sm="10.3")
        insist_on_cuda(CUDA_13, {}, new, "")
        with pytest.raises(HermeticError) as error:
            insist_on_cuda(CUDA_13, {"CUDA_VERSION": "12.8.1"}, new, "")
        assert reason(error) == (Domain.ENVIRONMENT, "gpu-and-image")
        insist_on_cuda(Image(f"example.com/own{DIGEST}"), {}, new, "470.1")  # nobody knows its CUDA
