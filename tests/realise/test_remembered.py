"""What is answered from the evaluation cache is what an evaluation would say, and nothing that has changed is."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import hermetic
from hermetic.cli import remembered
from hermetic.realise.evaluated import evaluate
from hermetic.recipe import Memo

SETTLED = {"HERMETIC_TEST_SETTLED": "1"}
CHAIN = """
    from pathlib import Path
    import beside
    n = param("n", 1)
    extra = Path("extra").exists()
    a = Script("a.sh", environment=env, parameters={"n": n, "extra": extra, "beside": beside.VALUE})
    b = Script("b.sh", environment=env, inputs={"a": a, "data": Source("data")})
    default = b
"""
PROGRAMS = {"a": "$B cp /build/stage.json /build/out/json", "b": "$B wc -c < /build/in/a/json > /build/out/count"}


@pytest.fixture
def name(recipe, tmp_path) -> str:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("data")
    (tmp_path / "beside.py").write_text("VALUE = 1\n")
    return recipe(CHAIN, **PROGRAMS)


@pytest.fixture
def ask(cli):
    """Run a command; gives what it wrote and whether that came without an evaluation."""

    def ask(*args: str, **env: str) -> tuple[list[str], bool]:
        result = cli(*args, env=SETTLED | {"PYTHONPROFILEIMPORTTIME": "1"} | env)
        assert result.exit_code == 0, result.stderr
        said = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
        imported = [line.rpartition("|")[2].strip() for line in result.stderr.splitlines()]
        return [*result.lines, *said], not {"pydantic", "click"} & set(imported)

    return ask


def twice(ask, *args: str) -> list[str]:
    """What the same command says first with an evaluation and then without one, which must be the same."""
    first, evaluated_not = ask(*args)
    assert not evaluated_not
    assert ask(*args) == (first, True)
    return first


class TestPlan:
    def test_of_a_new_recipe(self, ask, name) -> None:
        said = twice(ask, "plan", name)
        assert [line.split()[:2] for line in said[::2]] == [["build", "a"], ["build", "b"], ["2", "of"]]

    def test_the_dry_run_is_the_same_question(self, ask, name) -> None:
        said = twice(ask, "plan", name)
        assert ask("realise", "-n", name) == (said, True)
        assert ask("build", name, "--dry-run") == (said, True)

    def test_of_what_is_in_place_after_a_realisation(self, ask, cli, name) -> None:
        path = cli("realise", name, env=SETTLED).lines[0]
        said, fast = ask("plan", name)
        assert fast
        assert (said[0].split(), said[1]) == (["in-place", "b", path], "0 of 1 stages to build")

    def test_reasons_come_from_the_store_and_so_from_the_ordinary_path(self, ask, cli, name) -> None:
        ask("plan", name, "--set", "n=2")
        cli("realise", name, env=SETTLED)
        said, fast = ask("plan", name, "--set", "n=2")
        assert not fast
        assert "changed: parameters.n" in said[1]

    def test_a_path_that_is_gone_is_planned_again(self, ask, cli, name) -> None:
        path = cli("realise", name, env=SETTLED).lines[0]
        os.rename(path, f"{path}.away")
        said, fast = ask("plan", name)
        assert not fast
        assert [line.split()[:2] for line in said[:2]] == [["in-place", "a"], ["build", "b"]]

    def test_what_another_boot_left_unsure_is_not_believed(self, ask, cli, name, store_root) -> None:
        cli("realise", name, env=SETTLED)
        (store_root / "pending" / "another-boot").mkdir()
        assert not ask("plan", name)[1]

    def test_a_newer_store_is_refused_as_ever(self, ask, cli, name, store_root) -> None:
        twice(ask, "plan", name)
        (store_root / "format").write_text("hermetic store 2\n")
        assert "store-too-new" in cli("plan", name, env=SETTLED).stderr

    def test_a_store_that_is_not_there_is_made(self, ask, name, tmp_path) -> None:
        twice(ask, "plan", name)
        said, fast = ask("plan", name, "--store", str(tmp_path / "other"))
        assert not fast
        assert said[-1] == "2 of 2 stages to build"

    def test_a_closed_pipe_is_no_error(self, ask, cli, name, store_root, tmp_path) -> None:
        twice(ask, "plan", name)
        reader, writer = os.pipe()
        os.close(reader)
        command = [os.sys.executable, "-m", "hermetic", "plan", name]
        env = os.environ | SETTLED | {"HERMETIC_STORE": str(store_root), "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, cwd=tmp_path, env=env, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"2 of 2 stages to build\n")

    def test_a_chain_longer_than_the_stack(self, ask, recipe) -> None:
        many = recipe(
            """
            last = None
            for number in range(3000):
                before = {"before": last} if last else {}
                last = Script("a.sh", name=f"s{number}", environment=env, inputs=before)
            default = last
            """,
            a="",
        )
        said = twice(ask, "plan", many)
        assert said[-1] == "3000 of 3000 stages to build"
        assert [line.split()[1] for line in said[:-1:2]] == [f"s{number}" for number in range(3000)]


def test_path_needs_no_evaluation_and_no_realisation(ask, name) -> None:
    (path,) = twice(ask, "path", name)
    assert ask("path", f"{name}#b")[0] == [path]
    assert not os.path.exists(path)


class TestExactness:
    """Each of these changes the answer, or may: so it has to be worked out."""

    @pytest.mark.parametrize("verb", ["plan", "path"])
    @pytest.mark.parametrize("change", ["recipe.py", "a.sh", "beside.py", "data/file", "data/new", "extra"])
    def test_a_file_that_the_evaluation_looked_at(self, ask, name, tmp_path, verb, change) -> None:
        before = twice(ask, verb, name)
        with open(tmp_path / change, "a") as stream:
            stream.write("# changed\n")
        after, fast = ask(verb, name)
        assert not fast
        assert (after == before) == (change in ("recipe.py", "beside.py"))  # of which only a comment has changed

    def test_a_program_that_lost_its_executable_bit(self, ask, name, tmp_path) -> None:
        before = twice(ask, "path", name)
        (tmp_path / "a.sh").chmod(0o644)
        after, fast = ask("path", name)
        assert (fast, after == before) == (False, False)

    def test_a_file_put_back_in_place_of_another(self, ask, name, tmp_path) -> None:
        twice(ask, "path", name)
        program = tmp_path / "a.sh"
        status = program.stat()
        changed = tmp_path / "other"
        changed.write_text(program.read_text().replace("json", "text"))
        changed.chmod(status.st_mode)
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
        changed.rename(program)
        assert not ask("path", name)[1]

    def test_other_parameters(self, ask, name) -> None:
        first = twice(ask, "path", name)
        second = twice(ask, "path", name, "--set", "n=2")
        assert second != first
        assert ask("path", name) == (first, True)

    def test_another_folder_has_another_recipe_of_that_name(self, ask, name, tmp_path) -> None:
        twice(ask, "path", name)
        before = os.getcwd()
        request = (name, {})
        assert remembered._asked(*request) != (os.chdir(tmp_path.parent), remembered._asked(*request))[1]
        os.chdir(before)

    def test_another_version_of_hermetic(self, name, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HERMETIC_TEST_SETTLED", "1")
        memo = Memo()
        remembered.remember(name, {}, evaluate(name, {}, memo), memo)
        assert remembered.find(name, {}) is not None
        monkeypatch.setattr(hermetic, "__version__", "0.0.0")
        with pytest.raises(FileNotFoundError):
            remembered.find(name, {})

    def test_hermetic_s_own_code_is_among_what_was_looked_at(self, name, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HERMETIC_TEST_SETTLED", "1")
        memo = Memo()
        remembered.remember(name, {}, evaluate(name, {}, memo), memo)
        looked_at = {path for path, _ in memo.observed}
        package = os.path.dirname(hermetic.__file__)
        assert {f"{package}/derivation.py", f"{package}/recipe/stage.py", f"{package}/sandbox/host.py"} <= looked_at

    def test_files_younger_than_two_seconds_are_not_believed(self, cli, name) -> None:
        for _ in range(2):
            result = cli("plan", name, env={"PYTHONPROFILEIMPORTTIME": "1"})
            assert "pydantic" in result.stderr

    @pytest.mark.parametrize("kept", [0, 7, 8, 100, 1500, -1])
    def test_a_damaged_cache_is_only_slower(self, ask, name, tmp_path, kept) -> None:
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        first, _ = ask("plan", name, **cache)
        (file,) = (tmp_path / "cache" / "hermetic" / "evaluations").iterdir()
        file.write_bytes(file.read_bytes()[:kept])
        assert ask("plan", name, **cache) == (first, False)

    @pytest.mark.parametrize("extra", [["--json"], ["--commands"], ["--set", "n"], ["--set", "=1"], ["a", "b"]])
    def test_what_only_the_ordinary_path_understands(self, cli, ask, name, extra) -> None:
        twice(ask, "plan", name)
        result = cli("plan", name, *extra, env=SETTLED | {"PYTHONPROFILEIMPORTTIME": "1"})
        assert "pydantic" in result.stderr or result.exit_code == 2
        if extra == ["--json"]:
            assert [json.loads(line)["action"] for line in result.lines] == ["build", "build"]
