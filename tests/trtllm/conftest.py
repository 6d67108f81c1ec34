"""What recipes are realised against here: one stand-in image, one store and one inventory of GPUs for all of them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from hermetic.sandbox import tools
from hermetic.testing.gpu import H100, H200, stand_in_gpus
from hermetic.testing.trtllm.image import StandinImage, build_image

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "llm"), str(TESTS / "models")]  # checkpoints and models_kit


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> StandinImage:
    """The image of a TensorRT-LLM that builds nothing that runs."""
    tools.available()
    return build_image(tmp_path_factory.mktemp("standin"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a machine with two H100 and eight H200, which are stand-ins, and with a store for all tests."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("shared")
    gpus = (H100(0), H100(1), *(H200(number) for number in range(2, 10)))
    return stand_in_gpus(folder / "machine", gpus) | {"HERMETIC_STORE": str(folder / "store")}
