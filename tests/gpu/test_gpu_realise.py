"""A stage with a GPU through the real command and sandbox, on a machine whose GPUs are stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hermetic.sandbox.gpu_lease import lease
from hermetic.testing.gpu import H100, H200

ENGINE = 'engine = Script("look.py", environment=env, gpu=Gpu("NVIDIA H200"))\n'


def seen(result) -> dict:
    assert result.exit_code == 0, result.stderr
    return json.loads((Path(result.lines[-1]) / "seen.json").read_text())


def test_a_stage_gets_one_gpu_and_the_driver(cli, recipe, machine) -> None:
    found = seen(cli("realise", recipe(ENGINE), env=machine(H100(0), H200(1), H200(2))))
    assert found["dev"] == ["nvidia-uvm", "nvidia1", "nvidiactl"]
    assert found["driver"] == ["libcuda.so", "libcuda.so.1"]
    assert found["CUDA_VISIBLE_DEVICES"] == "0"
    assert found["LD_LIBRARY_PATH"] == "/build/env/driver"


def test_a_stage_without_a_gpu_sees_nothing_of_it(cli, recipe, machine) -> None:
    found = seen(cli("realise", recipe('plain = Script("look.py", environment=env)\n'), env=machine(H200())))
    assert found == {"dev": [], "driver": []}


def test_two_gpus_are_numbered_alike_everywhere(cli, recipe, machine) -> None:
    text = 'engine = Script("look.py", environment=env, gpu=Gpu("NVIDIA H200", count=2))\n'
    found = seen(cli("realise", recipe(text), env=machine(H200(0), H100(1), H200(2))))
    assert found["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert found["dev"] == ["nvidia-uvm", "nvidia0", "nvidia2", "nvidiactl"]


def test_the_record_says_on_what_it_was_built(cli, recipe, machine, store_root) -> None:
    assert cli("realise", recipe(ENGINE), env=machine(H200())).exit_code == 0
    (file,) = (store_root / "builds").glob("*/record.json")
    record = json.loads(file.read_text())["extra"]["gpu"]
    assert record["driver"] == "580.159.04"
    assert record["devices"][0]["product"] == "NVIDIA H200"


def test_without_a_gpu_the_error_names_the_machine_that_is_needed(cli, recipe, machine) -> None:
    result = cli("realise", recipe(ENGINE), env=machine())
    assert result.exit_code == 4
    assert "environment/gpu-missing" in result.stderr
    assert "1 x NVIDIA H200 (140 GiB, sm 9.0)" in result.stderr


LATE = """\
    first = Script("first.py", environment=env)
    engine = Script("look.py", environment=env, inputs={"first": first}, gpu=Gpu("NVIDIA H200"))
    default = engine
