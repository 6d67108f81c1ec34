"""A hanging, crashing or lying builder, through ``hermetic realise``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

BENCH = [
    "trtllm-bench",
    *("--model", "qwen3", "--model_path", "/build/in/checkpoint", "--workspace", "/build/tmp", "build"),
    *("--tp_size", "1", "--quantization", "NVFP4", "--max_seq_len", "128", "--trust_remote_code", "True"),
]
FOLDERS = '"folders": ("tmp/*-llm-workspace/tmp.engine", "tmp/qwen3/tp_1_pp_1"),'


@pytest.fixture
def workers(tmp_path: Path) -> Callable[[], list[str]]:
    """The stubborn children of this test's stand-in that are alive."""

    def living() -> list[str]:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"standin-worker" in words and str(tmp_path).encode() in words:
                found.append(name)
        return found

    return living


def last(store: Path) -> dict:
    """The newest attempt's record."""
    newest = max((store / "builds").iterdir(), key=lambda folder: folder.name.split("-")[1])
    return json.loads((newest / "record.json").read_bytes())


def built(result) -> dict:
    events = [json.loads(line) for line in result.stdout.splitlines()]
    return next(event for event in events if event.get("state") == "built")


class TestOutcomes:
    def test_a_hanging_builder_is_harvested(self, cli, recipe, store_root, workers) -> None:
        result = cli("realise", recipe("hang", ranks=2))
        assert result.exit_code == 0, result.stderr
        (path,) = result.lines
        assert sorted(os.listdir(path)) == ["config.json", "rank0.engine", "rank1.engine"]
        assert all(os.stat(f"{path}/rank{rank}.engine").st_size == 300_000 for rank in range(2))
        assert "harvested" in result.stderr
        record = last(store_root)
        assert (record["outcome"], record["status"]) == ("harvested", None)
        assert record["extra"]["harvest"]["files"]["rank0.engine"] == 300_000
        assert workers() == []

    def test_without_file_events_as_well(self, cli, recipe, repository, tmp_path) -> None:
        """Where the extra is not installed, and where events do not arrive."""
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden/watchfiles.py").write_text("raise ImportError")
        result = cli("realise", recipe("hang"), env={"PYTHONPATH": f"{tmp_path}/hidden:{repository}"})
        assert result.exit_code == 0, result.stderr
        assert "harvested" in result.stderr

    def test_a_good_builder_has_exited(self, cli, recipe, store_root) -> None:
        result = cli("realise", recipe("exit"), "--json")
        assert built(result)["outcome"] == "exited"
        assert (last(store_root)["outcome"], last(store_root)["status"]) == ("exited", 0)

    def test_a_failure_after_a_whole_engine_is_a_harvest_with_a_warning(self, cli, recipe, store_root) -> None:
        result = cli("realise", recipe("fail"), "--json")
        assert built(result)["outcome"] == "harvested"
        assert "status 1" in built(result)["warning"]
        assert last(store_root)["status"] == 1

    @pytest.mark.parametrize(
        ("behaviour", "timeout", "code", "outcome", "said"),
        [
            ("nothing", 60, 100, "exited-incomplete", "build/exited-incomplete"),
            ("crash", 60, 100, "crashed", "build/crashed"),
            ("truncate", 2, 101, "timed-out-incomplete", "timeout/timed-out-incomplete"),
            ("linger", 5, 101, "timed-out-incomplete", ".engine: open for writing by process"),
            ("slow", 2, 101, "timed-out-incomplete", "timeout/timed-out-incomplete"),
        ],
    )
    def test_what_is_not_whole_is_not_taken(
        self, cli, recipe, store_root, workers, behaviour, timeout, code, outcome, said
    ) -> None:
        result = cli("realise", recipe(behaviour, ranks=2, harvest=f'"timeout": {timeout}'))
        assert result.exit_code == code, result.stderr
        assert said in result.stderr
        assert list((store_root / "store").glob("*-engine")) == []
        assert last(store_root)["outcome"] == outcome
        assert workers() == []

    def test_wrong_options_exit_as_the_real_tool_does(self, cli, recipe, store_root) -> None:
        result = cli("realise", recipe("hang", command=["trtllm-build", "--checkpoint-dir", "/build/in/checkpoint"]))
        assert result.exit_code == 100
        assert "unrecognized arguments: --checkpoint-dir" in result.stderr
        assert last(store_root)["status"] == 2


class TestBench:
    @pytest.mark.parametrize("behaviour", ["hang", "exit"])
    def test_the_engine_comes_from_wherever_it_is(self, cli, recipe, behaviour) -> None:
        """A clean exit deletes the workspace and leaves a copy; a hang leaves the workspace only."""
        result = cli("realise", recipe(behaviour, command=BENCH, harvest=FOLDERS))
        assert result.exit_code == 0, result.stderr
        assert sorted(os.listdir(result.lines[0])) == ["config.json", "rank0.engine"]


