"""An organisation's file of images: what is refused, and how another image gets in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.llm.approved_images import ApprovedImages, promote, read
from hermetic.recipe import Image
from hermetic.sandbox import tools
from hermetic.testing.trtllm.image import build_image

ONE, OTHER, THIRD = (f"sha256:{digit * 64}" for digit in "123")
FILE = f"""\
[[approved]]
reference = "example.com/release:1.2.1"

[[approved]]
reference = "example.com/pinned:1"
digest = "{ONE}"

[[testing]]
reference = "example.com/own:2"
digest = "{OTHER}"
replaces = "example.com/release:1.2.1"
"""
TEST = {"stage": "tensorrt-llm.smoke", "name": "smoke", "environment": {"kind": "image", "manifest": OTHER}}
RECIPE = """\
from hermetic import Image, Script
stage = Script("build.py", environment=Image("{reference}"))
"""
CONFIG = """\
resources: {{accelerator: {accelerator}}}
trt_llm:
  build:
    base_model: decoder
    checkpoint_repository: {{source: HF, repo: Qwen/Qwen3-8B}}
    max_seq_len: 2048
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "images.toml").write_text(FILE)
    return tmp_path / "images.toml"


def judged(approved: ApprovedImages, reference: str, digest: str) -> str:
    found = approved.judge(Image(f"{reference}@{ONE}").model_copy(update={"reference": reference, "digest": digest}))
    return found.code if found is not None else ""


class TestJudgement:
    @pytest.mark.parametrize(
        ("reference", "digest", "code"),
        [
            ("example.com/release:1.2.1", ONE, ""),
            ("example.com/pinned:1", ONE, ""),
            ("mirror.example.org/pinned:1", ONE, ""),
            ("example.com/pinned:1", THIRD, "image-not-approved"),
            ("example.com/release:1.2.0", THIRD, "image-not-approved"),
            ("example.com/own:2", OTHER, "image-in-test"),
            ("example.com/pinned:1", "", ""),  # not locked yet, which is said elsewhere
            ("example.com/pinned:2", "", "image-not-approved"),
        ],
    )
    def test_of(self, file: Path, reference: str, digest: str, code: str) -> None:
        assert judged(read(str(file)), reference, digest) == code

    def test_what_is_promoted_is_approved_and_takes_the_place_of_another(self, file: Path) -> None:
        promote(read(str(file)), "example.com/own:2", TEST, "abc")
        approved = read(str(file))
        assert judged(approved, "example.com/own:2", OTHER) == ""
        assert judged(approved, "example.com/release:1.2.1", ONE) == "image-replaced"
        assert file.read_text().startswith(FILE)
        assert 'tested = "abc"' in file.read_text()


class TestPromotion:
    @pytest.mark.parametrize(
        "changes",
        [{"stage": "tensorrt-llm.engine"}, {"environment": {"kind": "image", "manifest": ONE}}, {"environment": {}}],
    )
    def test_only_a_smoke_test_in_that_image_will_do(self, file: Path, changes: dict[str, object]) -> None:
        with pytest.raises(HermeticError) as caught:
            promote(read(str(file)), "example.com/own:2", TEST | changes, "abc")
        assert (caught.value.domain, caught.value.reason) == (Domain.TRUST, "not-a-test")
        assert file.read_text() == FILE

    def test_what_is_not_in_test_is_not_promoted(self, file: Path) -> None:
        with pytest.raises(HermeticError) as caught:
            promote(read(str(file)), "example.com/pinned:1", TEST, "abc")
        assert caught.value.reason == "image-not-in-test"


@pytest.mark.parametrize(
    "text",
    [
        "[[aproved]]\nreference = 'a:1'\n",
        "[[approved]]\n",
        "[[approved]]\nreference = 'a:1@sha256:00'\n",
        "[[approved]]\nreference = 'a:1'\ndigest = 'sha256:12'\n",
        "[[testing]]\nreference = 'a:1'\n",
        f"[[promoted]]\nreference = 'a:1'\ndigest = '{ONE}'\ntested = 'x'\n",
        "approved = 3\n",
        "[[",
    ],
)
def test_a_file_that_can_not_be_meant(tmp_path: Path, text: str) -> None:
    (tmp_path / "images.toml").write_text(text)
    with pytest.raises(HermeticError) as caught:
        read(str(tmp_path / "images.toml"))
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, "bad-approved-images")


