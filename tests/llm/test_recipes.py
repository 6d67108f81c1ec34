"""The shipped recipes through the real command, sandbox and store."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest

from hermetic.store import Store

pytestmark = pytest.mark.slow


def trees(root: Path) -> dict[str, set[str]]:
    """Tree digests by name: everything that a realisation left in a store, environments included."""
    store = Store.open(root, create=False)
    found: dict[str, set[str]] = {}
    for key, preimage in store.preimages():
        realisation = store.realisation(key)
        assert realisation is not None
        found.setdefault(str(preimage.get("name", realisation.name)), set()).add(realisation.tree.hex)
    return found


def test_the_tiny_recipe_gives_equal_trees_in_two_empty_stores(cli, tmp_path: Path, repository: Path) -> None:
    recipe = repository / "recipes" / "tiny_qwen3.py"
    for name in ("one", "two"):
        result = cli("realise", recipe, "--no-link", "--store", tmp_path / name)
        assert result.exit_code == 0, result.stderr
    one, two = trees(tmp_path / "one"), trees(tmp_path / "two")
    assert {"weights", "quantised", "engine", "manifest", "smoke"} <= set(one)
    assert one == two


def test_a_user_s_checkpoint_through_the_openvino_recipe(cli, tmp_path: Path, repository: Path) -> None:
    """A sharded Llama with llama3 rotary positions: built, answering, and found in place the second time."""
    settings = checkpoints.config("llama", rope_scaling=checkpoints.LLAMA3, rope_theta=5e5)
    model = checkpoints.write(tmp_path / "model", settings, dtype="BF16", shards=2)
    recipe = repository / "recipes" / "openvino.py"
    asked = (recipe, "--set", f"model={model}", "--set", "mode=int8_asym")
    result = cli("realise", *asked)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "result" / "openvino_model.xml").exists()
    assert cli("run", *asked, "--max-new-tokens", "8", "Hello").stdout.strip()
    again = cli("realise", *asked, "--json")
    assert '"state": "building"' not in again.stdout
    gone = cli("realise", recipe, "--set", f"model={tmp_path / 'result'}")
    assert gone.exit_code == 100
    assert "stage-failed" in gone.stderr
