"""What a stage may use, through ``hermetic realise``: reached limits are told as that, and what was used is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hermetic.realise.limits import limits_of
from hermetic.recipe import Host, Script, Source, Stage
from hermetic.sandbox import abi, cgroup
from hermetic.sandbox.plan import Limits

HOG = "$B awk 'BEGIN { s = \"x\"; while (length(s) < 300000000) s = s s; print length(s) }'\n"
STAGE = "out = Script('stage.sh', environment=env{fields})\n"


@pytest.fixture
def realise(cli, recipe):
    def run(program: str, **fields: int):
        text = "".join(f", {name}={value}" for name, value in fields.items())
        return cli("realise", recipe(STAGE.format(fields=text), stage=program), "--no-link", "--json")

    return run


@pytest.fixture
def grouped() -> None:
    group = cgroup.make(Limits())
    if group is None:
        pytest.skip("needs control groups")
    group.close()


def last(store: Path) -> dict:
    newest = max((store / "builds").iterdir(), key=lambda folder: folder.name.split("-")[1])
    return json.loads((newest / "record.json").read_bytes())


class TestMemory:
    @pytest.mark.usefixtures("grouped")
    def test_more_than_the_recipe_gives(self, realise, store_root) -> None:
        result = realise(HOG, memory_mb=64)
        assert result.exit_code == 100
        assert "error[build/out-of-memory]: stage 'out' ran out of memory: its limit is 64 MiB" in result.stderr
        assert "raise the stage's memory_mb; it is not part of the key" in result.stderr
        assert last(store_root)["extra"]["used"]["limited_by"] == "cgroup"

    @pytest.mark.usefixtures("grouped")
    def test_by_a_process_that_is_not_the_first(self, realise) -> None:
        result = realise(f"{HOG.strip()} || exit 3\n", memory_mb=64)
        assert "build/out-of-memory" in result.stderr

    @pytest.mark.usefixtures("grouped")
    def test_comes_before_the_time_that_others_waited(self, realise) -> None:
        result = realise(f"{HOG.strip()} || $B sleep 600\n", memory_mb=64, timeout=4)
        assert result.exit_code == 100
        assert "build/out-of-memory" in result.stderr

    def test_the_default_is_no_limit(self, realise) -> None:
        stage = Script(Source(__file__), environment=Host(paths=("/etc/hostname",)))
        assert (stage.memory_mb, limits_of(stage).memory_mb) == (1024, None)
        result = realise(HOG.replace("300000000", "30000000") + "echo > /build/out/f")
        assert result.exit_code == 0, result.stderr


class TestProcesses:
    def test_a_flood_ends(self, realise, cli) -> None:
        result = realise("i=0; while [ $i -lt 300 ]; do $B sleep 600 & i=$((i+1)); done\n", processes=30)
        assert result.exit_code == 100
        assert "build/stage-failed" in result.stderr
        assert "fork" in result.stderr

    def test_there_is_a_limit_without_asking(self) -> None:
        limits = limits_of(Script(Source(__file__), environment=Host(paths=("/etc/hostname",))))
        assert limits.processes == 8192


class TestDisk:
    def test_more_in_all_than_the_recipe_gives(self, realise, store_root) -> None:
        two = "for n in 1 2; do $B dd if=/dev/zero of=/build/tmp/$n bs=1M count=12; done\n$B sleep 600\n"
        result = realise(two, disk_mb=16, shm_mb=1)
        assert result.exit_code == 100
        assert "error[build/out-of-disk]: stage 'out' reached its limit of 16 MiB of disk" in result.stderr
        assert last(store_root)["extra"]["used"]["disk"] >= 16 << 20

    def test_deleted_and_still_open_counts(self, realise) -> None:
        hidden = 'exec 5>/build/tmp/x; rm() { $B rm "$@"; }; rm /build/tmp/x; $B dd if=/dev/zero bs=1M count=12 >&5\n'
        both = hidden + "$B dd if=/dev/zero of=/build/out/y bs=1M count=12; $B sleep 600\n"
        assert "build/out-of-disk" in realise(both, disk_mb=16, shm_mb=1).stderr

    def test_one_file_is_stopped_by_the_kernel(self, realise) -> None:
        result = realise("$B dd if=/dev/zero of=/build/out/x bs=1M count=40\n", disk_mb=16, shm_mb=1)
        assert "build/out-of-disk" in result.stderr

    def test_as_much_as_it_may(self, realise) -> None:
        result = realise("$B dd if=/dev/zero of=/build/out/x bs=1M count=12\n", disk_mb=16)
        assert result.exit_code == 0, result.stderr

    def test_what_is_declared_must_be_free(self, realise) -> None:
        result = realise("echo never > /build/out/x\n", disk_mb=1 << 40)
        assert result.exit_code == 4
        assert "error[environment/disk-space]: stage 'out' needs 1099511627776 MiB of disk" in result.stderr


class TestSharedMemory:
    def test_has_the_size_of_the_stage(self, realise) -> None:
        program = "$B dd if=/dev/zero of=/dev/shm/x bs=1M count=3 && echo > /build/out/f\n"
        assert "No space left" in realise(program, shm_mb=2).stderr
        assert realise(program, shm_mb=4).exit_code == 0

    def test_the_default_is_the_sandbox_s(self) -> None:
        assert Stage.model_fields["shm_mb"].default == abi.SHM_MB


class TestWhatWasUsed:
    def test_is_in_the_record_and_in_the_event(self, realise, store_root) -> None:
        result = realise("$B dd if=/dev/zero of=/build/out/x bs=1M count=5; $B seq 200000 | $B sort >/build/tmp/s\n")
        assert result.exit_code == 0, result.stderr
        built = next(event for event in map(json.loads, result.lines) if event.get("state") == "built")
        assert built["used"] == last(store_root)["extra"]["used"]
        assert built["used"]["cpu_s"] > 0
        assert built["used"]["written"] >= 5 << 20

    def test_log_says_it_to_people(self, realise, cli) -> None:
        realise("echo words; echo > /build/out/f")
        shown = cli("log", "recipe.py")
        assert shown.stdout == "words\n"
        assert "of processor time" in shown.stderr

    @pytest.mark.usefixtures("grouped")
    def test_memory_is_what_could_not_be_dropped(self, realise) -> None:
        """A stage that holds 100 MB and writes 200: told apart."""
        hold = "$B awk 'BEGIN { s = \"x\"; while (length(s) < 60000000) s = s s; while ((getline line) > 0) n++ }'"
        program = f"$B sleep 1 | {hold}\n$B dd if=/dev/zero of=/build/tmp/x bs=1M count=200\necho > /build/out/f\n"
        built = next(e for e in map(json.loads, realise(program).lines) if e.get("state") == "built")
        assert 60_000_000 < built["used"]["memory"] < 190_000_000
        assert built["used"]["memory_with_cache"] >= built["used"]["memory"]


def test_no_group_is_left() -> None:
    for parent in cgroup._parents_here():
        mine = [name for name in os.listdir(parent.memory) if f"-{os.getpid()}-" in name]
        assert mine == []
