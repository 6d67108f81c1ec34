"""Option tables by version, and what a wrong command line should have been."""

import json
import shlex
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.llm.trtllm import check_values, parse, table
from hermetic.llm.trtllm.options import UNKNOWN
from hermetic.testing.trtllm.tables import options_json

FOLDER = Path(__file__).parents[2] / "hermetic" / "llm" / "trtllm"
#: The command of the published build guide, with its five mistakes.
GUIDE = (
    "--checkpoint-dir X --output-dir Y --use_paged_context_fmha enable --kv_cache_type paged --kv_cache_precision fp8 "
    "--tokens_per_block 32 --max_batch_size 4 --max_input_tokens 4096 --max_output_tokens 1024"
)
RIGHT = (
    "--checkpoint_dir X --output_dir Y --use_paged_context_fmha enable --kv_cache_type paged "
    "--tokens_per_block 32 --max_batch_size 4 --max_input_len 4096 --max_seq_len 5120"
)


def build(version: str = "1.2.1"):
    return table("trtllm-build", version)


def found(line: str, version: str = "1.2.1") -> list[tuple[str, str, str]]:
    return [(f.severity.value, f.code, f.where) for f in parse(shlex.split(line), build(version)).findings]


class TestTheGuide:
    def test_its_five_findings_and_the_right_command(self) -> None:
        parsed = parse(shlex.split(GUIDE), build())
        wrong = [
            "--checkpoint-dir",
            "--output-dir",
            "--kv_cache_precision",
            "--max_input_tokens",
            "--max_output_tokens",
        ]
        assert [finding.where for finding in parsed.findings] == wrong
        assert {finding.severity.value for finding in parsed.findings} == {"error"}
        assert shlex.join(parsed.corrected) == RIGHT

    def test_what_is_put_right_is_right(self) -> None:
        assert found(RIGHT) == []
        assert parse(shlex.split(RIGHT), build()).corrected == shlex.split(RIGHT)

    def test_an_older_version_lacks_one_more(self) -> None:
        assert ("error", "option-not-in-version", "--kv_cache_type") in found(GUIDE, "0.12.0")
        assert "--paged_kv_cache enable" in shlex.join(parse(shlex.split(GUIDE), build("0.12.0")).corrected)


SCRIPT = """\
#!/bin/bash
# trtllm-build --nonsense
docker run --rm image bash -lc "trtllm-build --checkpoint-dir a --max_batch_size $N > log && echo done"
trtllm-build \\
  --checkpoint_dir "${{WORK}}/checkpoint" \\
  --max_input_tokens 4096; echo trtllm-build
python3 {folder}/quantize.py --model_dir X --calib-size 5 # --more
trtllm-bench --model m build --tp_size 2 --no_such 1
trtllm-bench --model m throughput --no_such 1
echo "an open quotation around trtllm-build
"
"""


class TestScripts:
    """A shell script's own command lines, from the command line."""

    @pytest.fixture
    def lint(self, cli, tmp_path: Path):
        def run(text: str, *more: str):
            (tmp_path / "build.sh").write_text(text)
            done = cli("lint", "build.sh", "--json", *more)
            return done, [json.loads(line) for line in done.lines]

        return run

    def test_each_call_with_its_line_and_put_right(self, lint) -> None:
        done, said = lint(SCRIPT.format(folder="examples/quantization"))
        assert done.exit_code == 3
        assert [(one["line"], one["code"], one["where"]) for one in said] == [
            (3, "unknown-option", "--checkpoint-dir"),
            (3, "corrected", "trtllm-build"),
            (4, "unknown-option", "--max_input_tokens"),
            (4, "corrected", "trtllm-build"),
            (7, "unknown-option", "--calib-size"),
            (7, "corrected", "quantize.py"),
            (8, "unknown-option", "--no_such"),
            (8, "corrected", "trtllm-bench build"),
        ]
        right = [one["message"] for one in said if one["code"] == "corrected"]
        assert right[0] == 'trtllm-build --checkpoint_dir a --max_batch_size "$N"'
        assert right[1] == 'trtllm-build --checkpoint_dir "${WORK}/checkpoint" --max_input_len 4096'

    def test_the_guide_s_line_against_two_releases(self, lint) -> None:
        assert [one["code"] for one in lint(f"trtllm-build {GUIDE}")[1]] == [*["unknown-option"] * 5, "corrected"]
        older = lint(f"trtllm-build {GUIDE}", "--set", "release=0.12.0")[1]
        assert "option-not-in-version" in {one["code"] for one in older}
        assert lint(f"trtllm-build {RIGHT}")[0].exit_code == 0

    def test_what_cannot_be_asked(self, lint, cli) -> None:
        done, said = lint("echo hello")
        assert (done.exit_code, [one["code"] for one in said]) == (0, ["nothing-to-check"])
        assert "[recipe/unknown-version]" in lint(f"trtllm-build {GUIDE}", "--set", "release=9.9")[0].stderr
        assert "[usage/unknown-parameter]" in lint("echo hello", "--set", "image=x")[0].stderr
        assert "[usage/no-recipe]" in cli("lint", "nothing.sh").stderr


