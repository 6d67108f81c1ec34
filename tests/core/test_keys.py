"""P1: every input that may change the bytes is in the key, and nothing else is."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermetic.canonical import encode
from hermetic.derivation import Derivation, derive_all, resolved_key
from hermetic.digest import Key, TreeDigest, derive
from hermetic.errors import Domain, HermeticError
from hermetic.recipe import Host, Memo, PythonEnv, Recipe, Source, Stage
from hermetic.recipe.environments import Environment

LOCK = "numpy==1.0 --hash=sha256:" + "0" * 64
PLATFORM = {"system": "x86_64-linux", "cpu_isa": "x86-64-v4"}


class Make(Stage):
    kind = "test.make"
    programs = ("__init__.py",)

    source: Source | None = None
    needs: dict[str, Stage] = {}  # noqa: RUF012  # pydantic copies defaults
    size: int = 1
    mode: str = "fast"
    flags: tuple[str, ...] = ()
    table: dict[str, int] = {}  # noqa: RUF012


class MakeWithOneMoreField(Make):
    extra: str = "as before"


class MakeAnew(Make):
    version = 2


class MakeForThisProcessor(Make):
    platform = ("system", "cpu_isa")


@pytest.fixture
def environment(tmp_path: Path) -> PythonEnv:
    return PythonEnv(tmp_path / "lock.txt", text=LOCK)


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch) -> Path:
    file = tmp_path / "program.py"
    file.write_text("print()\n")
    monkeypatch.setattr(Make, "program_files", lambda self: {"program.py": str(file)})
    return file


def identify(environment: Environment) -> dict:
    if isinstance(environment, PythonEnv):
        return {"kind": "python", "lock": environment.text, "python": environment.python}
    return {"kind": "host"}


def derivation(stage: Stage, name: str = "made", *, platform=PLATFORM, identity=identify) -> Derivation:
    names = {stage: name}
    pending = [stage]
    while pending:
        for role, item in pending.pop().inputs_by_role().items():
            if isinstance(item, Stage):
                names[item] = item.name or role
                pending.append(item)
    recipe = Recipe("recipe.py", {name: stage}, names, None, {})
    pick = lambda fields: {field: platform[field] for field in fields}  # noqa: E731
    return derive_all(recipe, [stage], identify=identity, platform=pick, memo=Memo()).by_stage[stage]


def key(stage: Stage, name: str = "made", **named) -> Key:
    return derivation(stage, name, **named).key


class TestEveryInputIsInTheKey:
    @pytest.mark.parametrize(
        "change",
        [
            {"size": 2},
            {"mode": "slow"},
            {"flags": ("a",)},
            {"flags": ("a", "b")},
            {"flags": ("b", "a")},
            {"table": {"a": 1}},
            {"table": {"a": 2}},
            {"table": {"b": 1}},
        ],
    )
    def test_parameters(self, environment, change) -> None:
        keys = {key(Make(environment=environment)), key(Make(environment=environment, **change))}
        assert len(keys) == 2

    def test_parameters_differ_from_each_other(self, environment) -> None:
        made = [Make(environment=environment, flags=flags) for flags in [(), ("a",), ("a", "b"), ("b", "a"), ("ab",)]]
        assert len({key(stage) for stage in made}) == 5

    def test_the_name(self, environment) -> None:
        assert key(Make(environment=environment), "a") != key(Make(environment=environment), "b")

    def test_the_stage_s_version(self, environment) -> None:
        assert key(Make(environment=environment)) != key(MakeAnew(environment=environment))

    def test_the_program(self, environment, program) -> None:
        before = key(Make(environment=environment))
        program.write_text("print(1)\n")
        assert key(Make(environment=environment)) != before

    def test_the_environment(self, environment, tmp_path) -> None:
        made = [
            Make(environment=environment),
            Make(environment=PythonEnv(tmp_path / "lock.txt", text=LOCK + " ")),
            Make(environment=PythonEnv(tmp_path / "lock.txt", text=LOCK, python="3.12")),
            Make(environment=Host(paths=("/bin/sh",))),
        ]
        assert len({key(stage) for stage in made}) == 4

    def test_a_source_by_content_and_executable_bit(self, environment, tmp_path) -> None:
        file = tmp_path / "data"
        keys = set()
        for text, mode in [("one", 0o644), ("two", 0o644), ("two", 0o755)]:
            file.write_text(text)
            file.chmod(mode)
            keys.add(key(Make(environment=environment, source=Source(file))))
        assert len(keys) == 3

    def test_a_built_input_by_its_key(self, environment) -> None:
        def chain(size: int) -> Stage:
            return Make(environment=environment, needs={"a": Make(environment=environment, size=size)})

        assert key(chain(1)) != key(chain(2))

    def test_the_role_of_an_input(self, environment) -> None:
        inner = Make(environment=environment, name="inner")
        one = Make(environment=environment, needs={"a": inner})
        other = Make(environment=environment, needs={"b": inner})
        assert key(one) != key(other)

    def test_the_platform_fields_that_the_stage_declares(self, environment) -> None:
        stage = MakeForThisProcessor(environment=environment)
        assert key(stage) != key(stage, platform={**PLATFORM, "cpu_isa": "x86-64-v3"})


class TestNothingElseIs:
    @pytest.mark.parametrize("field", ["cores", "memory_mb", "processes", "disk_mb", "shm_mb", "timeout", "silence"])
    def test_what_a_stage_may_use(self, environment, field) -> None:
        assert key(Make(environment=environment)) == key(Make(environment=environment, **{field: 9}))

    def test_that_it_is_a_check(self, environment) -> None:
        assert key(Make(environment=environment)) == key(Make(environment=environment, check=True))

    def test_a_new_field_at_its_default(self, environment) -> None:
        assert key(Make(environment=environment, size=3)) == key(MakeWithOneMoreField(environment=environment, size=3))

    def test_a_default_given_explicitly(self, environment) -> None:
        assert key(Make(environment=environment)) == key(Make(environment=environment, size=1, mode="fast"))

    def test_platform_fields_that_the_stage_does_not_declare(self, environment) -> None:
        stage = Make(environment=environment)
        assert key(stage) == key(stage, platform={**PLATFORM, "cpu_isa": "x86-64-v1"})

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
    @given(table=st.dictionaries(st.text(min_size=1), st.integers(0, 9), min_size=2), random=st.randoms())
    def test_the_order_of_a_table(self, environment, table, random) -> None:
        names = list(table)
        random.shuffle(names)
        shuffled = {name: table[name] for name in names}
        assert key(Make(environment=environment, table=table)) == key(Make(environment=environment, table=shuffled))

    def test_where_a_source_lies_and_when_it_was_touched(self, environment, tmp_path) -> None:
        keys = set()
        for name in ("one", "two"):
            file = tmp_path / name / f"{name}.txt"
            file.parent.mkdir()
            file.write_text("same")
            os.utime(file, (len(keys), len(keys)))
            keys.add(key(Make(environment=environment, source=Source(file))))
        assert len(keys) == 1


class TestResolvedKey:
    """The same preimage without the name and with every input replaced by the tree digest it really produced."""

    TREE = TreeDigest("1" * 64)

    def test_inputs_with_equal_output_give_equal_resolved_keys(self, environment) -> None:
        made = [Make(environment=environment, needs={"a": Make(environment=environment, size=size)}) for size in (1, 2)]
        keys = {resolved_key(derivation(stage, str(place)), {"needs.a": self.TREE}) for place, stage in enumerate(made)}
        assert len(keys) == 1

    def test_other_output_gives_another_resolved_key(self, environment) -> None:
        stage = derivation(Make(environment=environment, needs={"a": Make(environment=environment)}))
        other = resolved_key(stage, {"needs.a": TreeDigest("2" * 64)})
        assert resolved_key(stage, {"needs.a": self.TREE}) != other


def test_a_cycle_is_named(environment) -> None:
    from hermetic.recipe import Script

    inner = Script(Source(__file__), environment=environment)
    outer = Script(Source(__file__), environment=environment, inputs={"a": inner})
    inner.inputs["b"] = outer
    recipe = Recipe("recipe.py", {"a": inner, "b": outer}, {inner: "a", outer: "b"}, None, {})
    with pytest.raises(HermeticError) as caught:
        derive_all(recipe, [outer], identify=identify, platform=lambda _: {}, memo=Memo())
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "cycle")
    assert "b → a → b" in caught.value.message


def test_a_chain_of_5000_stages_needs_no_recursion(environment) -> None:
    stage = Make(environment=environment, name="s")
    names = {stage: "s"}
    for _ in range(5000):
        stage = Make(environment=environment, needs={"a": stage}, name="s")
        names[stage] = "s"
    recipe = Recipe("recipe.py", {}, names, None, {})
    graph = derive_all(recipe, [stage], identify=identify, platform=lambda _: {}, memo=Memo())
    assert len(graph.derivations) == 5001


GOLDEN = Path(__file__).parents[1] / "golden" / "keys"


class TestGolden:
    """P7: a given preimage encodes to the same key for ever."""

    @pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)
    def test_a_preimage_keeps_its_key(self, file: Path) -> None:
        golden = json.loads(file.read_text(encoding="utf-8"))
        encoded = encode(golden["preimage"])
        assert derive(Key, "hermetic derivation v1", encoded).hex == golden["key"]

    def test_a_stage_keeps_its_preimage(self, environment, tmp_path, program) -> None:
        """What the stage classes put in is golden as well, through the one preimage that this test can rebuild."""
        golden = json.loads((GOLDEN / "stage.json").read_text(encoding="utf-8"))
        (tmp_path / "data").write_text("content\n")
        (tmp_path / "data").chmod(0o644)
        program.chmod(0o644)
        inner = Make(environment=environment, mode="slow", name="inner")
        stage = Make(environment=environment, source=Source(tmp_path / "data"), needs={"a": inner}, flags=("x", "é"))
        assert derivation(stage).preimage == golden["preimage"]
