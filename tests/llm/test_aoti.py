"""The engine kind `aoti` on the processor: keys, and the shipped recipe through the real command, sandbox and compiler.

On a GPU it was run by hand; `docs/gpu.md` has what was seen.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from by_hand import environment_of

from hermetic.errors import HermeticError
from hermetic.llm import aoti
from hermetic.recipe import Gpu, Host, Source

ENVIRONMENT = Host(paths=("/bin/sh",))
ANSWER = (
    "A store path is an immutable folder that holds the result of one stage. "
    "Its name starts with the key, so the same inputs always lead to the same path."
)


@pytest.fixture
def model(repository: Path) -> Source:
    return Source(repository / "recipes/tiny_qwen3/model")


class TestStages:
    def test_the_device_follows_from_the_gpu_and_is_no_parameter_of_the_key(self, model) -> None:
        for gpu, device in ((None, "cpu"), (Gpu("NVIDIA H200"), "cuda")):
            stage = aoti.Engine(model=model, gpu=gpu, environment=ENVIRONMENT)
            assert stage.parameters_in_full()["device"] == device
            assert "device" not in stage.parameters_in_key()

    def test_programs_exist(self, model) -> None:
        engine = aoti.Engine(model=model, environment=ENVIRONMENT)
        stages = (engine, aoti.Tune(model=model, environment=ENVIRONMENT))
        stages += (aoti.Smoke(model=model, engine=engine, environment=ENVIRONMENT),)
        for stage in stages:
            for names in (stage.programs, stage.runner, stage.comparator):
                assert all(Path(path).is_file() for path in stage.files_of(names).values())

    def test_a_cache_is_an_input(self, model) -> None:
        tuned = aoti.Tune(model=model, environment=ENVIRONMENT)
        engine = aoti.Engine(model=model, tuned=tuned, environment=ENVIRONMENT)
        assert set(engine.inputs_by_role()) == {"model", "tuned"}


class TestToolchain:
    @pytest.fixture
    def venv(self, tmp_path: Path) -> Path:
        packages = tmp_path / "venv/lib/python3.12/site-packages"
        for name in ("torch", "triton", "jax", "torch-2.11.0.dist-info", "jax-0.1.dist-info"):
            (packages / name).mkdir(parents=True)
        (tmp_path / "venv/bin").mkdir()
        (tmp_path / "venv/bin/python3").touch()
        (tmp_path / "venv/pyvenv.cfg").write_text("home = /opt/python/bin\nversion = 3.12\n")
        return tmp_path / "venv"

    def test_what_torch_needs_and_nothing_beside_it(self, venv) -> None:
        found = aoti.toolchain(venv)
        inside = {Path(path).name for path in found.paths if path.startswith(str(venv))}
        assert inside == {"torch", "triton", "torch-2.11.0.dist-info", "pyvenv.cfg", "python3"}
        assert found.python == f"{venv}/bin/python3"

    def test_no_virtual_environment(self, tmp_path) -> None:
        with pytest.raises(HermeticError) as caught:
            aoti.toolchain(tmp_path)
        assert caught.value.reason == "no-virtual-environment"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_recipe_on_the_processor(cli, repository: Path) -> None:
    """Tuned, built, compared with the eager model and with NumPy, asked, and built again."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    venv = environment_of("models-cpu.txt").parent.parent
    asked = (repository / "recipes/aoti_qwen3.py#engine", "--set", f"torch={venv}", "--set", "gpu=none")
    built = cli("realise", *asked)
    assert built.exit_code == 0, built.stderr
    assert cli("run", *asked, "What is a store path?").stdout.strip() == ANSWER
    again = cli("realise", "--check", *asked)
    assert again.exit_code == 0, again.stdout + again.stderr