class TestCommands:
    def write(self, folder: Path, reference: str) -> dict[str, str]:
        (folder / "images.toml").write_text(FILE)
        (folder / "build.py").write_text("")
        (folder / "recipe.py").write_text(RECIPE.format(reference=reference))
        return {"HERMETIC_IMAGES": "images.toml"}

    @pytest.mark.parametrize(
        ("reference", "code", "severity", "found"),
        [
            (f"example.com/pinned:1@{ONE}", 0, None, None),
            (f"example.com/own:2@{OTHER}", 0, "warning", "image-in-test"),
            (f"example.com/other:2@{THIRD}", 3, "error", "image-not-approved"),
        ],
    )
    def test_lint(self, tmp_path: Path, cli, reference: str, code: int, severity: str, found: str) -> None:
        result = cli("lint", "recipe.py", "--json", env=self.write(tmp_path, reference))
        said = [(one["severity"], one["code"]) for one in map(json.loads, result.lines)]
        assert (result.exit_code, said) == (code, [(severity, found)] if found else [])

    @pytest.mark.parametrize("verb", [("realise",), ("realise", "-n"), ("shell",), ("run",), ("nix", "export")])
    @pytest.mark.parametrize("reference", [f"example.com/own:2@{OTHER}", f"example.com/other:2@{THIRD}"])
    def test_what_builds_refuses(self, tmp_path: Path, cli, verb: tuple[str, ...], reference: str) -> None:
        more = ("prompt",) if verb == ("run",) else ()
        result = cli(*verb, "recipe.py", *more, env=self.write(tmp_path, reference))
        assert result.exit_code == 5
        assert "hermetic image " in result.stderr
        assert not (tmp_path / "recipe.nix.json").exists()

    def test_a_plan_refuses_what_no_build_may_use_and_says_what_a_test_may(self, tmp_path: Path, cli) -> None:
        env = self.write(tmp_path, f"example.com/other:2@{THIRD}")
        assert cli("plan", "recipe.py").exit_code == 0  # and is remembered
        assert cli("plan", "recipe.py", env=env).exit_code == 5
        assert cli("plan", "--commands", "recipe.py", env=env).exit_code == 5
        result = cli("plan", "recipe.py", env=self.write(tmp_path, f"example.com/own:2@{OTHER}"))
        assert (result.exit_code, "is in test" in result.stderr) == (0, True)

    @pytest.mark.parametrize(
        ("accelerator", "given", "severity", "found"),
        [
            ("H100", f"example.com/pinned:1@{ONE}", None, None),
            ("H100", f"example.com/own:2@{OTHER}", "warning", "image-in-test"),
            ("H100", f"example.com/other:2@{THIRD}", "error", "image-not-approved"),
            ("L4", f"example.com/other:2@{THIRD}", "error", "image-not-approved"),  # its name is not known
        ],
    )
    def test_lint_of_a_config(
        self, tmp_path: Path, cli, accelerator: str, given: str, severity: str, found: str
    ) -> None:
        env = self.write(tmp_path, "a:1")
        (tmp_path / "config.yaml").write_text(CONFIG.format(accelerator=accelerator))
        result = cli("lint", "config.yaml", "--json", "--set", f"image={given}", env=env)
        said = [(one["severity"], one["code"]) for one in map(json.loads, result.lines) if one["code"].startswith("im")]
        assert (result.exit_code, said) == (3 if severity == "error" else 0, [(severity, found)] if found else [])

    def test_the_list(self, tmp_path: Path, cli) -> None:
        result = cli("image", "list", "--json", env=self.write(tmp_path, "a:1"))
        assert [json.loads(line)["state"] for line in result.lines] == ["approved", "approved", "testing"]

    def test_without_a_file_there_is_nothing_to_list(self, cli) -> None:
        result = cli("image", "list")
        assert (result.exit_code, "no-approved-images" in result.stderr) == (2, True)


def test_the_file_that_lies_beside_the_recipes(cli) -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    env = {"HERMETIC_IMAGES": str(recipes / "approved-images.toml")}
    result = cli("lint", recipes / "qwen3.py", "--json", env=env)
    assert (result.exit_code, {json.loads(line)["severity"] for line in result.lines}) == (0, {"note"})


@pytest.mark.slow
def test_from_a_test_build_to_an_approved_image(tmp_path: Path, cli) -> None:
    tools.available()
    image = build_image(tmp_path / "image", variables={"STANDIN_PAUSE": "0"})
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"architecture": "Qwen3ForCausalLM", "dtype": "bfloat16"}')
    (tmp_path / "checkpoint" / "tokenizer.json").write_text("{}")
    (tmp_path / "checkpoint" / "rank0.safetensors").write_bytes(bytes(1000))
    (tmp_path / "recipe.py").write_text(
        "from hermetic import Image, Source\nfrom hermetic.llm import smoke as test, tensorrt_llm\n"
        f"checkpoint, image = Source('checkpoint'), Image({image.reference!r})\n"
        "engine = tensorrt_llm.Engine(\n"
        "    environment=image, release='1.2.1', checkpoint=checkpoint, tokenizer=checkpoint)\n"
        "smoke = test.Smoke(engine=engine)\nmanifest = tensorrt_llm.Manifest(engine=engine, smoke=smoke)\n"
    )
    listed = f'[[testing]]\nreference = {image.reference!r}\ndigest = "{image.digest}"\n'
    (tmp_path / "images.toml").write_text(listed)
    env = {"HERMETIC_IMAGES": "images.toml"}
    assert cli("lock", "recipe.py").exit_code == 0
    assert "image-in-test" in cli("realise", "recipe.py#smoke", env=env).stderr
    tested = cli("realise", "--test-images", "recipe.py#smoke", env=env)
    assert tested.exit_code == 0, tested.stderr
    engine = cli("path", "recipe.py#engine").lines[0]
    assert cli("image", "promote", image.reference, engine, env=env).exit_code == 5
    promoted = cli("image", "promote", image.reference, tested.lines[0], env=env)
    assert promoted.exit_code == 0, promoted.stderr
    assert cli("lint", "recipe.py", env=env).exit_code == 0
    published = cli("realise", "recipe.py#manifest", env=env)
    assert published.exit_code == 0, published.stderr
