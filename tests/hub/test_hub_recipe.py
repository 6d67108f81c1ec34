"""The shipped recipe from a Hub to an engine that answers."""

import shutil
from pathlib import Path

import pytest

from hermetic.testing.hub import Hub

pytestmark = pytest.mark.slow


def test_a_model_of_a_hub_becomes_an_engine(hub: Hub, cli, tmp_path: Path, repository: Path) -> None:
    tiny = hub.repository("acme/tiny", licence="apache-2.0")
    tiny.commit_folder(repository / "recipes" / "tiny_qwen3" / "model")
    shutil.copy(repository / "recipes" / "hub.py", tmp_path)
    asked = ("hub.py", "--set", "repository=acme/tiny")
    assert cli("lock", *asked).exit_code == 0
    made = cli("realise", *asked)
    assert made.exit_code == 0, made.stderr
    assert (tmp_path / "result" / "openvino_model.xml").exists()
    assert cli("run", *asked, "--max-new-tokens", "8", "What is a store path?").stdout.strip()
    fetched = cli("tree", "hub.py#engine", *asked[1:])
    assert "fixed" in fetched.stdout