class TestEvidence:
    def test_known_sizes(self, cli, recipe) -> None:
        result = cli("realise", recipe("hang", harvest='"complete": KnownSizes({"rank0.engine": 300000})'))
        assert result.exit_code == 0, result.stderr

    def test_a_known_size_of_a_file_that_was_filled_with_zeros_first(self, cli, recipe) -> None:
        """Its writer has closed it half-way: size, header, holders and allocation are those of a whole one."""
        sizes = '"complete": KnownSizes({"rank0.engine": 300000}), "timeout": 5'
        result = cli("realise", recipe("zeros", harvest=sizes))
        assert result.exit_code == 101, result.stderr
        assert "rank0.engine: has its size, but ends in zeros" in result.stderr

    def test_another_size_than_the_known_one(self, cli, recipe) -> None:
        wrong = '"complete": KnownSizes({"rank0.engine": 300001}), "timeout": 5'
        result = cli("realise", recipe("hang", harvest=wrong))
        assert result.exit_code == 101
        assert "has 300000 bytes of 300001" in result.stderr

    @pytest.mark.parametrize(("wanted", "timeout", "code"), [(300_000, 60, 0), (300_001, 6, 101)])
    def test_a_validator_has_the_last_word(self, cli, recipe, tmp_path, wanted, timeout, code) -> None:
        name = recipe("hang", harvest=f'"complete": Validator("load.py"), "timeout": {timeout}')
        (tmp_path / "load.py").write_text(
            "import os, sys\n"
            "print('loading')\n"
            f"sys.exit(os.stat('/build/in/artefacts/rank0.engine').st_size != {wanted})\n"
        )
        result = cli("realise", name)
        assert result.exit_code == code, result.stderr
        assert "loading" in cli("log", name).stdout

    def test_silence_is_a_limit(self, cli, recipe) -> None:
        result = cli("realise", recipe("slow", fields="silence=1,"))
        assert result.exit_code == 101
        assert "printed nothing and wrote no artefact for 1 s" in result.stderr


class TestTaking:
    def test_the_tokenizer_comes_along_and_the_config_stays(self, cli, recipe) -> None:
        result = cli("realise", recipe("hang", harvest='"take": {"checkpoint": TOKENIZER}'))
        (path,) = result.lines
        assert sorted(os.listdir(path)) == ["config.json", "rank0.engine", "tokenizer.json"]
        assert "pretrained_config" in Path(path, "config.json").read_text()

    @pytest.mark.parametrize(("asked", "code"), [("W4A8_AWQ", 0), ("NVFP4", 100)])
    def test_the_quantisation_is_the_one_asked_for(self, cli, recipe, asked, code) -> None:
        wanted = f'"config": {{"pretrained_config.quantization.quant_algo": "{asked}"}}'
        result = cli("realise", recipe("hang", harvest=wanted))
        assert result.exit_code == code, result.stderr
        assert ("build/harvest-mismatch" in result.stderr) == bool(code)

    @pytest.mark.parametrize(("floor", "code"), [("0.5", 0), ("0.9", 100)])
    def test_the_engine_is_not_too_small(self, cli, recipe, floor, code) -> None:
        result = cli("realise", recipe("hang", harvest=f'"floor": {{"checkpoint": "{floor}"}}'))
        assert result.exit_code == code, result.stderr
        assert ("build/harvest-too-small" in result.stderr) == bool(code)


def test_a_stage_without_harvest_is_stopped_for_its_silence(cli, tmp_path) -> None:
    (tmp_path / "mute.py").write_text("import time; time.sleep(600)")
    (tmp_path / "empty.lock").touch()
    (tmp_path / "recipe.py").write_text(
        "from hermetic import PythonEnv, Script\n"
        'mute = Script("mute.py", environment=PythonEnv("empty.lock"), silence=1)\n'
    )
    result = cli("realise", "recipe.py")
    assert result.exit_code == 101
    assert "timeout/stage-silent" in result.stderr


class TestKeys:
    def key(self, cli, name: str) -> str:
        result = cli("path", name)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def test_patience_is_not_in_the_key_and_evidence_is(self, cli, recipe) -> None:
        plain = self.key(cli, recipe("hang"))
        patient = '"grace": "9", "timeout": 9, "silence": 9'
        assert self.key(cli, recipe("hang", harvest=patient, fields="silence=3, timeout=4,")) == plain
        assert self.key(cli, recipe("hang", harvest='"config": {"a": 1}')) != plain

    def test_the_validator_s_bytes_are_in_the_key(self, cli, recipe, tmp_path) -> None:
        found = set()
        for text in ("pass", "raise SystemExit(1)"):
            name = recipe("hang", harvest='"complete": Validator("load.py")')
            (tmp_path / "load.py").write_text(text)
            found.add(self.key(cli, name))
        assert len(found) == 2
