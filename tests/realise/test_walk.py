"""The whole walk of one command, in the real sandbox and the real store."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

MARK = 900_000_000 + os.getpid() * 10  # seconds that no other process here sleeps


def hold(which: str) -> str:
    """Shell text: say "held", then wait until `release`."""
    return f"echo held; $B sleep {MARK + int(which)} || true"


def held(which: str) -> list[int]:
    """Processes of this machine that wait so."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
        except OSError:
            continue
        if str(MARK + int(which)).encode() in words:
            found.append(int(process.name))
    return found


def release(which: str) -> None:
    """End the wait. The stage says "held" just before it starts to wait, so the process may be a moment away."""
    while not (waiting := held(which)):
        os.sched_yield()
    for process in waiting:
        os.kill(process, signal.SIGTERM)


def wait_until_gone(processes: list[int]) -> None:
    """The kernel tears a sandbox down by itself; wait on the processes, not on the clock."""
    for process in processes:
        try:
            descriptor = os.pidfd_open(process)
        except ProcessLookupError:
            continue
        assert select.select([descriptor], [], [], 30)[0]
        os.close(descriptor)


class Driver:
    """The command, running."""

    def __init__(self, arguments, cwd: Path, store: Path) -> None:
        environ = os.environ | {"HERMETIC_STORE": str(store), "PYTHONPATH": str(Path(__file__).parents[2])}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "hermetic", *arguments],
            cwd=cwd,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stdout = ""
        self.stderr = ""

    def until(self, **wanted: str) -> None:
        """Read events until one has these fields."""
        for line in self.popen.stdout:
            self.stdout += line
            if wanted.items() <= json.loads(line).items():
                return
        raise AssertionError(f"never saw {wanted}: {self.popen.stderr.read()}")

    def end(self) -> dict[str, list[str]]:
        rest, self.stderr = self.popen.communicate()
        self.stdout += rest
        return states(self.stdout)


@pytest.fixture
def driver(tmp_path: Path, store_root: Path):
    started: list[Driver] = []

    def start(*arguments: str) -> Driver:
        started.append(Driver(arguments, tmp_path, store_root))
        return started[-1]

    yield start
    for one in started:
        one.popen.kill()
        one.popen.communicate()


CHAIN = """
    n = param("n", 1)
    a = Script("a.sh", environment=env, parameters={"n": n})
    b = Script("b.sh", environment=env, inputs={"a": a})
    default = b
"""
A = "$B cat /build/stage.json > /build/out/json; echo said by a"
B = "$B wc -c < /build/in/a/json > /build/out/count"


def states(stdout: str) -> dict[str, list[str]]:
    """What each stage went through, from the JSON events."""
    found: dict[str, list[str]] = {}
    for line in stdout.splitlines():
        event = json.loads(line)
        if event["event"] == "state":
            found.setdefault(event["stage"], []).append(event["state"])
    return found


def left_behind(store: Path) -> list[str]:
    return [str(path) for folder in ("tmp", "pending", "leases", "trash") for path in (store / folder).iterdir()]


