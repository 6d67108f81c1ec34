"""Locking and fetching against the stand-in, through the real client: what comes, what is refused, what is not
asked for again.
"""

import hashlib
import shutil
import socket
import threading
import time
from pathlib import Path

import hub_kit as kit
import pytest

from hermetic.errors import HermeticError
from hermetic.fetch import bring
from hermetic.fetch.bring import StoppedError
from hermetic.fetch.fixed import Fetch, resolve
from hermetic.recipe.lockfile import FixedEntry, LockedFile
from hermetic.testing.hub import Fault, Hub, Repository

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def tiny(hub: Hub) -> Repository:
    found = hub.repository("acme/tiny", licence="apache-2.0")
    found.commit(kit.model())
    return found


class TestLocking:
    def test_the_hub_is_believed_for_large_files_and_nobody_for_small_ones(self, hub: Hub, tiny: Repository) -> None:
        hub.page = 2
        entry = resolve([kit.output()], None)
        assert entry.commit == tiny.branches["main"]
        assert entry.licence == "apache-2.0"
        for name, content in kit.model().items():
            found = entry.files[name]
            assert (found.size, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            assert found.origin == ("hub" if name.endswith(".safetensors") else "fetched")
        assert all(item.sent < 1000 for item in hub.bodies())  # only headers were looked at

    def test_only_what_the_patterns_choose_is_hashed(self, hub: Hub, tiny: Repository) -> None:
        entry = resolve([kit.output(allow=("*.json",), ignore=("model*",), check=False)], None)
        assert entry.files["config.json"].sha256
        assert not entry.files["model.safetensors.index.json"].sha256
        more = resolve([kit.output(check=False)], entry)
        assert more.files["config.json"] == entry.files["config.json"]
        assert more.files["model.safetensors.index.json"].sha256

    def test_what_is_known_keeps_its_commit_when_the_branch_moves(self, tiny: Repository) -> None:
        first = resolve([kit.output(allow=("config.json",), check=False)], None)
        tiny.commit(kit.model(seed=1))
        assert resolve([kit.output()], first).commit == first.commit
        assert resolve([kit.output()], None).commit == tiny.branches["main"] != first.commit

    def test_a_small_file_that_git_calls_otherwise(self, hub: Hub, tiny: Repository) -> None:
        hub.fault(Fault("/resolve/.*/config.json", corrupt=True))
        assert kit.reason(lambda: resolve([kit.output()], None)) == "hash/hub-mismatch"

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_busy_hub_is_asked_again(self, hub: Hub, tiny: Repository, status: int, monkeypatch) -> None:
        monkeypatch.setattr(time, "sleep", lambda _: None)  # the Hub's own client adds a second to what it is told
        for path in ("/revision/", "/tree/", "/resolve/.*config.json"):
            hub.fault(Fault(path, status=status, headers={"Retry-After": "0"}))
        assert resolve([kit.output()], None).commit == tiny.branches["main"]

    def test_datasets(self, hub: Hub) -> None:
        hub.repository("acme/text", kind="dataset").commit({"data/train.jsonl": b'{"text": "a"}\n'})
        entry = resolve([kit.output("hf://datasets/acme/text@main")], None)
        assert entry.source == f"{hub.endpoint}/datasets/acme/text"
        assert list(entry.files) == ["data/train.jsonl"]

    @pytest.mark.parametrize(
        ("uri", "expected"),
        [
            ("hf://acme/other@main", "environment/hub-no-repository"),
            ("hf://acme/tiny@v9", "environment/hub-no-revision"),
        ],
    )
    def test_what_is_not_there(self, tiny: Repository, uri: str, expected: str) -> None:
        assert kit.reason(lambda: resolve([kit.output(uri)], None)) == expected

    def test_nobody_answers(self, hub: Hub, tiny: Repository, monkeypatch) -> None:
        import hermetic.fetch.hub as client

        monkeypatch.setattr(client.Hub, "_pause", staticmethod(lambda _said, _attempt: None))
        with socket.socket() as deaf:  # nobody else is given its port meanwhile
            deaf.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
            assert kit.reason(lambda: resolve([kit.output()], None)) == "environment/origin-unreachable"

    def test_a_listing_that_leads_out(self, hub: Hub) -> None:
        hub.repository("acme/tiny").commit({"../../outside": b"1"})
        assert kit.reason(lambda: resolve([kit.output()], None)) == "trust/unsafe-path"


class TestCheckpoints:
    """What is wrong with a model is said when it is locked, and when it is fetched from a lock that did not know."""

    BAD = {  # noqa: RUF012
        "hash/checkpoint-shard-missing": lambda files: files.pop(SHARD),
        "hash/checkpoint-header": lambda files: files.update({SHARD: files[SHARD][:-1]}),
        "hash/checkpoint-tokenizer": lambda files: files.update({"tokenizer.json": kit.tokenizer(9)}),
        "hash/checkpoint-index": lambda files: files.update({"model.safetensors.index.json": b"[]"}),
    }

    @pytest.mark.parametrize("expected", BAD)
    def test_named_before_anything_large_is_fetched(self, hub: Hub, expected: str) -> None:
        files = kit.model()
        self.BAD[expected](files)
        hub.repository("acme/tiny").commit(files)
        assert kit.reason(lambda: resolve([kit.output()], None)) == expected
        assert sum(item.sent for item in hub.bodies()) < kit.MEGABYTE

    @pytest.mark.parametrize("expected", BAD)
    def test_named_by_the_fetch(self, hub: Hub, tmp_path: Path, expected: str) -> None:
        files = kit.model()
        self.BAD[expected](files)
        hub.repository("acme/tiny").commit(files)
        entry = resolve([kit.output(check=False)], None)
        assert kit.reason(lambda: kit.fetch(kit.output(entry=entry), tmp_path)) == expected

    def test_a_header_longer_than_its_file(self, hub: Hub) -> None:
        hub.repository("acme/tiny").commit({"model.safetensors": b"\xff" * 100})
        assert kit.reason(lambda: resolve([kit.output()], None)) == "hash/checkpoint-header"

    def test_who_does_not_want_to_know_gets_it_as_it_is(self, hub: Hub, tmp_path: Path) -> None:
        hub.repository("acme/tiny").commit({"model.safetensors": b"\xff" * 100})
        assert kit.fetch(kit.locked(check=False), tmp_path) == {"model.safetensors": b"\xff" * 100}

    def test_a_format_that_is_left_out_altogether_is_not(self, hub: Hub, tmp_path: Path) -> None:
        other = {
            "pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model-1.bin"}}',
            "pytorch_model-1.bin": b"1",
        }
        hub.repository("acme/tiny").commit(kit.model() | other)
        item = kit.locked(allow=("*.json", "*.safetensors"))
        assert kit.fetch(item, tmp_path).keys() == {*kit.model(), "pytorch_model.bin.index.json"}

    def test_shards_that_the_patterns_leave_out_are_missing(self, tiny: Repository) -> None:
        assert kit.reason(lambda: resolve([kit.output(ignore=(SHARD,))], None)) == "hash/checkpoint-shard-missing"


