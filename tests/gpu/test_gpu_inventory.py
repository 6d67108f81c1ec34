"""What GPUs there are, and what of the driver comes in."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.recipe import Gpu
from hermetic.sandbox import gpu, gpu_driver
from hermetic.testing.gpu import H100, H200

MIG = replace(
    H100(),
    uuid="MIG-00000000-0000-4000-8000-000000000001",
    product="NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    memory=9856 << 20,
    mig="enabled",
    instance=(7, 0),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "nvidiactl",
        "nvidia-uvm",
        "nvidia0",
        "nvidia1",
        "nvidia-caps/nvidia-cap66",
        "nvidia-caps/nvidia-cap67",
    ):
        (tmp_path / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / name).touch()
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    for name in (
        "libcuda.so.580.1",
        "libnvidia-ml.so.580.1",
        "libnvidia-gpucomp.so.580.1",
        "libnvidia-glcore.so.580.1",
    ):
        (folder / name).touch()
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        (folder / name).symlink_to(name.replace(".so.1", ".so.580.1"))
    return tmp_path


class TestAccess:
    def test_the_leased_gpu_only(self, root) -> None:
        found = gpu_driver.access([H200(1)], str(root))
        assert [Path(node).name for node in found.nodes] == ["nvidiactl", "nvidia-uvm", "nvidia1"]

    def test_libraries_by_the_names_that_programs_ask_for(self, root) -> None:
        found = dict(pair[::-1] for pair in gpu_driver.access([H200()], str(root)).libraries)
        assert sorted(Path(place).name for place in found) == [
            "libcuda.so",
            "libcuda.so.1",
            "libnvidia-gpucomp.so.580.1",
            "libnvidia-ml.so.1",
        ]
        assert Path(found["/build/env/driver/libcuda.so.1"]).name == "libcuda.so.580.1"

    def test_an_instance_of_a_divided_gpu_comes_with_its_capabilities(self, root) -> None:
        folder = root / "proc/driver/nvidia/capabilities/gpu0/mig/gi7"
        (folder / "ci0").mkdir(parents=True)
        (folder / "access").write_text("DeviceFileMinor: 66\nDeviceFileMode: 444\n")
        (folder / "ci0/access").write_text("DeviceFileMinor: 67\nDeviceFileMode: 444\n")
        found = gpu_driver.access([MIG], str(root))
        names = [Path(node).name for node in found.nodes]
        assert names == ["nvidiactl", "nvidia-uvm", "nvidia0", "nvidia-cap66", "nvidia-cap67"]
        assert found.visible == MIG.uuid

    def test_a_missing_device_file(self, root) -> None:
        with pytest.raises(HermeticError) as caught:
            gpu_driver.access([H200(5)], str(root))
        assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "gpu-driver")
        assert "nvidia5" in caught.value.message

    def test_no_libcuda(self, root) -> None:
        (root / "usr/lib/x86_64-linux-gnu/libcuda.so.1").unlink()
        with pytest.raises(HermeticError) as caught:
            gpu_driver.access([H200()], str(root))
        assert "libcuda.so.1 is nowhere" in caught.value.message

    def test_cdi_names_if_all_gpus_are_described(self, root) -> None:
        (root / "etc/cdi").mkdir(parents=True)
        (root / "etc/cdi/nvidia.yaml").write_text(f"kind: nvidia.com/gpu\ndevices:\n- name: {H200().uuid}\n")
        assert gpu_driver.access([H200()], str(root)).cdi == (f"nvidia.com/gpu={H200().uuid}",)
        assert gpu_driver.access([H200(), H200(1)], str(root)).cdi == ()


class TestDiscovery:
    def test_no_driver(self, monkeypatch) -> None:
        monkeypatch.setattr(gpu.os.path, "exists", lambda _: False)
        found = gpu._discover.__wrapped__("")
        assert not found.devices
        assert "no NVIDIA driver" in found.reason

    def test_nvidia_smi_where_there_is_no_nvml(self, tmp_path, monkeypatch) -> None:
        tool = tmp_path / "nvidia-smi"
        row = "0, GPU-12759c96-7bc1-f401-12e1-588ffe89ffc4, NVIDIA H200, 143771, 9.0, Disabled, 580.159.04"
        tool.write_text(f"#!/bin/sh\necho '{row}'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        found = gpu._by_smi("nvidia-ml-py is not installed")
        (device,) = found.devices
        assert (device.product, device.memory_gib, device.sm, device.mig) == ("NVIDIA H200", 140, "9.0", "disabled")
        assert (found.driver, found.source) == ("580.159.04", "nvidia-smi")

    def test_nvidia_smi_that_fails_says_why(self, tmp_path, monkeypatch) -> None:
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert gpu._by_smi("NVML does not start").reason.endswith("nvidia-smi says: No devices were found")

    def test_a_stand_in_is_called_one(self, tmp_path) -> None:
        file = tmp_path / "gpus.json"
        file.write_text(json.dumps({"devices": [asdict(MIG)], "driver": "1"}))
        found = gpu._read(str(file))
        assert found.source == "stand-in"
        assert found.devices == (MIG,)

    def test_nothing_of_it_is_imported_by_a_stage_without_gpus(self) -> None:
        assert "pynvml" not in sys.modules


class TestNvml:
    """Against a module that answers as pynvml does; the real one is not asked where there is no GPU."""

    def test_a_divided_gpu_is_its_instances(self, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", _Nvml())
        found = gpu._by_nvml()
        assert [(device.uuid, device.instance) for device in found.devices] == [("GPU-a", None), ("MIG-b", (7, 0))]
        assert (found.driver, found.cuda) == ("580.159.04", "13.0")


class _Nvml:
    class NVMLError(Exception):
        pass

    NVMLError_NotFound = NVMLError_NotSupported = NVMLError

    def __getattr__(self, name: str):
        answers = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
            "nvmlSystemGetDriverVersion": lambda: "580.159.04",
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: f"GPU-{'ab'[index]}",
            "nvmlDeviceGetCudaComputeCapability": lambda _: (9, 0),
            "nvmlDeviceGetUUID": str,
            "nvmlDeviceGetName": lambda handle: f"name of {handle}",
            "nvmlDeviceGetMemoryInfo": lambda _: type("Info", (), {"total": 1 << 30}),
            "nvmlDeviceGetMinorNumber": lambda handle: "ab".index(handle[-1]),
            "nvmlDeviceGetMigMode": lambda handle: (int(handle == "GPU-b"), 0),
            "nvmlDeviceGetMaxMigDeviceCount": lambda _: 2,
            "nvmlDeviceGetMigDeviceHandleByIndex": self._instance,
            "nvmlDeviceGetGpuInstanceId": lambda _: 7,
            "nvmlDeviceGetComputeInstanceId": lambda _: 0,
        }
        return answers[name]

    def _instance(self, _: str, number: int) -> str:
        if number:
            raise self.NVMLError
        return "MIG-b"


class TestDeclaration:
    @pytest.mark.parametrize(
        "other",
        [
            Gpu("NVIDIA H100 80GB HBM3"),
            Gpu("NVIDIA H200", memory_gib=141),
            Gpu("NVIDIA H200", sm="9.1"),
            Gpu("NVIDIA H200", count=2),
            Gpu(sm="9.0", portable="sm"),
        ],
    )
    def test_every_field_is_identity(self, other) -> None:
        assert other.identity() != Gpu("NVIDIA H200").identity()

    def test_a_requirement_is_not(self) -> None:
        assert Gpu("NVIDIA H200", at_least_gib=100).identity() == Gpu("NVIDIA H200").identity()

    def test_h100_and_h200_are_one_only_where_that_is_asked_for(self) -> None:
        products = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
        assert len({str(Gpu(product).identity()) for product in products}) == 2
        assert len({str(Gpu(product, portable="sm").identity()) for product in products}) == 1

    def test_an_unknown_product_needs_all_of_it(self) -> None:
        with pytest.raises(HermeticError) as caught:
            Gpu("NVIDIA L4")
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "gpu-unknown")
        assert Gpu("NVIDIA L4", memory_gib=22, sm="8.9").declared