class TestRealise:
    def test_prints_one_store_path_and_links_it(self, cli, recipe, tmp_path, store_root) -> None:
        result = cli("realise", recipe(CHAIN, a=A, b=B))
        assert result.exit_code == 0, result.stderr
        (path,) = result.lines
        assert Path(path).parent == store_root / "store"
        assert path.endswith("-b")
        assert Path(path, "count").read_text().strip().isdigit()
        assert os.readlink(tmp_path / "result") == path
        assert left_behind(store_root) == []

    def test_everything_in_place_runs_nothing(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        first = cli("realise", name)
        again = cli("realise", name, "--json")
        assert states(again.stdout) == {"b": ["in-place"]}
        assert first.lines[0] in again.stdout

    def test_a_parameter_rebuilds_what_it_changes_and_cutoff_stops_there(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        cli("realise", name)
        result = cli("realise", name, "--set", "n=2", "--json")
        assert states(result.stdout)["a"][-1] == "built"
        assert states(result.stdout)["b"][-1] == "built"
        same = cli("realise", recipe(CHAIN, a=A + "; echo more words", b=B), "--json")
        assert states(same.stdout)["a"][-1] == "built"
        assert states(same.stdout)["b"] == ["adopted"]

    def test_a_dry_run_builds_nothing(self, cli, recipe, store_root) -> None:
        result = cli("realise", recipe(CHAIN, a=A, b=B), "-n")
        assert [line.split()[:2] for line in result.lines if "/store/" in line] == [["build", "a"], ["build", "b"]]
        assert list((store_root / "store").iterdir()) == []

    def test_path_is_known_before_anything_is_built(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        known = cli("path", name).lines
        assert cli("path", name, "--exists").exit_code == 2
        assert cli("realise", name).lines == known
        assert cli("path", name, "--exists").lines == known

    def test_json_events_tell_plan_states_output_and_result(self, cli, recipe) -> None:
        events = [json.loads(line) for line in cli("realise", recipe(CHAIN, a=A, b=B), "--json").lines]
        kinds = [event["event"] for event in events]
        assert kinds[0] == "plan"
        assert kinds[-1] == "result"
        assert {"event": "output", "line": "said by a"}.items() <= next(
            e for e in events if e["event"] == "output"
        ).items()

    def test_two_processes_asking_for_one_key_build_it_once(self, driver, recipe) -> None:
        name = recipe('a = Script("a.sh", environment=env)', a=f"{hold('1')}; echo x > /build/out/x")
        one = driver("realise", name, "--no-link", "--json")
        one.until(line="held")
        other = driver("realise", name, "--no-link", "--json")
        other.until(state="waiting")
        release("1")
        assert [one.end()["a"][-1], other.end()["a"][-1]] == ["built", "in-place"]

    def test_independent_stages_run_side_by_side(self, driver, recipe) -> None:
        text = """
            a = Script("a.sh", environment=env)
            b = Script("b.sh", environment=env)
            both = Script("both.sh", environment=env, inputs={"a": a, "b": b})
            default = both
        """
        done = "echo x > /build/out/x"
        name = recipe(text, a=f"{hold('2')}; {done}", b=f"{hold('3')}; {done}", both=done)
        both = driver("realise", name, "--json", "-j2")
        both.until(line="held")
        both.until(line="held")
        release("2")
        release("3")
        assert both.end()["both"][-1] == "built"


def test_a_stage_class_of_one_s_own_has_its_program_beside_the_recipe(cli, recipe, tmp_path) -> None:
    (tmp_path / "words.txt").write_text("some words\n")
    (tmp_path / "acme.py").write_text(
        "from hermetic import Source, Stage\n"
        "class Table(Stage):\n"
        "    kind = 'acme.table'\n"
        "    programs = ('make.sh',)\n"
        "    text: Source\n"
        "    size: int = 4\n"
    )
    text = """
        from acme import Table
        table = Table(text=Source("words.txt"), environment=env, size=8)
    """
    result = cli("realise", recipe(text, make="$B cat /build/in/text /build/stage.json > /build/out/x"))
    assert result.exit_code == 0, result.stderr
    made = Path(result.lines[0], "x").read_text()
    assert made.startswith("some words\n")
    assert '"parameters":{"size":8}' in made


class TestChecks:
    TEXT = """
        a = Script("a.sh", environment=env)
        smoke = Script("smoke.sh", environment=env, inputs={"a": a}, check=True)
        default = a
    """

    def test_a_target_counts_only_when_its_check_has_passed(self, cli, recipe, tmp_path) -> None:
        result = cli("realise", recipe(self.TEXT, a="echo x > /build/out/x", smoke="exit 1"))
        assert result.exit_code == 100
        assert result.stdout == ""
        assert not (tmp_path / "result").is_symlink()
        assert "smoke" in result.stderr

    def test_a_passed_check_is_not_run_again(self, cli, recipe) -> None:
        name = recipe(self.TEXT, a="echo x > /build/out/x", smoke="$B test -e /build/in/a/x")
        assert cli("realise", name).lines[0].endswith("-a")
        assert states(cli("realise", name, "--json").stdout) == {"a": ["in-place"], "smoke": ["in-place"]}


class TestTrouble:
    """Each gets one clear error, nothing half-made, nothing left running, and the next run works."""

    def fails(self, cli, recipe, store_root, body: str, *, code: int, reason: str, **named) -> str:
        name = recipe(f'a = Script("a.sh", environment=env, **{named})', a=body)
        result = cli("realise", name)
        assert (result.exit_code, result.stdout) == (code, "")
        assert f"/{reason}]" in result.stderr
        assert result.stderr.count("error[") == 1
        assert "Traceback" not in result.stderr
        assert list((store_root / "store").iterdir()) == []
        assert left_behind(store_root) == []
        assert cli("realise", recipe('a = Script("a.sh", environment=env)', a="echo x > /build/out/x")).exit_code == 0
        return result.stderr

    def test_a_non_zero_exit_shows_the_end_of_the_log(self, cli, recipe, store_root) -> None:
        stderr = self.fails(
            cli, recipe, store_root, "echo first; echo last >&2; exit 3", code=100, reason="stage-failed"
        )
        assert "status 3" in stderr
        assert "| last" in stderr

    def test_a_crash_is_told_by_its_signal(self, cli, recipe, store_root) -> None:
        stderr = self.fails(cli, recipe, store_root, "$B kill -SEGV $$", code=100, reason="stage-failed")
        assert "signal 11" in stderr

    def test_a_timeout_is_its_own_exit_code(self, cli, recipe, store_root) -> None:
        self.fails(cli, recipe, store_root, hold("7"), code=101, reason="stage-timed-out", timeout=1)

    def test_a_fifo_in_the_output(self, cli, recipe, store_root) -> None:
        self.fails(cli, recipe, store_root, "$B mkfifo /build/out/f", code=100, reason="output-special-file")

    def test_3000_levels(self, cli, recipe, store_root) -> None:
        body = "cd /build/out; i=0; while [ $i -lt 3000 ]; do $B mkdir d; cd d; i=$((i+1)); done"
        self.fails(cli, recipe, store_root, body, code=100, reason="output-too-deep")

    def test_a_symlink_out_of_the_output(self, cli, recipe, store_root) -> None:
        self.fails(
            cli, recipe, store_root, "$B ln -s /etc/passwd /build/out/p", code=100, reason="output-symlink-escapes"
        )

    def test_a_write_outside_of_the_output(self, cli, recipe, store_root) -> None:
        stderr = self.fails(cli, recipe, store_root, "echo x > /build/in/x || exit 9", code=100, reason="stage-failed")
        assert "Read-only" in stderr

    def test_a_program_that_cannot_be_started(self, cli, recipe, store_root, tmp_path) -> None:
        name = recipe('a = Script("a.sh", environment=env)', a="")
        (tmp_path / "a.sh").write_text("#!/no/such/shell\n")
        result = cli("realise", name)
        assert result.exit_code in (4, 100)
        assert result.stderr.count("error[") == 1
        assert left_behind(store_root) == []

    def test_background_processes_do_not_outlive_the_stage(self, cli, recipe, store_root) -> None:
        body = f"{hold('6')} & echo x > /build/out/x; exit 0"
        assert cli("realise", recipe('a = Script("a.sh", environment=env)', a=body)).exit_code == 0
        assert not held("6")

    def test_keep_failed_keeps_the_workspace(self, cli, recipe) -> None:
        result = cli(
            "realise", recipe('a = Script("a.sh", environment=env)', a="echo x > /build/out/x; exit 1"), "--keep-failed"
        )
        kept = result.stderr.partition("kept at ")[2].split()[0]
        assert Path(kept, "out", "x").exists()

    def test_keep_going_builds_what_does_not_need_the_failure(self, cli, recipe) -> None:
        text = """
            bad = Script("bad.sh", environment=env)
            good = Script("good.sh", environment=env)
            both = Script("good.sh", environment=env, inputs={"bad": bad, "good": good})
            default = both
        """
        result = cli("realise", recipe(text, bad="exit 1", good="echo x > /build/out/x"), "--keep-going", "--json")
        ends = {stage: seen[-1] for stage, seen in states(result.stdout).items()}
        assert ends == {"bad": "failed", "good": "built", "both": "skipped"}
        assert result.exit_code == 100

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_cleans_up_and_says_how_to_go_on(self, driver, recipe, store_root, number) -> None:
        process = driver("realise", recipe('a = Script("a.sh", environment=env)', a=hold("4")), "--json")
        process.until(line="held")
        process.popen.send_signal(number)
        process.end()
        assert process.popen.returncode == 130
        assert "Run the same command again" in process.stderr
        assert not held("4")
        assert left_behind(store_root) == []

    def test_kill_9_of_the_driver_leaves_no_process_and_the_next_run_works(
        self, cli, driver, recipe, store_root
    ) -> None:
        process = driver("realise", recipe('a = Script("a.sh", environment=env)', a=hold("5")), "--json")
        process.until(line="held")
        processes = held("5")
        process.popen.kill()
        process.end()
        wait_until_gone(processes)
        assert cli("realise", recipe('a = Script("a.sh", environment=env)', a="echo x > /build/out/x")).exit_code == 0
        assert left_behind(store_root) == []

    def test_a_full_disk_is_one_clear_error(self, cli, recipe, tmp_path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs the right to mount a small file system")
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
        try:
            name = recipe('a = Script("a.sh", environment=env)', a="$B dd if=/dev/zero of=/build/out/x bs=1M count=64")
            result = cli("realise", name, "--store", disk / "store")
            assert result.exit_code == 4
            assert "store-full" in result.stderr
            assert list((disk / "store" / "store").iterdir()) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)


class TestVerbs:
    def test_log_shows_what_was_printed_also_after_a_failure(self, cli, recipe) -> None:
        name = recipe('a = Script("a.sh", environment=env)', a="echo hello; exit 1")
        failed = cli("realise", name)
        assert cli("log", name).lines == ["hello"]
        key = failed.stderr.partition("hermetic log ")[2].split()[0]
        assert cli("log", key).lines == ["hello"]

    def test_tree_shows_inputs(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        path = cli("realise", name).lines[0]
        for target in (name, path, "result"):
            first, second = cli("tree", target).lines
            assert first.startswith(path)
            assert second.strip().startswith("a: ")

    def test_verify_names_what_was_changed_by_hand(self, cli, recipe) -> None:
        path = cli("realise", recipe(CHAIN, a=A, b=B)).lines[0]
        assert cli("verify").exit_code == 0
        changed = Path(path, "count")
        changed.chmod(0o644)
        changed.write_text("999\n")
        result = cli("verify")
        assert result.exit_code == 6
        assert f"{path}" in result.stderr
        assert "count" in result.stderr

    def test_an_unknown_stage_and_an_unknown_path_are_usage_errors(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        assert cli("realise", f"{name}#c").exit_code == 2
        cli("realise", name)
        assert cli("tree", "zzzzzz").exit_code == 2

    def test_a_misspelt_command_is_told_the_right_one(self, cli) -> None:
        result = cli("relise", "recipe.py")
        assert result.exit_code == 2
        assert "did you mean hermetic realise?" in result.stderr

    def test_a_store_made_by_a_newer_version_is_refused_by_name(self, cli, recipe, store_root) -> None:
        name = recipe(CHAIN, a=A, b=B)
        cli("realise", name)
        (store_root / "format").write_text("hermetic store 9\n")
        result = cli("realise", name, "--json")
        assert result.exit_code == 4
        assert "store-too-new" in result.stderr


class TestTheFastAnswer:
    """The evaluation cache answers exactly as an evaluation would."""

    @pytest.fixture
    def settled(self, cli, recipe, monkeypatch, tmp_path):
        """A recipe realised with files old enough to be believed."""
        name = recipe(CHAIN, a=A, b=B)
        first = cli("realise", name, env={"HERMETIC_TEST_SETTLED": "1"})
        assert first.exit_code == 0
        return name, first.lines[0]

    def fast(self, cli, *args) -> bool:
        """Whether the answer came without importing pydantic."""
        result = cli(*args, env={"PYTHONPROFILEIMPORTTIME": "1"})
        assert result.exit_code == 0, result.stderr
        return "pydantic" not in result.stderr

    def test_gives_the_same_path_without_pydantic_and_click(self, cli, settled) -> None:
        name, path = settled
        result = cli("realise", name, env={"PYTHONPROFILEIMPORTTIME": "1"})
        assert result.lines == [path]
        assert "pydantic" not in result.stderr
        assert "click" not in result.stderr

    @pytest.mark.parametrize("file", ["recipe.py", "a.sh"])
    def test_a_changed_file_is_noticed(self, cli, settled, tmp_path, file: str) -> None:
        name, _ = settled
        with open(tmp_path / file, "a") as stream:
            stream.write("\n# changed\n")
        assert not self.fast(cli, "realise", name)

    def test_a_missing_store_path_is_noticed(self, cli, settled, store_root) -> None:
        name, path = settled
        os.chmod(path, 0o755)
        os.rename(path, f"{path}.away")
        result = cli("realise", name)
        assert result.lines == [path]
        assert Path(path).is_dir()

    @pytest.mark.parametrize("damage", [b"", b"\x00", b"[1]", b"i\x01\x00\x00\x00"])
    def test_a_damaged_cache_is_only_slower(self, cli, recipe, tmp_path, damage) -> None:
        name = recipe(CHAIN, a=A, b=B)
        environ = {"HERMETIC_TEST_SETTLED": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        path = cli("realise", name, env=environ).lines
        (file,) = (tmp_path / "cache" / "hermetic" / "evaluations").iterdir()
        file.write_bytes(damage)
        assert cli("realise", name, env=environ).lines == path

    def test_a_missing_link_is_made_again(self, cli, settled, tmp_path) -> None:
        name, path = settled
        (tmp_path / "result").unlink()
        assert cli("realise", name).lines == [path]
        assert os.readlink(tmp_path / "result") == path

    def test_other_parameters_are_another_question(self, cli, settled) -> None:
        name, path = settled
        assert cli("realise", name, "--set", "n=5").lines != [path]


class TestExplanations:
    def test_why_rebuild_names_the_field_through_the_inputs(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        assert "never built" in cli("why-rebuild", name).stderr
        cli("realise", name)
        result = cli("why-rebuild", name, "--set", "n=2", "--json")
        fields = {line["field"]: (line["before"], line["after"]) for line in map(json.loads, result.lines)}
        assert fields.pop("inputs.a.key")
        assert fields == {"a > parameters.n": ("1", "2")}

    def test_plan_gives_the_reason_and_the_time_of_the_last_build(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        assert {json.loads(line)["reason"] for line in cli("plan", name, "--json").lines} == {"new"}
        cli("realise", name)
        changed = [json.loads(line) for line in cli("plan", name, "--set", "n=2", "--json").lines]
        assert [step["reason"] for step in changed] == ["changed: parameters.n", "changed: a > parameters.n"]
        assert all(isinstance(step["expected_seconds"], float) for step in changed)
        assert [json.loads(line)["action"] for line in cli("plan", name, "--json").lines] == ["in-place"]

    def test_why_depends_shows_the_chain(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        cli("realise", name)
        first, second = cli("why-depends", name, f"{name}#a").lines
        assert first.endswith("-b")
        assert second.strip().startswith("a: ")
        assert cli("why-depends", f"{name}#a", name).exit_code == 2


class TestCheck:
    """P6: a grade that is printed was measured."""

    def test_equal_builds_are_graded_bit(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        cli("realise", name)
        result = cli("realise", name, "--check")
        assert (result.exit_code, result.lines) == (0, ["bit"])

    def test_other_builds_are_different_and_the_evidence_is_kept(self, cli, recipe, store_root) -> None:
        name = recipe('a = Script("a.sh", environment=env)', a="$B cat /proc/sys/kernel/random/uuid > /build/out/x")
        cli("realise", name)
        result = cli("realise", name, "--check")
        assert (result.exit_code, result.lines) == (104, ["different"])
        assert "grade-too-low" in result.stderr
        (evidence,) = store_root.glob("builds/*/check.json")
        assert json.loads(evidence.read_text())["evidence"]["differences"][0]["path"] == "x"
        again = result.stderr.partition("hermetic diff ")[2].split()
        assert "x: content differs" in cli("diff", *again).stdout

    def test_a_comparator_may_grade_higher(self, cli, recipe, tmp_path) -> None:
        (tmp_path / "acme.py").write_text(
            "from hermetic import Stage\n"
            "class Noisy(Stage):\n"
            "    kind = 'acme.noisy'\n"
            "    programs = ('make.sh',)\n"
            "    grade = 'numeric'\n"
            "    comparator = ('compare.sh',)\n"
        )
        text = "from acme import Noisy\nnoisy = Noisy(environment=env)\n"
        compare = """$B test -e /build/in/first/x && $B test -e /build/in/second/x &&
            echo '{"grade": "numeric", "evidence": {"largest": "0.001"}}' > /build/out/grade.json"""
        make = "$B cat /proc/sys/kernel/random/uuid > /build/out/x"
        result = cli("realise", recipe(text, make=make, compare=compare), "--check")
        assert (result.exit_code, result.lines) == (0, ["numeric"])


class TestDisk:
    def test_plan_says_what_the_disk_must_hold_judging_by_the_last_builds(self, cli, recipe) -> None:
        name = recipe(CHAIN, a=A, b=B)
        assert "the disk" not in cli("plan", name).stderr
        cli("realise", name)
        assert "; the disk must hold " in cli("plan", name, "--set", "n=2").stderr

    def test_a_warning_comes_before_what_is_known_not_to_fit(self, cli, recipe, tmp_path) -> None:
        (tmp_path / "acme.py").write_text(
            "from hermetic import Stage\n"
            "class Huge(Stage):\n"
            "    kind = 'acme.huge'\n"
            "    programs = ('make.sh',)\n"
            "    def expected_bytes(self):\n"
            "        return 10 ** 18\n"
        )
        name = recipe("from acme import Huge\nhuge = Huge(environment=env)\n", make="$B touch /build/out/x")
        result = cli("realise", name)
        assert result.exit_code == 0
        assert "free and needs 1000000.0 TB: hermetic gc, or another --store" in result.stderr.splitlines()[0]
