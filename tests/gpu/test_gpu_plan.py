"""What of a GPU is on the command line of each runtime. Devices and folders are stand-ins."""

from __future__ import annotations

from hermetic.sandbox.gpu_driver import PLACE, GpuAccess
from hermetic.sandbox.plan import LaunchPlan

UUID = "GPU-12759c96-7bc1-f401-12e1-588ffe89ffc4"
ONE = GpuAccess(
    uuids=(UUID,),
    nodes=("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia3"),
    libraries=(
        ("/usr/local/nvidia/lib64/libcuda.so.580.159.04", f"{PLACE}/libcuda.so.1"),
        ("/usr/local/nvidia/lib64/libnvidia-ml.so.580.159.04", f"{PLACE}/libnvidia-ml.so.1"),
    ),
    visible="0",
)
MASKED = ("/proc/keys", "/proc/driver", "/proc/bus")


def plan(gpu: GpuAccess | None, **more) -> LaunchPlan:
    return LaunchPlan(argv=("/build/program/x",), workspace="/ws", masked=MASKED, gpu=gpu, **more)


def added(with_gpu: list[str], without: list[str]) -> list[str]:
    rest = list(without)
    return [word for word in with_gpu if word not in rest or rest.remove(word)]


def test_bubblewrap(golden) -> None:
    golden("gpu/bwrap.txt", "\n".join(plan(ONE).bwrap_args()) + "\n")


def test_podman_gives_the_device_files(golden) -> None:
    golden("gpu/podman.txt", "\n".join(plan(ONE).podman_args()) + "\n")


def test_podman_by_cdi_where_it_is_described() -> None:
    described = GpuAccess(ONE.uuids, ONE.nodes, ONE.libraries, "0", (f"nvidia.com/gpu={UUID}",))
    args = plan(described).podman_args()
    assert [args[at + 1] for at, word in enumerate(args) if word == "--device"] == [f"nvidia.com/gpu={UUID}"]


def test_docker(golden) -> None:
    image = "registry.example.com/trt@sha256:" + "0" * 64
    golden("gpu/docker.txt", "\n".join(plan(ONE, root="/images/x", image=image).docker_args("hermetic")) + "\n")


def test_docker_gets_several_by_uuid() -> None:
    two = GpuAccess((UUID, UUID.replace("1", "2")), ONE.nodes, (), "0,1")
    args = plan(two, root="/x", image="y").docker_args()
    assert args[args.index("--gpus") + 1] == f'"device={UUID},{UUID.replace("1", "2")}"'


def test_proc_driver_is_hidden_from_everybody_else() -> None:
    assert "/proc/driver" in plan(None).bwrap_args()
    assert "/proc/driver" not in plan(ONE).bwrap_args()
    assert "/proc/bus" in plan(ONE).bwrap_args()


def test_a_stage_without_a_gpu_has_nothing_of_it() -> None:
    words = plan(None).bwrap_args()
    assert not [word for word in words if "nvidia" in word or "CUDA" in word or "LD_LIBRARY_PATH" in word]


def test_the_library_path_of_an_image_comes_second() -> None:
    variables = plan(ONE, root="/x", environment={"LD_LIBRARY_PATH": "/usr/local/tensorrt/lib"}).variables()
    assert variables["LD_LIBRARY_PATH"] == f"{PLACE}:/usr/local/tensorrt/lib"
