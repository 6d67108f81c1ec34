"""``hermetic lint`` from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from truss_corpus import CORPUS

BAD = """\
resources: {accelerator: "H100:2"}
trt_llm:
  build:
    checkpoint_repository: {source: HF, repo: org/model}
    max_batch_sizee: 8
    max_seq_len: long
"""

SAID = """\
error[world-size]: config.yaml:3: trt_llm.build.tensor_parallel_count: the engine's ranks are 1 × 1 × 1 = 1, \
the accelerator's count is 2
    hint: tensor_parallel_count × pipeline_parallel_count × sequence_parallel_count must be that count
error[unknown-field]: config.yaml:5: trt_llm.build.max_batch_sizee: there is no such field
    hint: did you mean max_batch_size?
error[wrong-type]: config.yaml:6: trt_llm.build.max_seq_len: input should be a valid integer"""


def test_every_error_is_shown_with_line_field_and_hint(cli, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(BAD)
    done = cli("lint", "config.yaml")
    assert done.exit_code == 3
    assert "\n".join(done.lines[:5]) == SAID
    assert done.stderr.startswith("3 errors, ")


def test_warnings_alone_are_exit_code_0(cli) -> None:
    done = cli("lint", CORPUS / "experts-uneven.yaml")
    assert done.exit_code == 0
    assert "warning[uneven-experts]" in done.stdout


def test_json_is_one_finding_a_line(cli, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(BAD)
    found = [json.loads(line) for line in cli("lint", "config.yaml", "--json").lines]
    assert found[1] == {
        "severity": "error",
        "code": "unknown-field",
        "where": "trt_llm.build.max_batch_sizee",
        "message": "there is no such field",
        "hint": "did you mean max_batch_size?",
        "file": "config.yaml",
        "line": 5,
    }


def test_a_config_that_is_not_there_is_a_mistake_of_usage(cli) -> None:
    done = cli("lint", "nothing.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "usage/no-recipe" in done.stderr


def test_a_recipe_in_order_has_nothing_against_it(cli, repository: Path) -> None:
    done = cli("lint", repository / "recipes" / "tiny_qwen3.py")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "nothing to say\n")


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_mistakes_of_a_recipe_are_findings_too(cli, tmp_path: Path, args: tuple[str, ...]) -> None:
    (tmp_path / "recipe.py").write_text("import numpy\n")
    done = cli("lint", "recipe.py", *args)
    assert done.exit_code == 3
    assert "import-not-allowed" in done.stdout


def test_what_is_not_locked_is_a_warning_and_the_rest_is_looked_at(cli, tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(
        "from hermetic import Image, hub_snapshot\n"
        "from hermetic.llm.tensorrt_llm import Engine\n"
        "image = Image('nvcr.io/nvidia/tritonserver:24.05-trtllm-python-py3')\n"
        "engine = Engine(environment=image, release='1.2.1', checkpoint=hub_snapshot('acme/tiny'))\n"
    )
    found = [json.loads(line) for line in cli("lint", "recipe.py", "--json").lines]
    said = {(item["severity"], item["code"]) for item in found}
    assert {("error", "image-and-release"), ("warning", "not-locked")} <= said


def test_a_stage_that_reads_this_machine_is_noted(cli, tmp_path: Path) -> None:
    (tmp_path / "make.py").write_text("")
    (tmp_path / "recipe.py").write_text(
        "from hermetic import Host, Script\nit = Script('make.py', environment=Host(paths=('/bin/sh',)))\n"
    )
    done = cli("lint", "recipe.py")
    assert done.exit_code == 0
    assert done.lines[0].startswith("note[host-environment]: recipe.py:2: it: ")


def test_whoever_stops_reading_is_no_error(repository: Path) -> None:
    """``hermetic plan … | head -1``"""
    command = [sys.executable, "-m", "hermetic", "lint", str(CORPUS / "v1-all-build-fields.yaml")]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=repository, check=False)
    os.close(writing)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


def test_lint_of_a_config_loads_nothing_that_it_does_not_need() -> None:
    """Its second is for reading, not for importing what fetches and builds."""
    script = f"""
