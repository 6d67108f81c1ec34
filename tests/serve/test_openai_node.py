"""OpenAI's own client for Node, unmodified, against the tiny engine behind a real Triton."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from openai_kit import ANSWER, MODEL, Api

NODE = Path(__file__).resolve().parent / "node"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")
def test_the_client_for_node(api: Api, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    shutil.copytree(NODE, folder)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", str(tmp_path / "cache")]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    url = f"http://127.0.0.1:{api.port}/v1"
    done = subprocess.run(
        ["node", "client.mjs", url, MODEL], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["models"] == [MODEL]
    assert said["answer"]["message"]["content"] == said["streamed"] == said["helped"] == ANSWER
    assert said["answer"]["finish_reason"] == said["finished"] == "stop"
    assert said["used"] == said["usage"]
    assert said["roles"] == ["assistant"]
    assert said["completion"] == 4
    wrong = said["errors"]
    assert wrong["temperature"] == {
        "name": "BadRequestError",
        "status": 400,
        "code": "invalid_value",
        "param": "temperature",
    }
    assert (wrong["model"]["status"], wrong["model"]["code"]) == (404, "model_not_found")
    assert wrong["embeddings"]["status"] == 404
