"""The smoke test as a stage in the stand-in image: what passes is published and can be asked, what fails is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.smoke import Smoke
from hermetic.llm.tensorrt_llm import Engine, Quantise
from hermetic.recipe import Gpu, Host, Source
from hermetic.sandbox import tools
from hermetic.testing.trtllm.image import StandinImage, build_image

RECIPE = """\
from hermetic import Image, Source
from hermetic.llm import tensorrt_llm
from hermetic.llm.pytorch import Manifest, PyTorchModel
from hermetic.llm.smoke import Smoke
from hermetic.llm.speculation import Lookahead
from hermetic.llm.triton import triton_repository

image = Image({reference!r})
engine = tensorrt_llm.Engine(
    environment=image, release="1.2.1", checkpoint=Source("checkpoint"), tokenizer=Source("model"),
    options={{"max_seq_len": 1024, "reduce_fusion": "enable"}},
)
smoke = Smoke(engine=engine)
drafting = tensorrt_llm.Engine(
    environment=image, release="1.2.1", checkpoint=Source("checkpoint"), tokenizer=Source("model"),
    options={{"max_seq_len": 1024, "speculative_decoding_mode": "lookahead_decoding", "max_draft_len": 83}},
    speculation=Lookahead(window=7, ngram=7, verification=7),
)
drafting_smoke = Smoke(engine=drafting)
drafting_manifest = tensorrt_llm.Manifest(engine=drafting, smoke=drafting_smoke)
manifest = tensorrt_llm.Manifest(engine=engine, smoke=smoke)
repository = triton_repository(engine, manifest=manifest)
model = PyTorchModel(
    checkpoint=Source("model"), release="1.2.1", runtime=image, options={{"guided_decoding_backend": "xgrammar"}}
)
model_smoke = Smoke(engine=model)
model_manifest = Manifest(engine=model, smoke=model_smoke)
model_repository = triton_repository(model, manifest=model_manifest)
default = manifest
"""
TINY = Path(__file__).parents[2] / "recipes" / "tiny_qwen3" / "model"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StandinImage]:
    tools.available()
    folder = tmp_path_factory.mktemp("standin")
    good, bad = ({"STANDIN_PAUSE": "0"}, {"STANDIN_PAUSE": "0", "STANDIN_ANSWERS": "repeats"})
    return {"good": build_image(folder, variables=good), "bad": build_image(folder, variables=bad)}


@pytest.fixture
def recipe(tmp_path: Path, images: dict[str, StandinImage], cli):
    (tmp_path / "checkpoint").mkdir()
    model = {"architecture": "Qwen3ForCausalLM", "dtype": "bfloat16", "mapping": {"world_size": 2, "tp_size": 2}}
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(model))
    for rank in range(2):
        (tmp_path / "checkpoint" / f"rank{rank}.safetensors").write_bytes(bytes(400_000))
    (tmp_path / "model").symlink_to(TINY)

    def made(image: str) -> str:
        (tmp_path / "recipe.py").write_text(RECIPE.format(reference=images[image].reference))
        locked = cli("lock", "recipe.py")
        assert locked.exit_code == 0, locked.stderr
        return "recipe.py"

    return made


@pytest.mark.slow
def test_what_passes_is_in_the_manifest_and_can_be_asked(recipe, cli) -> None:
    file = recipe("good")
    result = cli("realise", file)
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(Path(result.lines[0], "manifest.json").read_text())
    assert manifest["smoke"]["answers"][0]["text"].endswith("an answer of the STAND-IN.")
    engine = cli("path", f"{file}#engine").lines[0]
    inspected = json.loads(cli("inspect", engine, "--json").lines[0])
    assert inspected["asked_for"] == {"reduce_fusion": "enable"}
    assert "asked for" in cli("inspect", engine).stdout
    asked = cli("run", f"{file}#engine", "Who are you?")
    assert (asked.exit_code, asked.stdout.count("STAND-IN")) == (0, 1), asked.stderr
    assert asked.stdout == cli("run", f"{file}#engine", "Who are you?").stdout


@pytest.mark.slow
def test_one_that_drafts_tokens_is_told_how(recipe, cli) -> None:
    file = recipe("good")
    result = cli("realise", f"{file}#drafting_manifest", "--no-link")
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(Path(result.lines[0], "manifest.json").read_text())
    assert manifest["smoke"]["drafts"]["acceptance"] == "0.25"
    assert manifest["smoke"]["answers"][0]["without_drafts"]["distance"] == "0.00"
    assert [one["option"] for one in manifest["build"]["different"]] == ["max_seq_len"]  # and the longest draft
    assert "an answer of the STAND-IN." in cli("run", f"{file}#drafting", "Who are you?").stdout


@pytest.mark.slow
def test_a_checkpoint_of_the_pytorch_kind(recipe, cli) -> None:
    file = recipe("good")
    result = cli("realise", f"{file}#model")
    assert result.exit_code == 0, result.stderr
    steps = [json.loads(line) for line in cli("plan", f"{file}#model", "--json").lines]
    assert {step["action"] for step in steps} == {"in-place"}  # the smoke test is a check of it
    assert "an answer of the STAND-IN." in cli("run", f"{file}#model", "Who are you?").stdout
    published = cli("realise", f"{file}#model_repository", "--no-link")
    assert published.exit_code == 0, published.stderr
    manifest = json.loads(Path(cli("path", f"{file}#model_manifest").lines[0], "manifest.json").read_text())
    assert [answer["end"] for answer in manifest["smoke"]["answers"]] == ["end token"]
    deployment = json.loads(Path(published.lines[0], "deployment.json").read_text())
    assert deployment["engine"]["files"] == manifest["files"]


@pytest.mark.slow
def test_what_fails_is_not_published(recipe, cli) -> None:
    file = recipe("bad")
    result = cli("realise", f"{file}#repository")
    assert result.exit_code == 100
    assert "goes round in circles" in result.stderr
    steps = {
        step["stage"]: step["action"] for step in map(json.loads, cli("plan", f"{file}#repository", "--json").lines)
    }
    assert (steps["smoke"], steps["manifest"], steps["repository"]) == ("build", "build", "build")
    assert cli("realise", f"{file}#engine").exit_code == 100  # what a check refuses does not count as realised


def test_what_is_published_without_the_test_is_said(tmp_path: Path, cli) -> None:
    for name in ("checkpoint", "model"):
        (tmp_path / name).mkdir()
    reference = f"example.com/trtllm:1@sha256:{'0' * 64}"
    (tmp_path / "recipe.py").write_text(
        RECIPE.format(reference=reference)
        + "untested = tensorrt_llm.Manifest(engine=engine)\n"
        + "served = triton_repository(model)\nkept = triton_repository(model, smoke=model_smoke)\n"
    )
    found = [json.loads(line) for line in cli("lint", "recipe.py", "--json").lines]
    assert [(one["where"], one["hint"]) for one in found if one["code"] == "published-untested"] == [
        ("untested: smoke", "smoke=smoke"),
        ("served: smoke", "smoke=model_smoke"),
    ]


class TestStage:
    ENVIRONMENT = Host(paths=("/bin/sh",))

    def engine(self, **fields: object) -> Engine:
        given = {"environment": self.ENVIRONMENT, "checkpoint": Source(__file__), "release": "1.2.1"}
        return Engine(**{**given, **fields})

    def test_it_runs_where_its_engine_does(self) -> None:
        gpu = Gpu("NVIDIA H200")
        smoke = Smoke(engine=self.engine(gpu=gpu))
        assert (smoke.environment, smoke.gpu) == (self.ENVIRONMENT, gpu)

    def test_a_gpu_for_each_rank(self) -> None:
        weights = Quantise(
            environment=self.ENVIRONMENT, release="1.2.1", snapshot=Source(__file__), format="int4_wo", tp=2
        )
        one, two = Gpu("NVIDIA H200"), Gpu("NVIDIA H200", count=2)
        engine = self.engine(checkpoint=weights, gpu=one)
        assert (engine.gpu, engine.run_gpu, Smoke(engine=engine).gpu) == (one, two, two)
        with pytest.raises(HermeticError, match="2 ranks, and the test has 1 GPU"):
            Smoke(engine=engine, gpu=one)

    def test_guided_decoding_where_the_release_has_it(self) -> None:
        assert Smoke(engine=self.engine()).json_schema
        assert Smoke(engine=self.engine(release="0.15.0")).json_schema == ""

    @pytest.mark.parametrize(
        ("options", "fields", "said"),
        [
            ({"speculative_decoding_mode": "medusa", "max_draft_len": 63}, {}, "told how when it runs"),
            ({}, {"golden_tolerance": "2"}, "golden_tolerance"),
        ],
    )
    def test_what_can_not_be_tested_is_refused_when_the_recipe_is_read(self, options, fields, said: str) -> None:
        with pytest.raises(HermeticError) as caught:
            Smoke(engine=self.engine(options=options), **fields)
        assert caught.value.domain == Domain.RECIPE
        assert said in str(caught.value)

    def test_a_pytorch_model_must_say_where_it_runs(self) -> None:
        model = PyTorchModel(checkpoint=Source(__file__), release="1.2.1")
        with pytest.raises(HermeticError, match="runtime=Image"):
            Smoke(engine=model)

    def test_where_it_runs_is_not_in_a_model_s_key(self) -> None:
        plain = PyTorchModel(checkpoint=Source(__file__), release="1.2.1")
        told = PyTorchModel(checkpoint=Source(__file__), release="1.2.1", runtime=self.ENVIRONMENT)
        assert plain.parameters_in_key() == told.parameters_in_key()
        assert told.run_environment == self.ENVIRONMENT