class TestFetching:
    def test_exactly_what_is_locked(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        tiny.commit(kit.model(seed=1))
        told: list[int] = []
        assert kit.fetch(item, tmp_path, told=told) == kit.model()
        assert sum(told) == item.size == sum(map(len, kit.model().values()))

    def test_patterns_and_one_file(self, tiny: Repository, tmp_path: Path) -> None:
        assert kit.fetch(kit.locked(allow=("*.json",), ignore=("model*",), check=False), tmp_path / "a").keys() == {
            "config.json",
            "tokenizer.json",
        }
        alone = kit.locked(check=False).file("config.json")
        assert kit.fetch(alone, tmp_path / "b") == {"file": kit.model()["config.json"]}

    def test_a_cut_connection_is_taken_up_at_the_cut_byte(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        before = len(hub.bodies(SHARD))
        hub.fault(Fault(f"/storage/{SHARD}", cut=300_001))
        hub.fault(Fault(f"/storage/{SHARD}", cut=500_000))
        assert kit.fetch(item, tmp_path) == kit.model()
        bodies = hub.bodies(SHARD)[before:]
        assert [body.sent for body in bodies[:2]] == [300_001, 500_000]
        assert sum(body.sent for body in bodies) == len(kit.model()[SHARD])
        ends = [body.start + body.sent for body in bodies]
        assert [body.start for body in bodies] == [0, *ends[:-1]]

    def test_a_later_run_goes_on_where_an_earlier_one_ended(
        self, hub: Hub, tiny: Repository, tmp_path: Path, monkeypatch
    ) -> None:
        item = kit.locked()
        before = len(hub.bodies(SHARD))
        monkeypatch.setattr(bring, "_ATTEMPTS", 1)
        hub.fault(Fault(f"/storage/{SHARD}", cut=300_001))
        assert kit.reason(lambda: kit.fetch(item, tmp_path)) == "environment/origin-unreachable"
        assert kit.fetch(item, tmp_path) == kit.model()
        assert [body.start for body in hub.bodies(SHARD)[before:]] == [0, 300_001]

    def test_what_is_whole_is_not_fetched_again(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        kit.fetch(item, tmp_path)
        before = len(hub.served)
        assert kit.fetch(item, tmp_path) == kit.model()
        assert hub.served[before:] == []

    def test_what_rotted_meanwhile_is(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        kit.fetch(item, tmp_path)
        (tmp_path / "work/out" / SHARD).write_bytes(b"x" * len(kit.model()[SHARD]))
        (tmp_path / "work/out/config.json").write_bytes(b"{}")
        (tmp_path / "work/out/more").write_bytes(b"not asked for")
        told: list[int] = []
        assert kit.fetch(item, tmp_path, told=told) == kit.model()
        assert sum(told) == item.size

    def test_a_partial_file_that_rotted_accuses_nobody(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        sha256 = hashlib.sha256(kit.model()[SHARD]).hexdigest()
        (tmp_path / "work/partial").mkdir(parents=True)
        (tmp_path / "work/partial" / sha256).write_bytes(b"x" * 1000)
        told: list[int] = []
        assert kit.fetch(item, tmp_path, told=told) == kit.model()
        assert sum(told) == item.size

    def test_wrong_bytes_of_the_right_size_are_kept_aside(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        hub.fault(Fault(f"/storage/{SHARD}", corrupt=True))
        with pytest.raises(HermeticError) as caught:
            kit.fetch(item, tmp_path)
        assert (caught.value.exit_code, caught.value.reason) == (102, "file-mismatch")
        place = Path(caught.value.data["quarantine"])
        assert place.parent == tmp_path / "quarantine"
        assert place.name.endswith(SHARD)
        assert len(place.read_bytes()) == len(kit.model()[SHARD])
        assert str(place) in caught.value.message
        assert not (tmp_path / "work/out" / SHARD).exists()
        assert kit.fetch(item, tmp_path) == kit.model()

    def test_more_bytes_than_there_should_be(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        entry = resolve([kit.output()], None)
        short = entry.files["config.json"].model_copy(update={"size": 5})
        item = kit.output(entry=entry.model_copy(update={"files": entry.files | {"config.json": short}}))
        assert kit.reason(lambda: kit.fetch(item, tmp_path)) == "hash/file-mismatch"

    def test_a_server_without_ranges(self, hub: Hub, tiny: Repository, tmp_path: Path, monkeypatch) -> None:
        from hermetic.testing.hub.answers import Handler

        item = kit.locked()
        hub.fault(Fault(f"/storage/{SHARD}", cut=1000))
        answered = Handler._answer

        def without(self) -> None:
            del self.headers["Range"]
            answered(self)

        monkeypatch.setattr(Handler, "_answer", without)
        told: list[int] = []
        assert kit.fetch(item, tmp_path, told=told) == kit.model()
        assert sum(told) == item.size

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_busy_answers(self, hub: Hub, tiny: Repository, tmp_path: Path, status: int) -> None:
        item = kit.locked()
        hub.fault(Fault("/resolve/", times=3, status=status, headers={"Retry-After": "0"}))
        assert kit.fetch(item, tmp_path) == kit.model()

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({"Retry-After": "37"}, [37.0]),
            ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, [0.0]),
            ({"RateLimit": '"resolvers";r=0;t=55'}, [55.0]),
            ({"Retry-After": "9999999"}, [bring.LONGEST_PAUSE_S]),
            ({"RateLimit": '"resolvers";r=7;t=55'}, []),
        ],
    )
    def test_it_waits_as_long_as_it_is_told(self, hub: Hub, tiny, tmp_path: Path, headers, expected) -> None:
        """Without a word a first failure is tried again at once."""
        waits: list[float | None] = []

        class Impatient(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                waits.append(timeout)
                return False

        work = Fetch(kit.locked(), str(tmp_path / "w"), str(tmp_path / "q"), tell=lambda _: None, nearby=lambda _: ())
        work._bringer.stop = Impatient()
        hub.fault(Fault(f"/resolve/.*{SHARD}", status=429, headers=headers))
        work.bring()
        assert waits == expected

    def test_the_same_bytes_under_two_names_come_once(self, hub: Hub, tmp_path: Path) -> None:
        files = {"a.bin": b"same" * 1000, "b/c.bin": b"same" * 1000}
        hub.repository("acme/tiny").commit(files)
        told: list[int] = []
        assert kit.fetch(kit.locked(), tmp_path, told=told) == files
        assert len(hub.bodies()) == 1
        assert sum(told) == 8000

    def test_a_slow_hub(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        hub.fault(Fault(f"/storage/{SHARD}", pace=10_000_000))
        assert kit.fetch(item, tmp_path) == kit.model()

    def test_an_empty_file(self, hub: Hub, tmp_path: Path) -> None:
        hub.repository("acme/tiny").commit({"empty": b"", "a": b"1"})
        assert kit.fetch(kit.locked(), tmp_path) == {"empty": b"", "a": b"1"}

    def test_a_revision_that_is_gone(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        tiny.commits.clear()
        assert kit.reason(lambda: kit.fetch(item, tmp_path)) == "environment/hub-no-revision"

    def test_a_disk_that_is_too_small(self, tmp_path: Path, hub: Hub, monkeypatch) -> None:
        """Whatever this machine's says: some file systems claim to have room without end."""
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 31, 1 << 30, 1 << 30))
        huge = FixedEntry(commit="0" * 40, files={"a": LockedFile(size=1 << 30, sha256="0" * 64)})
        assert kit.reason(lambda: kit.fetch(kit.output(entry=huge), tmp_path)) == "environment/disk-too-small"
        assert hub.served == []

    def test_an_accepted_licence_lies_beside_the_files(self, hub: Hub, tmp_path: Path) -> None:
        hub.repository("acme/tiny", licence="llama3.1").commit({"a": b"1"})
        found = kit.fetch(kit.locked(accepted="llama3.1"), tmp_path)
        assert found == {
            "a": b"1",
            "LICENSE_ACCEPTED.txt": b"licence: llama3.1\nof: hf://acme/tiny\naccepted: in the recipe\n",
        }

    def test_what_the_hub_gives_in_parts_only(self, hub: Hub, tiny: Repository, tmp_path: Path, monkeypatch) -> None:
        """As the real one does above 50 GB."""
        item = kit.locked()
        hub.longest = 400_000
        assert kit.reason(lambda: kit.fetch(item, tmp_path)) == "environment/hub-failed"
        monkeypatch.setattr(bring, "_LONGEST", 400_000)
        monkeypatch.setattr(bring, "_PART", 300_000)
        before = len(hub.bodies(SHARD))
        hub.fault(Fault(f"/storage/{SHARD}", cut=100_001))
        assert kit.fetch(item, tmp_path) == kit.model()
        bodies = hub.bodies(SHARD)[before:]
        assert [body.start for body in bodies] == [0, 100_001, 400_001, 700_001, 1_000_001]
        assert sum(body.sent for body in bodies) == len(kit.model()[SHARD])

    @pytest.mark.parametrize("how", [{"hold": 1000}, {"hold": 0}, {"mute": True}])
    def test_stopping_ends_a_download_that_hangs(self, hub: Hub, tiny: Repository, tmp_path: Path, how) -> None:
        item = kit.locked()
        path = "/resolve/.*" if "mute" in how else "/storage/"
        held = hub.fault(Fault(path + SHARD, **how))
        work = Fetch(item, str(tmp_path / "w"), str(tmp_path / "q"), tell=lambda _: None, nearby=lambda _: ())
        ended: list[BaseException] = []

        def run() -> None:
            try:
                work.bring()
            except StoppedError as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert held.seen.wait(60)
        work.stop()
        thread.join(60)
        assert len(ended) == 1


class TestNearby:
    def cache(self, tmp_path: Path, sha256: str) -> Path:
        place = tmp_path / "hf/hub/models--acme--tiny/blobs" / sha256
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def test_the_user_s_cache_is_copied_after_hashing(self, hub: Hub, tmp_path: Path) -> None:
        from huggingface_hub import snapshot_download

        hub.repository("acme/tiny").commit(kit.model())
        snapshot_download("acme/tiny", endpoint=hub.endpoint, cache_dir=tmp_path / "hf/hub")
        item = kit.locked()
        before = len(hub.served)
        assert kit.fetch(item, tmp_path) == kit.model()
        assert hub.served[before:] == []
        assert (tmp_path / "work/out" / SHARD).stat().st_nlink == 1

    def test_what_lies_in_it_is_not_believed(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        content = kit.model()[SHARD]
        self.cache(tmp_path, hashlib.sha256(content).hexdigest()).write_bytes(b"x" * len(content))
        told: list[int] = []
        assert kit.fetch(item, tmp_path, told=told) == kit.model()
        assert sum(told) == item.size

    def test_files_that_the_store_has(self, hub: Hub, tiny: Repository, tmp_path: Path) -> None:
        item = kit.locked()
        have = tmp_path / "have"
        have.write_bytes(kit.model()[SHARD])
        before = len(hub.bodies(SHARD))
        assert kit.fetch(item, tmp_path, nearby=[tmp_path / "gone", have]) == kit.model()
        assert len(hub.bodies(SHARD)) == before
