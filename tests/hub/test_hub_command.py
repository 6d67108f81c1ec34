"""Fixed outputs through the real command: lock, plan, realise, and what is left when somebody kills it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hub_kit as kit
import pytest

from hermetic.testing.hub import Fault, Hub, Repository

SHARD = "model-00001-of-00002.safetensors"
RECIPE = """
    from hermetic import Host, Script, hub_dataset, hub_snapshot
    weights = hub_snapshot("acme/tiny"{options})
"""


@pytest.fixture
def tiny(hub: Hub) -> Repository:
    found = hub.repository("acme/tiny", licence="apache-2.0")
    found.commit(kit.model())
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    def write(options: str = "", more: str = "") -> str:
        (tmp_path / "recipe.py").write_text(textwrap.dedent(RECIPE).format(options=options) + textwrap.dedent(more))
        return "recipe.py"

    return write


def pins_of(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "recipe.lock.json").read_text())["fixed"]


def lock_of(tmp_path: Path) -> dict:
    return pins_of(tmp_path)["hf://acme/tiny@main"]


def test_lock_realise_and_again(hub: Hub, tiny: Repository, recipe, cli, tmp_path: Path, store_root: Path) -> None:
    target = recipe() + "#weights"
    asked = cli("realise", target)
    assert asked.exit_code == 3
    assert "recipe/not-locked" in asked.stderr
    assert cli("lock", "recipe.py").lines[0].startswith(f"locked     hf://acme/tiny@main {tiny.branches['main']}")
    assert cli("lock", "recipe.py", "--check").exit_code == 0
    path = Path(cli("path", target).stdout.strip())
    assert not path.exists()
    size = sum(map(len, kit.model().values()))
    for _ in range(2):  # evaluated, and as it was remembered
        plan = cli("plan", target, env={"HERMETIC_TEST_SETTLED": "1"})
        assert plan.lines == [f"fetch     tiny             {path}", f"{'':26} 2.1 MB to fetch"]
        assert plan.stderr == "0 of 1 stages to build, 2.1 MB to fetch\n"
    assert json.loads(cli("plan", target, "--json").stdout)["bytes"] == size
    made = cli("realise", target, "--json")
    events = [json.loads(line) for line in made.lines]
    assert [event["state"] for event in events if event["event"] == "state"] == ["fetching", "storing", "fetched"]
    assert {name: (path / name).read_bytes() for name in kit.model()} == kit.model()
    assert path.stat().st_mode & 0o777 == 0o555
    before = len(hub.served)
    assert cli("realise", target).stdout.strip() == str(path)
    assert hub.served[before:] == []
    assert cli("verify").exit_code == 0
    assert not list((store_root / "tmp").iterdir())


def test_a_branch_that_moves_is_followed_when_asked_to(hub: Hub, tiny: Repository, recipe, cli, tmp_path: Path) -> None:
    """It, and no other that moved as well."""
    text = hub.repository("acme/text", kind="dataset")
    text.commit({"a.txt": b"a"})
    target = recipe(more='samples = hub_dataset("acme/text")\n') + "#weights"
    cli("lock", "recipe.py")
    first, old = cli("path", target).stdout, tiny.branches["main"]
    others = pins_of(tmp_path)
    text.commit({"a.txt": b"b"})
    new = tiny.commit(kit.model() | {"config.json": b'{"vocab_size": 9}', "README.md": b"new"})
    assert "kept" in cli("lock", "recipe.py").stdout
    assert cli("path", target).stdout == first
    moved = cli("lock", "recipe.py", "--update", "acme/tiny")
    assert moved.lines[0].startswith(f"moved      hf://acme/tiny@main {new}")
    assert [line.strip() for line in moved.lines[1:4]] == [
        f"commit {old} -> {new}",
        "added README.md",
        "changed config.json  28 -> 17 bytes",
    ]
    now = pins_of(tmp_path)
    assert {name for name in now if now[name] != others[name]} == {"hf://acme/tiny@main"}
    assert cli("path", target).stdout != first
    assert cli("lock", "recipe.py", "--update", "acme/other").exit_code == 2


def test_after_an_update_only_what_changed_is_fetched(hub: Hub, tiny: Repository, recipe, cli) -> None:
    target = recipe() + "#weights"
    cli("lock", "recipe.py")
    cli("realise", target)
    tiny.commit(kit.model() | {"config.json": b'{"vocab_size": 9}'})
    cli("lock", "recipe.py", "--update", "tiny")
    before = len(hub.served)
    made = cli("realise", target)
    assert (Path(made.stdout.strip()) / "config.json").read_bytes() == b'{"vocab_size": 9}'
    assert [item.path.rpartition("/")[2] for item in hub.served[before:] if "/resolve/" in item.path] == ["config.json"]
    assert not any(item.large for item in hub.served[before:])


def test_the_evaluation_cache_sees_the_lock_file(tiny: Repository, recipe, cli, monkeypatch) -> None:
    monkeypatch.setenv("HERMETIC_TEST_SETTLED", "1")
    target = recipe() + "#weights"
    cli("lock", "recipe.py")
    first = cli("realise", target).stdout
    assert cli("realise", target).stdout == first
    tiny.commit(kit.model(seed=3))
    cli("lock", "recipe.py", "--update", "acme/tiny")
    assert cli("realise", target).stdout != first


def test_what_nobody_could_ask_for_is_unresolved_and_replaces_nothing(hub: Hub, recipe, cli, tmp_path: Path) -> None:
    recipe()
    failed = cli("lock", "recipe.py")
    assert failed.exit_code == 4
    assert "environment/hub-no-repository" in failed.stderr
    assert "does not exist" in lock_of(tmp_path)["unresolved"]
    assert "recipe/unresolved" in cli("realise", "recipe.py#weights").stderr
    assert cli("lock", "recipe.py", "--check").exit_code == 3
    tiny = hub.repository("acme/tiny")
    tiny.commit(kit.model())
    assert cli("lock", "recipe.py").exit_code == 0
    good = lock_of(tmp_path)
    hub.repositories.clear()
    assert cli("lock", "recipe.py", "--update", "acme/tiny").exit_code == 4
    assert lock_of(tmp_path) == good


def test_a_licence_of_its_own_stops_before_the_download(hub: Hub, recipe, cli) -> None:
    hub.repository("acme/tiny", licence="llama3.1").commit(kit.model())
    recipe()
    assert cli("lock", "recipe.py").exit_code == 3
    refused = cli("realise", "recipe.py#weights")
    assert refused.exit_code == 3
    assert "recipe/licence-not-accepted" in refused.stderr
    assert 'accept_licence="llama3.1"' in refused.stderr
    before = len(hub.served)
    recipe(', accept_licence="llama3.1"')
    made = cli("realise", "recipe.py#weights")
    assert hub.served[before:]
    assert "licence: llama3.1" in (Path(made.stdout.strip()) / "LICENSE_ACCEPTED.txt").read_text()


def test_wrong_bytes_exit_with_102_and_enter_nothing(hub: Hub, tiny: Repository, recipe, cli, store_root: Path) -> None:
    target = recipe() + "#weights"
    cli("lock", "recipe.py")
    hub.fault(Fault(f"/storage/{SHARD}", corrupt=True))
    failed = cli("realise", target)
    assert failed.exit_code == 102
    assert "hash/file-mismatch" in failed.stderr
    assert not list((store_root / "store").iterdir())
    assert [place.name[17:] for place in (store_root / "quarantine").iterdir()] == [SHARD]
    assert cli("realise", target).exit_code == 0


def test_a_token_is_nowhere(hub: Hub, recipe, cli, tmp_path: Path, store_root: Path, busybox: str) -> None:
    token = "hf_SecretSecretSecret"
    hub.repository("acme/tiny", gated=True, allowed={token}, licence="mit").commit(kit.model())
    more = f"""
        made = Script("show.sh", environment=Host(paths=({busybox!r},)), inputs={{"model": weights}})
    """
    recipe(', accept_licence="mit"', more)
    (tmp_path / "show.sh").write_text(f"#!{busybox} sh\n{busybox} env\n{busybox} touch /build/out/done\n")
    (tmp_path / "show.sh").chmod(0o755)
    denied = cli("lock", "recipe.py")
    assert denied.exit_code == 4
    assert "environment/hub-denied" in denied.stderr
    said = [cli(*words, env={"HF_TOKEN": token}) for words in (("lock", "recipe.py"), ("realise", "recipe.py#made"))]
    assert [result.exit_code for result in said] == [0, 0], said[-1].stderr
    assert all(token not in result.stdout + result.stderr for result in said)
    for place in (store_root, tmp_path / "recipe.lock.json", tmp_path / "hf"):
        found = subprocess.run(["grep", "-rlF", token, place], capture_output=True, text=True, check=False)
        assert found.stdout == ""


@pytest.mark.slow
class TestKilled:
    @pytest.fixture
    def driver(self, tmp_path: Path, store_root: Path):
        """Start the command; its standard output is JSON."""
        environ = os.environ | {"HERMETIC_STORE": str(store_root), "PYTHONPATH": str(Path(__file__).parents[2])}

        def start() -> subprocess.Popen:
            words = [sys.executable, "-m", "hermetic", "realise", "recipe.py#weights", "--json"]
            return subprocess.Popen(
                words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )

        return start

    def test_bytes_that_a_killed_driver_had_are_not_fetched_again(
        self, hub: Hub, tiny: Repository, recipe, cli, driver, store_root: Path
    ) -> None:
        recipe()
        cli("lock", "recipe.py")
        before = len(hub.bodies(SHARD))
        held = hub.fault(Fault(f"/storage/{SHARD}", hold=700_000))
        running = driver()
        assert held.seen.wait(60)
        partial = self.wait_for_bytes(running, 700_000)
        running.kill()
        running.communicate()
        held.release()
        had = partial(store_root)
        assert cli("realise", "recipe.py#weights").exit_code == 0
        assert [body.start for body in hub.bodies(SHARD)[before:]] == [0, had]
        assert had > 0
        assert not list((store_root / "tmp").iterdir())

    @staticmethod
    def wait_for_bytes(running: subprocess.Popen, _count: int) -> Callable[[Path], int]:
        """Until the driver has told of bytes of the shard: more than all the small files have."""
        small = sum(len(content) for name, content in kit.model().items() if not name.endswith(".safetensors"))
        for line in running.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["done"] > small + kit.MEGABYTE + 200_000:
                break
        sha256 = hashlib.sha256(kit.model()[SHARD]).hexdigest()

        def size(store: Path) -> int:
            return next(store.glob(f"tmp/fetch-*/partial/{sha256}")).stat().st_size

        return size

    @pytest.mark.parametrize("point", ["blob.after-share", "blob.after-share#4", "enter.after-rename"])
    def test_who_is_killed_while_it_enters_the_store_has_nothing_to_fetch(
        self, hub: Hub, tiny: Repository, recipe, cli, store_root: Path, point: str
    ) -> None:
        recipe()
        cli("lock", "recipe.py")
        killed = cli("realise", "recipe.py#weights", env={"HERMETIC_TEST_SYNC": f"{point}:kill"})
        assert killed.exit_code == -signal.SIGKILL
        before = len(hub.served)
        made = cli("realise", "recipe.py#weights")
        assert {path.name: path.read_bytes() for path in Path(made.stdout.strip()).iterdir()} == kit.model()
        if point.startswith("blob"):
            assert hub.served[before:] == []
        assert not list((store_root / "tmp").iterdir())
        assert cli("verify").exit_code == 0

    @pytest.mark.parametrize(
        ("number", "fault"),
        [
            (signal.SIGINT, Fault(f"/storage/{SHARD}", hold=1000)),
            (signal.SIGTERM, Fault(f"/resolve/.*{SHARD}", mute=True)),
        ],
        ids=["in-the-middle", "before-it-answers"],
    )
    def test_a_stopped_driver_ends_although_the_hub_hangs(
        self, hub: Hub, tiny: Repository, recipe, cli, driver, number, fault: Fault, store_root: Path
    ) -> None:
        recipe()
        cli("lock", "recipe.py")
        held = hub.fault(replace(fault, seen=threading.Event(), _go_on=threading.Event()))
        running = driver()
        assert held.seen.wait(60)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 130
        assert "stopped" in said
        assert not list((store_root / "store").iterdir())


@pytest.fixture(scope="session")
def busybox() -> str:
    found = shutil.which("busybox", path=os.environ["PATH"] + ":/bin:/usr/bin")
    if found is None:
        pytest.skip("needs a static busybox (Debian: busybox-static)")
    return os.path.realpath(found)


@pytest.mark.slow
def test_fetches_run_beside_builds_and_a_change_rebuilds_only_what_reads_it(
    hub: Hub, tiny: Repository, recipe, cli, tmp_path: Path, busybox: str
) -> None:
    """One sample of the calibration set changed: what reads it is made again, and nothing before."""
    text = hub.repository("acme/text", kind="dataset")
    text.commit({"data/train.jsonl": b'{"text": "a"}\n', "README.md": b"one"})
    more = f"""
        box = Host(paths=({busybox!r},))
        samples = hub_dataset("acme/text").file("data/train.jsonl")
        merged = Script("copy.sh", environment=box, inputs={{"model": weights}})
        quantised = Script("copy.sh", environment=box, inputs={{"model": merged, "calibration": samples}})
        default = quantised
    """
    recipe("", more)
    script = (
        f"#!{busybox} sh\n[ -d /build/in/calibration ] && exit 1\n{busybox} cp /build/in/cal* /build/out/ || true\n"
    )
    (tmp_path / "copy.sh").write_text(script)
    (tmp_path / "copy.sh").chmod(0o755)
    assert cli("lock", "recipe.py").exit_code == 0

    def states() -> dict[str, str]:
        events = [json.loads(line) for line in cli("realise", "recipe.py", "--json").lines]
        return {event["stage"]: event["state"] for event in events if event["event"] == "state"}

    assert states() == {"tiny": "fetched", "text": "fetched", "merged": "built", "quantised": "built"}
    text.commit({"data/train.jsonl": b'{"text": "b"}\n', "README.md": b"two"})
    cli("lock", "recipe.py", "--update", "acme/text")
    assert states() == {"text": "fetched", "merged": "in-place", "quantised": "built"}
    text.commit({"data/train.jsonl": b'{"text": "b"}\n', "README.md": b"three"})
    cli("lock", "recipe.py", "--update", "acme/text")
    assert states() == {"quantised": "in-place"}


CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "rope_theta": 10000.5,
    "tie_word_embeddings": False,
    "transformers_version": "4.51.0",
    "vocab_size": 8,
}


def test_the_lock_file_keeps_a_model_s_dimensions_and_no_key_has_them(hub: Hub, recipe, cli, tmp_path: Path) -> None:
    found = hub.repository("acme/tiny", licence="apache-2.0")
    found.commit(kit.model() | {"config.json": json.dumps(CONFIG).encode()})
    target = recipe() + "#weights"
    assert cli("lock", "recipe.py").exit_code == 0
    kept = {name: CONFIG[name] for name in CONFIG if name not in {"rope_theta", "transformers_version"}}
    assert lock_of(tmp_path)["config"] == kept
    path = cli("path", target).stdout
    document = json.loads((tmp_path / "recipe.lock.json").read_text())
    del document["fixed"]["hf://acme/tiny@main"]["config"]
    (tmp_path / "recipe.lock.json").write_text(json.dumps(document))
    assert cli("path", target).stdout == path
    assert cli("lock", "recipe.py", "--check").exit_code == 0  # one of before says less, and is as good
    assert "config" not in lock_of(tmp_path)
    assert cli("lock", "recipe.py", "--update", "acme/tiny").exit_code == 0
    assert lock_of(tmp_path)["config"] == kept
