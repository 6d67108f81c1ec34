"""From a Hub to an engine: the shipped recipe, and a calibration set of which one sample changes."""

import json
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


RECIPE = """
from hermetic import hub_dataset, hub_snapshot
from hermetic.llm import openvino
model = hub_snapshot("acme/tiny")
samples = hub_dataset("acme/chats", allow="data/*.jsonl")
weights = openvino.Checkpoint(model=model)
quantised = openvino.Quantise(
    weights=weights, mode="int4_sym", group_size=64, awq=True, calibration=samples, samples=8, length=32
)
engine = openvino.Engine(weights=weights, quantised=quantised)
default = engine
"""


def test_one_calibration_sample_changed_rebuilds_from_quantisation_on(
    hub: Hub, cli, tmp_path: Path, repository: Path
) -> None:
    source = repository / "recipes" / "tiny_qwen3"
    hub.repository("acme/tiny").commit_folder(source / "model")
    chats = [part for part in (source / "calibration.txt").read_text("utf-8").split("\n\n") if part.strip()][:8]
    data = hub.repository("acme/chats", kind="dataset")

    def publish() -> None:
        lines = "".join(json.dumps({"text": chat}) + "\n" for chat in chats)
        data.commit({"data/train.jsonl": lines.encode(), "README.md": b"chats"})

    def states() -> dict[str, str]:
        made = cli("realise", "recipe.py", "--json")
        assert made.exit_code == 0, made.stderr
        events = [json.loads(line) for line in made.lines]
        return {event["stage"]: event["state"] for event in events if event["event"] == "state"}

    (tmp_path / "recipe.py").write_text(RECIPE)
    publish()
    assert cli("lock", "recipe.py").exit_code == 0
    built = {"weights": "built", "quantised": "built", "engine": "built"}
    assert states() == {"tiny": "fetched", "chats": "fetched", **built}
    chats[3] = "What is a lock file? It says what every name stood for."
    publish()
    assert cli("lock", "recipe.py", "--update", "acme/chats").exit_code == 0
    assert states() == {"chats": "fetched", "weights": "in-place", "quantised": "built", "engine": "built"}
