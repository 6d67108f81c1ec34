"""What is in deploy/, as linters and schemas see it; `slow` builds the image and starts a sandbox in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermetic.errors import EXIT_CODES, Domain

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def tool(name: str) -> str:
    """A program of the environment that runs this."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        pytest.skip(f"needs {name}")
    return str(found)


def checked(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def job() -> dict[str, Any]:
    (found,) = [one for one in yaml.safe_load_all((DEPLOY / "kubernetes/job.yaml").read_text()) if one["kind"] == "Job"]
    return dict(found["spec"])


def test_the_containerfile_is_linted() -> None:
    checked(tool("hadolint"), "--failure-threshold", "style", DEPLOY / "Containerfile")


@pytest.mark.parametrize("version", ["1.35", "1.37"])
def test_the_manifests_are_what_kubernetes_takes(version: str) -> None:
    checked(tool("kubernetes-validate"), "--strict", "--quiet", "-k", version, *MANIFESTS)


def test_images_are_named_by_digest() -> None:
    text = "".join(path.read_text("utf-8") for path in (DEPLOY / "Containerfile", *MANIFESTS))
    named = re.findall(r"^(?:ARG BASE=|\s*image: )(\S+)$", text, re.MULTILINE)
    assert len(named) == 1 + len(MANIFESTS)
    assert [name for name in named if "@sha256:" not in name] == []
    assert ":latest" not in text


def test_a_job_is_tried_again_only_where_that_may_help() -> None:
    (rule,) = job()["podFailurePolicy"]["rules"]
    mendable = {Domain.ENVIRONMENT, Domain.CACHE, Domain.BUSY}
    final = {code for domain, code in EXIT_CODES.items() if domain not in mendable and code > 1}
    assert set(rule["onExitCodes"]["values"]) == final


def test_the_job_has_a_gpu_a_store_and_no_more_rights_than_it_says() -> None:
    (container,) = job()["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/data", "/recipe"}
    allowed = (DEPLOY / "README.md").read_text("utf-8").split("--cap-add ")[1].split("`")[0].split(",")
    rights = container["securityContext"]
    assert (rights["privileged"], rights["capabilities"]["drop"]) == (False, ["ALL"])
    assert sorted(rights["capabilities"]["add"]) == sorted(allowed)