class TestVersions:
    @pytest.mark.parametrize(
        ("option", "has", "lacks", "unsure"),
        [
            ("--kv_cache_type", "0.13.0", "0.12.0", None),
            ("--enable_xqa", "0.15.0", "0.16.0", None),
            ("--lookup_plugin", "0.13.0", "0.16.0", "0.14.0"),
            ("--auto_parallel", "1.0.0", "1.1.0", None),
            ("--fuse_fp4_quant", "0.20.0", "0.16.0", "0.18.2"),
            ("--monitor_memory", "0.16.0", "0.13.0", "0.15.0"),
        ],
    )
    def test_presence(self, option: str, has: str, lacks: str, unsure: str | None) -> None:
        presence = {version: build(version).find(option).presence for version in (has, lacks, unsure) if version}
        assert presence == {has: "yes", lacks: "no"} | ({unsure: "unknown"} if unsure else {})

    @pytest.mark.parametrize(
        ("option", "version", "default"),
        [
            ("--max_batch_size", "0.13.0", 256),
            ("--max_batch_size", "0.14.0", 2048),
            ("--tokens_per_block", "0.16.0", 64),
            ("--tokens_per_block", "0.20.0", UNKNOWN),
            ("--tokens_per_block", "1.2.1", 32),
            ("--use_paged_context_fmha", "0.16.0", "disable"),
            ("--use_paged_context_fmha", "0.21.0", "enable"),
            ("--max_seq_len", "1.2.1", None),
            ("--strip_plan", "1.2.1", False),
        ],
    )
    def test_defaults(self, option: str, version: str, default: object) -> None:
        assert build(version).find(option).default == default

    def test_an_option_nobody_looked_for_is_a_warning(self) -> None:
        assert found("--fuse_fp4_quant enable", "0.18.2") == [("warning", "unsure-option", "--fuse_fp4_quant")]

    @pytest.mark.parametrize("version", ["1.3.0rc22", "1.4.0", "9", "", "1.2", "0.11.0"])
    def test_versions_without_a_table(self, version: str) -> None:
        with pytest.raises(HermeticError) as caught:
            build(version)
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "unknown-version")
        if version.startswith(("1.3", "1.4")):
            assert "1.3.0rc20" in (caught.value.hint or "")


class TestValues:
    @pytest.mark.parametrize(
        ("line", "code"),
        [
            ("--max_batch_size four", "wrong-value"),
            ("--max_batch_size", "wrong-value"),
            ("--max_batch_size 1 2", "wrong-value"),
            ("--kv_cache_type linear", "wrong-value"),
            ("--strip_plan yes", "wrong-value"),
            ("stray --strip_plan", "stray-word"),
            ("--max_batch_siez 4", "unknown-option"),
            ("--tp_size 2", "unknown-option"),
        ],
    )
    def test_errors(self, line: str, code: str) -> None:
        assert [found_code for _, found_code, _ in found(line)] == [code]

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            ("--max_input 4096", "abbreviated-option"),
            ("--paged_kv_cache enable", "deprecated-option"),
            ("--max_batch_size 4 --max_batch_size 8", "repeated-option"),
        ],
    )
    def test_warnings(self, line: str, code: str) -> None:
        assert [(severity, code) for severity, code, _ in found(line)] == [("warning", code)]

    @pytest.mark.parametrize(
        ("line", "values"),
        [
            ("--max_batch_size=4", {"max_batch_size": 4}),
            ("--max_decoder_seq_len 512", {"max_seq_len": 512}),
            ("--kv_cache_type PAGED", {"kv_cache_type": "paged"}),
            ("--strip_plan", {"strip_plan": True}),
            ("--lora_dir a b", {"lora_dir": ["a", "b"]}),
            ("--opt_num_tokens -1", {"opt_num_tokens": -1}),
        ],
    )
    def test_all_spellings_are_one(self, line: str, values: dict[str, object]) -> None:
        assert parse(shlex.split(line), build()).values == values

    def test_a_recipe_s_values(self) -> None:
        given = {"max-batch-size": 4, "use_paged_context_fmha": True, "strip_plan": False, "lora_dir": ["a"]}
        parsed = check_values(given, build())
        assert parsed.values == {
            "max_batch_size": 4, "use_paged_context_fmha": "enable", "strip_plan": False, "lora_dir": ["a"]
        }  # fmt: skip
        assert parsed.findings == []


class TestBench:
    def test_a_value_is_wanted_where_one_looks_like_a_flag(self) -> None:
        bench = table("trtllm-bench build", "1.2.1")
        assert parse(["--trust_remote_code", "True"], bench).values == {"trust_remote_code": "True"}
        assert parse(["--trust_remote_code"], bench).findings[0].code == "wrong-value"

    def test_nvfp4_came_later(self) -> None:
        assert parse(["-q", "NVFP4"], table("trtllm-bench build", "0.16.0")).findings[0].code == "wrong-value"
        assert parse(["-q", "NVFP4"], table("trtllm-bench build", "0.17.0")).values == {"quantization": "NVFP4"}


@pytest.mark.parametrize("name", ["trtllm-build.json", "trtllm-bench-build.json"])
def test_the_tables_themselves(name: str) -> None:
    document = json.loads((FOLDER / name).read_text())
    spellings = [spelling for row in document["options"] for spelling in row["names"]]
    assert len(spellings) == len(set(spellings))
    assert not set(spellings) & {spelling for row in document["never"] for spelling in row["names"]}
    assert document["sources"]
    for version in document["versions"]:
        for option in table(document["tool"], version).options:
            if option.presence != "no" and option.default not in (None, UNKNOWN):
                option.read(option.default)


def test_the_stand_in_takes_what_the_table_says() -> None:
    standin = json.loads(options_json())
    here = {spelling for option in build().options if option.presence == "yes" for spelling in option.spellings}
    assert {spelling for row in standin["trtllm-build"] for spelling in row["names"]} == here
