"""Fixed outputs in recipes and in keys: what the lock file says they are, and nothing else."""

import json
from pathlib import Path

import pytest

from hermetic.derivation import derive_all, derive_fixed, entry_digest
from hermetic.errors import HermeticError
from hermetic.recipe import FixedOutput, Host, Memo, Script, hub_snapshot, load, remote
from hermetic.recipe.lockfile import FORMAT, FixedEntry, LockedFile, LockFile
from hermetic.recipe.pins import locking

COMMIT = "a" * 40
GOLDEN = Path(__file__).parents[1] / "golden" / "keys"
RECIPE = """
    from hermetic import Host, Script, hub_snapshot
    weights = hub_snapshot("acme/tiny"{options})
    made = Script("make.sh", environment=Host(paths=("/bin/sh",)), inputs={{"model": weights}})
"""


def entry(**files: str) -> FixedEntry:
    """Files by name, given as the one digit that their sha256 repeats."""
    named = {name.replace("_dot_", "."): LockedFile(size=3, sha256=digit * 64) for name, digit in files.items()}
    return FixedEntry(commit=COMMIT, files=named, source="https://hub.example.com/acme/tiny")


def fixed(found: FixedEntry, **options: object) -> FixedOutput:
    return FixedOutput("hf://acme/tiny@main", entry=found, **options)


def keys(*outputs: FixedOutput, write) -> set[str]:
    """The keys of a stage that differs only in which of `outputs` it reads."""
    recipe = write("", make_dot_sh="")
    program = recipe.replace("recipe.py", "make.sh")
    stages = [Script(program, environment=Host(paths=("/bin/sh",)), inputs={"model": item}) for item in outputs]

    def key(stage: Script) -> str:
        from hermetic.recipe import Recipe

        names = {stage: "made"}
        graph = derive_all(
            Recipe("recipe.py", {"made": stage}, names, None, {}),
            [stage],
            identify=lambda _: {"kind": "host"},
            platform=lambda _: {},
            memo=Memo(),
        )
        return graph.by_stage[stage].key.hex

    return {key(stage) for stage in stages}


@pytest.fixture
def locked(write):
    """Write the recipe and a lock file with one entry; returns the recipe's path."""

    def locked(document: dict | None, options: str = "") -> str:
        recipe = write(RECIPE.format(options=options), make_dot_sh="")
        if document is not None:
            lock = {"format": FORMAT, "fixed": {"hf://acme/tiny@main": document}}
            with open(recipe.replace(".py", ".lock.json"), "w") as stream:
                json.dump(lock, stream)
        return recipe

    return locked


def reason(recipe: str) -> str:
    with pytest.raises(HermeticError) as caught:
        load(recipe)
    return f"{caught.value.domain.value}/{caught.value.reason}"


class TestKeys:
    def test_names_sizes_and_contents_are_in_the_key(self, write) -> None:
        files = [entry(a="1"), entry(a="2"), entry(b="1"), entry(a="1", b="1")]
        larger = FixedEntry(files={"a": LockedFile(size=4, sha256="1" * 64)})
        assert len(keys(*(fixed(item) for item in [*files, larger]), write=write)) == 5

    def test_where_it_comes_from_is_not(self, write) -> None:
        found = entry(a="1")
        elsewhere = found.model_copy(
            update={"commit": "b" * 40, "source": "https://mirror.example.com", "licence": "mit"}
        )
        same = [
            fixed(found),
            fixed(elsewhere),
            fixed(found, secret="another"),
            fixed(found, check=False),
            FixedOutput("s3://bucket/tiny/", entry=found),
        ]
        assert len(keys(*same, write=write)) == 1

    def test_who_vouches_for_a_hash_is_not(self, write) -> None:
        by = [LockedFile(size=3, sha256="1" * 64, origin=origin) for origin in ("hub", "fetched")]
        assert len(keys(*(fixed(FixedEntry(files={"a": file})) for file in by), write=write)) == 1

    def test_only_what_the_patterns_choose_is(self, write) -> None:
        both = entry(a_dot_json="1", b_dot_bin="2")
        outputs = [
            fixed(both, allow=("*.json",)),
            fixed(both, ignore=("*.bin",)),
            fixed(entry(a_dot_json="1")),
            fixed(entry(a_dot_json="1", b_dot_bin="3"), allow=("*.json",)),
        ]
        assert len(keys(*outputs, write=write)) == 1

    def test_one_file_is_not_a_folder_with_one_file(self, write) -> None:
        assert len(keys(fixed(entry(a="1")), fixed(entry(a="1")).file("a"), write=write)) == 2

    def test_an_accepted_licence_is_a_file_of_it(self, write) -> None:
        found = entry(a="1").model_copy(update={"licence": "llama3.1"})
        assert len(keys(fixed(entry(a="1")), fixed(found, accepted="llama3.1"), write=write)) == 2

    def test_golden(self) -> None:
        """P7, of the two preimages that a fixed output gives: its own, and what stands for it in a stage's."""
        golden = json.loads((GOLDEN / "fixed.json").read_text(encoding="utf-8"))
        found = entry(config_dot_json="1", model_dot_safetensors="2").model_copy(update={"licence": "llama3.1"})
        item = fixed(found, accepted="llama3.1")
        assert derive_fixed(item).preimage == golden["preimage"]
        assert derive_fixed(item).key.hex == golden["key"]
        assert entry_digest(item).hex == golden["entry"]


