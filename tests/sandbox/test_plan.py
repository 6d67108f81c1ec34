"""A launch plan is data; its command line is what runs."""

from __future__ import annotations

from hermetic.derivation import ABI
from hermetic.sandbox import abi
from hermetic.sandbox.plan import LaunchPlan, Limits, Mount


def plan(**more: object) -> LaunchPlan:
    return LaunchPlan(argv=("/build/program/x", "--flag"), workspace="/ws", **more)  # type: ignore[arg-type]


def pairs(args: list[str], option: str, count: int) -> list[tuple[str, ...]]:
    return [tuple(args[at + 1 : at + 1 + count]) for at, word in enumerate(args) if word == option]


def test_the_command_line_is_golden(golden) -> None:
    """Another line here is another `abi.ABI`."""
    full = plan(
        mounts=(Mount("/store/env", "/build/env/python"),),
        symlinks={"/lib": "build/env/system"},
        environment={"PYTHONPATH": "/build/env/wheels"},
        limits=Limits(shm_mb=64),
    )
    golden("sandbox/bwrap-abi-1.txt", "\n".join(full.bwrap_args()) + "\n")


def test_the_abi_is_the_one_in_keys() -> None:
    assert abi.ABI == ABI


def test_the_program_comes_last() -> None:
    assert plan().bwrap_args()[-3:] == ["--", "/build/program/x", "--flag"]


def test_only_the_output_and_scratch_folders_can_be_written() -> None:
    args = plan(mounts=(Mount("/a", "/b"),)).bwrap_args()
    assert {target for _, target in pairs(args, "--bind", 2)} == {"/build/out", "/build/tmp", "/build/home"}
    assert not {"--dev-bind", "--bind-try", "--share-net"} & set(args)


def test_fixed_variables_win() -> None:
    variables = plan(environment={"HOME": "/root", "OMP_NUM_THREADS": "2"}).variables()
    assert variables["HOME"] == "/build/home"
    assert variables["OMP_NUM_THREADS"] == "2"


def test_the_network_is_cut_unless_asked_for() -> None:
    assert "--unshare-net" in plan().bwrap_args()
    assert "--unshare-net" not in plan(network=True).bwrap_args()
    assert "--network host " in " ".join(plan(network=True).podman_args())
    assert "--interactive" in plan().podman_args(interactive=True)


def test_sources_are_all_that_is_bound_and_can_be_renamed() -> None:
    one = plan(mounts=(Mount("/a", "/x"), Mount("/a", "/y")))
    assert one.sources() == ("/ws/in", "/ws/program", "/ws/stage.json", "/ws/out", "/ws/tmp", "/ws/home", "/a")
    args = one.bwrap_args(source=lambda path: f"/tmp{path}")
    bound = [source for option in ("--ro-bind", "--bind") for source, _ in pairs(args, option, 2)]
    assert all(source.startswith("/tmp/") for source in bound)


def test_a_mount_takes_the_place_of_our_link() -> None:
    args = plan(mounts=(Mount("/lib", "/lib"),), symlinks={"/lib": "build/env/system"}).bwrap_args()
    assert "/lib" not in [place for _, place in pairs(args, "--symlink", 2)]


def test_masks_that_a_kernel_lacks_are_left_out() -> None:
    args = plan(masked=("/proc/keys",)).bwrap_args()
    assert [target for _, target in pairs(args, "--ro-bind-data", 2)] == ["/proc/keys"]


def test_printed_descriptors_count_from_ten() -> None:
    inline = plan().inline()
    numbers = [int(number) for number, _ in pairs(plan().bwrap_args(), "--file", 2)]
    assert numbers == list(range(10, 10 + len(numbers)))
    assert [file.target for file in inline[: len(numbers)]] == [f"/etc/{name}" for name in abi.ETC]


def test_an_images_root_is_bound_first() -> None:
    args = plan(root="/images/x").bwrap_args()
    assert pairs(args, "--ro-bind", 2)[0] == ("/images/x", "/")
    assert args.index("/images/x") < args.index("--proc")