"""
FIRST = "open('/build/out/first', 'w').close()  # {0}"


def test_nothing_is_begun_that_a_missing_gpu_makes_useless(cli, recipe, machine, store_root) -> None:
    name, other = recipe(LATE, first=FIRST), machine(H100())
    result = cli("realise", name, env=other)
    assert result.exit_code == 4
    assert "environment/gpu-mismatch" in result.stderr
    assert not list((store_root / "store").glob("*-first"))
    for _ in "evaluated", "remembered":
        planned = cli("plan", name, env=other)
        assert planned.exit_code == 0
        assert "warning: stage 'engine' is declared for 1 x NVIDIA H200" in planned.stderr


def test_what_others_can_use_is_built_if_asked_for(cli, recipe, machine, store_root) -> None:
    result = cli("realise", "--keep-going", recipe(LATE, first=FIRST), env=machine())
    assert result.exit_code == 4
    assert list((store_root / "store").glob("*-first"))


def test_a_result_may_be_taken_over_where_it_could_not_be_built(cli, recipe, machine) -> None:
    built = cli("realise", recipe(LATE, first=FIRST.format("one")), env=machine(H200()))
    assert built.exit_code == 0, built.stderr
    again = cli("realise", recipe(LATE, first=FIRST.format("two")), env={"HERMETIC_TEST_GPUS": ""})
    assert again.exit_code == 0, again.stderr
    assert "adopted" in again.stderr


def test_keys_are_known_without_a_gpu(cli, recipe, machine) -> None:
    name = recipe(ENGINE)
    without = cli("path", name, env={"HERMETIC_TEST_GPUS": ""})
    assert without.exit_code == 0, without.stderr
    assert cli("path", name, env=machine(H200())).stdout == without.stdout


def test_every_gpu_has_keys_of_its_own(cli, recipe) -> None:
    gpus = ('Gpu("NVIDIA H200")', 'Gpu("NVIDIA H100 80GB HBM3")', 'Gpu("NVIDIA H200", count=2)', "None")
    paths = {cli("path", recipe(f'engine = Script("look.py", environment=env, gpu={gpu})\n')).stdout for gpu in gpus}
    assert len(paths) == len(gpus)


def test_another_product_of_the_same_sm_is_refused_naming_both(cli, recipe, machine) -> None:
    result = cli("realise", recipe(ENGINE), env=machine(H100()))
    assert result.exit_code == 4
    assert "environment/gpu-mismatch" in result.stderr
    assert "NVIDIA H200 (140 GiB, sm 9.0)" in result.stderr
    assert "NVIDIA H100 80GB HBM3 (80 GiB, sm 9.0)" in result.stderr


def test_what_cuda_finds_inside_is_what_counts(cli, recipe, machine, store_root) -> None:
    result = cli("realise", recipe(ENGINE), env=machine(H200(), inside=[H100()]))
    assert result.exit_code == 4
    assert "environment/gpu-mismatch" in result.stderr
    assert "inside its sandbox there is NVIDIA H100" in result.stderr
    assert not list((store_root / "store").glob("*-engine"))


def test_a_driver_that_does_not_work_inside_is_an_error_of_its_own(cli, recipe, machine) -> None:
    result = cli("realise", recipe(ENGINE), env=machine(H200(), inside=[]))
    assert "environment/gpu-driver" in result.stderr
    assert "CUDA_ERROR_NO_DEVICE" in result.stderr


def test_a_portable_stage_takes_any_product_under_one_key(cli, recipe, machine) -> None:
    name = recipe('engine = Script("look.py", environment=env, gpu=Gpu(sm="9.0", portable="sm"))\n')
    result = cli("realise", name, env=machine(H100()))
    assert seen(result)["dev"] == ["nvidia-uvm", "nvidia0", "nvidiactl"]


def test_a_gpu_in_use_is_waited_for(recipe, machine, tmp_path, store_root, monkeypatch, repository) -> None:
    variables = machine(H200())
    monkeypatch.setenv("HERMETIC_GPU_LOCKS", variables["HERMETIC_GPU_LOCKS"])
    ours = lease([H200()], 1)
    assert ours is not None
    environment = os.environ | variables | {"HERMETIC_STORE": str(store_root), "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "hermetic", "realise", "--json", recipe(ENGINE)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event.get("state") == "waiting":
                assert event["because"] == "it needs 1 x NVIDIA H200 (140 GiB, sm 9.0); 1 here, in use by other stages"
                ours.release()
    assert process.returncode == 0


def test_commands_are_printed_with_the_devices(cli, recipe, machine) -> None:
    result = cli("plan", "--commands", recipe(ENGINE), env=machine(H200()))
    assert "# needs 1 x NVIDIA H200" in result.stdout
    assert "--dev-bind" in result.stdout
    elsewhere = cli("plan", "--commands", "recipe.py", env={"HERMETIC_TEST_GPUS": ""})
    assert "which this machine has not" in elsewhere.stdout


def test_an_undeclared_gpu_is_looked_for_each_time(cli, recipe, machine, tmp_path) -> None:
    name = recipe('engine = Script("look.py", environment=env, gpu=Gpu())\n')
    variables = machine(H200())
    settled = {"HERMETIC_TEST_SETTLED": "1"}
    first = cli("realise", name, env=variables | settled)
    assert first.exit_code == 0, first.stderr
    declared = cli("path", recipe(ENGINE), env=settled)
    assert declared.lines == first.lines
    recipe('engine = Script("look.py", environment=env, gpu=Gpu())\n')
    gone = cli("realise", name, env={"HERMETIC_TEST_GPUS": ""} | settled)
    assert "environment/gpu-missing" in gone.stderr
    assert "leaves open which GPU" in gone.stderr