class TestRecipes:
    def test_a_locked_one_needs_no_download_for_its_key(self, locked) -> None:
        recipe = load(locked(entry(a="1").document()))
        assert recipe.select("weights") is recipe.fixed["weights"]
        assert recipe.fixed["weights"].size == 3

    def test_one_that_is_not_locked_names_line_and_command(self, locked) -> None:
        with pytest.raises(HermeticError) as caught:
            load(recipe := locked(None))
        assert (caught.value.domain.value, caught.value.reason) == ("recipe", "not-locked")
        assert ":3: hf://acme/tiny@main" in caught.value.message
        assert caught.value.hint == f"hermetic lock {recipe}"

    def test_who_writes_the_lock_file_may_evaluate_without(self, locked) -> None:
        with locking():
            assert load(locked(None)).fixed["weights"].entry is None

    def test_unresolved(self, locked) -> None:
        assert reason(locked({"unresolved": "no answer"})) == "recipe/unresolved"

    def test_a_wanted_file_without_a_hash_is_not_locked(self, locked) -> None:
        half = {"files": {"a.json": {"size": 3, "git": "0" * 40}, "b.bin": {"size": 3, "sha256": "1" * 64}}}
        assert reason(locked(half)) == "recipe/not-locked"
        assert load(locked(half, ', ignore="*.json"')).fixed["weights"].size == 3

    def test_patterns_that_choose_nothing(self, locked) -> None:
        assert reason(locked(entry(a="1").document(), ', allow="*.safetensors"')) == "recipe/no-such-file"

    def test_a_folder_pattern_is_all_below_it(self) -> None:
        found = fixed(entry(**{"original/a": "1", "b": "2"}), ignore="original/")
        assert list(found.wanted) == ["b"]

    @pytest.mark.parametrize(
        ("stated", "options", "expected"),
        [
            ({"licence": "apache-2.0"}, "", None),
            ({}, "", None),
            ({"licence": "llama3.1"}, "", "recipe/licence-not-accepted"),
            ({"licence": "llama3.1"}, ', accept_licence="llama3.1"', None),
            ({"licence": "llama3.1"}, ', accept_licence="llama2"', "recipe/licence-not-accepted"),
            ({"licence": "apache-2.0", "gated": True}, "", "recipe/licence-not-accepted"),
            ({"gated": True}, ', accept_licence="none stated"', None),
            ({"licence": "mit"}, ', accept_licence="llama2"', "recipe/licence-not-accepted"),
        ],
    )
    def test_licences(self, locked, stated, options, expected) -> None:
        recipe = locked(entry(a="1").document() | stated, options)
        if expected is None:
            load(recipe)
        else:
            assert reason(recipe) == expected

    def test_the_lock_file_is_observed(self, locked) -> None:
        recipe = locked(entry(a="1").document())
        memo = Memo()
        load(recipe, memo=memo)
        assert memo.observed[recipe.replace(".py", ".lock.json"), True] is not None

    @pytest.mark.parametrize("name", ["../a", "/a", "a//b", "a/./b", "a/../../b", ""])
    def test_a_lock_file_that_leads_out_is_refused(self, locked, name) -> None:
        assert reason(locked({"files": {name: {"size": 1, "sha256": "1" * 64}}})) == "recipe/lock-unreadable"

    @pytest.mark.parametrize("repository", ["a/b/c", "../b", "a b", "", "a/../b"])
    def test_bad_repositories(self, repository) -> None:
        with locking(), pytest.raises(HermeticError) as caught:
            hub_snapshot(repository)
        assert caught.value.reason == "bad-address"

    @pytest.mark.parametrize("uri", ["ftp://a/b", "https://host", "https://user:word@host/a", "s3://b/k?sig=1", "/a"])
    def test_bad_addresses(self, uri) -> None:
        with locking(), pytest.raises(HermeticError) as caught:
            remote(uri)
        assert caught.value.reason == "bad-address"

    @pytest.mark.parametrize(
        ("uri", "name"),
        [
            ("hf://Qwen/Qwen3-32B@main", "Qwen3-32B"),
            ("hf://datasets/a/b@refs/pr/1", "b"),
            ("https://host/x/model.tar.gz", "model.tar.gz"),
            ("s3://bucket/models/tiny/", "tiny"),
            ("https://host/.hidden", "_hidden"),
        ],
    )
    def test_names(self, uri, name) -> None:
        assert FixedOutput(uri, entry=entry(a="1")).name == name


def test_other_sections_and_entries_stay(tmp_path) -> None:
    file = tmp_path / "recipe.lock.json"
    file.write_text(json.dumps({"format": FORMAT, "later": {"x": 1}, "images": {"a/b": {"unresolved": "no"}}}))
    lock = LockFile.read(str(file))
    lock.fixed["hf://a/b@main"] = entry(a="1")
    assert lock.write()
    again = LockFile.read(str(file))
    assert again.fixed == lock.fixed
    assert again.others == {"later": {"x": 1}}
    assert again.images.keys() == {"a/b"}
    assert not again.write()
