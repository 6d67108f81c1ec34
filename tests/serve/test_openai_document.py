"""The API against its own OpenAPI document: schemathesis asks what the document allows, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from openai_kit import Api, everything
from triton_kit import Tiny

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,negative_data_rejection"
)


def test_the_document_names_what_there_is(api: Api) -> None:
    found = api.get("/openapi.json")
    assert found["openapi"].startswith("3.1")
    assert set(found["paths"]) == {
        "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}", "/health/live", "/health/ready",
        "/metrics", "/version",
    }  # fmt: skip
    chat = found["components"]["schemas"]["ChatBody"]
    assert chat["additionalProperties"] is False
    assert chat["required"] == ["model", "messages"]


@pytest.mark.slow
def test_whatever_is_asked_gets_an_answer_in_form(tiny: Tiny, tmp_path: Path) -> None:
    with everything("--deadline", "5", "--concurrent", "16") as api:
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{api.port}/openapi.json",
            "--checks", CHECKS,
            "--max-examples", "60", "--seed", "1", "--generation-deterministic", "--no-color",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stdout[-6000:]
        assert "Traceback" not in "".join(api.said)
