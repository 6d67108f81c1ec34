"""Tokens: where they are found, and where they are not to be found."""

import os
from pathlib import Path

import hub_kit as kit
import pytest

from hermetic.errors import HermeticError
from hermetic.fetch.fixed import resolve
from hermetic.testing.hub import Hub, Repository


@pytest.fixture
def tiny(hub: Hub) -> Repository:
    found = hub.repository("acme/tiny", licence="apache-2.0")
    found.commit(kit.model())
    return found


@pytest.fixture
def secret(tmp_path: Path, hub: Hub):
    """Put a secret where Truss would."""

    def put(name: str, value: str) -> None:
        (tmp_path / "secrets").mkdir(exist_ok=True)
        (tmp_path / "secrets" / name).write_text(value + "\n")

    return put


class TestTokens:
    @pytest.fixture
    def gated(self, hub: Hub) -> Repository:
        found = hub.repository("acme/tiny", gated=True, allowed={"hf_in"})
        found.commit(kit.model())
        return found

    def test_none(self, gated: Repository) -> None:
        with pytest.raises(HermeticError) as caught:
            resolve([kit.output(secret="hf_access_token")], None)
        assert (caught.value.domain.value, caught.value.reason) == ("environment", "hub-denied")
        assert "there is no token" in caught.value.message
        assert "TRUSS_SECRET_hf_access_token" in caught.value.hint

    def test_one_that_may_not(self, gated: Repository, monkeypatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_out")
        with pytest.raises(HermeticError) as caught:
            resolve([kit.output()], None)
        assert "the token may not read it" in caught.value.message
        assert "hf_out" not in f"{caught.value}{caught.value.hint}{caught.value.data}"

    def test_from_the_environment(self, hub: Hub, gated: Repository, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_in")
        assert kit.fetch(kit.locked(), tmp_path) == kit.model()
        assert {item.token for item in hub.bodies()} == {""}

    def test_from_the_login(self, gated: Repository, tmp_path: Path) -> None:
        (tmp_path / "hf").mkdir(exist_ok=True)
        (tmp_path / "hf/token").write_text("hf_in")
        assert kit.locked().entry.gated

    def test_from_truss_s_places_first(self, gated: Repository, secret, monkeypatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_out")
        secret("mine", "hf_in")
        assert kit.locked(secret="mine").entry.gated
        secret("mine", "hf_out")
        monkeypatch.setenv("TRUSS_SECRET_mine", "hf_in")
        assert kit.locked(secret="mine").entry.gated

    def test_a_private_repository(self, hub: Hub, monkeypatch) -> None:
        hub.repository("acme/tiny", private=True, allowed={"hf_in"}).commit({"a": b"1"})
        assert kit.reason(kit.locked) == "environment/hub-no-repository"
        monkeypatch.setenv("HF_TOKEN", "hf_in")
        assert kit.locked().entry.files.keys() == {"a"}

    def test_a_login_in_the_mirror_s_address_stays_there(self, hub: Hub, tiny: Repository, monkeypatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint.replace("http://", "http://alice:secret@"))
        assert kit.locked().entry.source == f"{hub.endpoint}/acme/tiny"
        tiny.branches.clear()
        with pytest.raises(HermeticError) as caught:
            kit.locked()
        assert "secret" not in f"{caught.value}{caught.value.hint}"

    def test_secrets_of_strange_names_are_not_looked_for(self, hub: Hub, tmp_path: Path) -> None:
        from hermetic.fetch.secrets import find_secret

        (tmp_path / "outside").write_text("x")
        assert find_secret("../outside") == ""
        assert os.environ["HERMETIC_SECRETS"]