import sys
from hermetic.cli.app import run
code = run(["lint", {str(CORPUS / "v1-all-build-fields.yaml")!r}, "--json"])
needless = ("hermetic.store", "hermetic.sandbox", "hermetic.fetch", "huggingface_hub", "httpx", "rich")
print(code, [name for name in needless if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"


STAGES = """\
model_metadata: {{tags: [openai-compatible]}}
resources: {{accelerator: {accelerator}, memory: 16Gi}}
trt_llm:
  build:
    checkpoint_repository: {{source: HF, repo: Qwen/Qwen3-32B}}
    max_seq_len: 8192
"""
V2 = """\
resources: {{accelerator: {accelerator}, memory: 16Gi}}
trt_llm:
  inference_stack: v2
  build:
    checkpoint_repository: {{source: HF, repo: Qwen/Qwen3-32B}}
  runtime: {{max_seq_len: 8192}}
"""


class TestItsStages:
    """A config has the checks that a recipe has, told with its own fields."""

    @pytest.fixture
    def lint(self, cli, tmp_path: Path, repository: Path):
        shutil.copy(repository / "recipes" / "qwen3.lock.json", tmp_path / "config.lock.json")

        def run(accelerator: str, *more: str, text: str = STAGES) -> tuple[int, dict[str, dict[str, object]]]:
            (tmp_path / "config.yaml").write_text(text.format(accelerator=accelerator))
            done = cli("lint", "config.yaml", "--json", *more)
            assert "Traceback" not in done.stderr
            return done.exit_code, {found["code"]: found for found in map(json.loads, done.lines)}

        return run

    @pytest.mark.parametrize(("text", "line"), [(STAGES, 2), (V2, 1)])
    def test_weights_that_do_not_fit_into_the_accelerator(self, lint, text: str, line: int) -> None:
        code, found = lint("L4", text=text)
        said = found["does-not-fit"]
        assert (code, said["where"], said["line"]) == (3, "resources.accelerator", line)
        assert "61.0 GiB of the 24.0 GiB" in str(said["message"])
        assert said["hint"]
        assert found["not-locked"]["severity"] == "warning"

    def test_little_left_for_the_cache(self, lint) -> None:
        code, found = lint("H100")
        assert (code, found["little-cache"]["where"]) == (0, "resources.accelerator")
        assert "little-cache" not in lint("H200")[1]

    def test_another_gpu_by_hand(self, lint) -> None:
        assert "does-not-fit" not in lint("L4", "--set", "gpu=NVIDIA L4,96,8.9")[1]
        for wrong in ("NVIDIA L4,96", "NVIDIA L4"):
            code, found = lint("L4", "--set", f"gpu={wrong}")
            assert (code, found["gpu-unknown"]["severity"]) == (3, "error")

    @pytest.mark.parametrize("text", [STAGES, V2])
    def test_the_drivers_that_it_is_for(self, lint, text: str) -> None:
        code, found = lint("H200", "--set", "driver=570.86", text=text)
        assert (code, found["driver-too-old"]["where"]) == (3, "resources.accelerator")
        assert lint("H200", "--set", "driver=580.65", text=text)[0] == 0
        assert lint("H200", "--set", "driver=new", text=text)[1]["bad-driver"]["severity"] == "error"

    def test_what_no_stage_can_be_made_with_is_at_its_field(self, lint) -> None:
        text = V2.replace("max_seq_len: 8192", "max_seq_len: 8192, patch_kwargs: {{brand_new: 1}}")
        code, found = lint("H200", text=text)
        assert (code, found["stage-invalid"]["where"], found["stage-invalid"]["line"]) == (3, "trt_llm.runtime", 6)
        text = STAGES.replace("source: HF, repo: Qwen/Qwen3-32B", "source: LOCAL, repo: ./nowhere")
        code, found = lint("H200", text=text)
        assert (code, found["source-missing"]["where"]) == (3, "trt_llm.build.checkpoint_repository.repo")

    def test_what_lint_calls_an_error_is_not_planned(self, lint, cli) -> None:
        lint("L4")
        done = cli("plan", "config.yaml", "--set", "gpu=NVIDIA L4,22,8.9")
        assert done.exit_code == 3
        assert "recipe/does-not-fit" in done.stderr
