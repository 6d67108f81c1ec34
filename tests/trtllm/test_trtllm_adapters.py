"""An engine that brings LoRA adapters along, from the stand-in image."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from hermetic.sandbox import tools
from hermetic.testing.trtllm.image import build_image

RECIPE = """\
from hermetic import Image, Source
from hermetic.llm import tensorrt_llm

engine = tensorrt_llm.Engine(
    environment=Image({reference!r}), release="1.2.1", checkpoint=Source("checkpoint"), adapters=Source("adapters"),
    options=tensorrt_llm.options_file("tensorrt_llm.yaml", section="build"),
)
"""


def weights(name: str) -> bytes:
    """A safetensors file without tensors."""
    head = json.dumps({"__metadata__": {"language": name}}).encode()
    return struct.pack("<Q", len(head)) + head


@pytest.mark.slow
def test_the_adapters_are_part_of_the_engine(tmp_path: Path, cli) -> None:
    tools.available()
    image = build_image(tmp_path / "image", variables={"STANDIN_PAUSE": "0"})
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"architecture": "LlamaForCausalLM", "dtype": "bfloat16"}')
    (tmp_path / "checkpoint" / "rank0.safetensors").write_bytes(bytes(1000))
    for name in ("de", "fr"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "adapter_config.json").write_text(json.dumps({"language": name}))
        (tmp_path / "adapters" / name / "adapter_model.safetensors").write_bytes(weights(name))
    (tmp_path / "tensorrt_llm.yaml").write_text("build:\n  lora_plugin: auto\n  max_lora_rank: 16\n")
    (tmp_path / "recipe.py").write_text(RECIPE.format(reference=image.reference))
    assert cli("lock", "recipe.py").exit_code == 0
    result = cli("realise", "recipe.py#engine")
    assert result.exit_code == 0, result.stderr
    engine = Path(result.lines[0])
    assert sorted(os.listdir(engine)) == ["config.json", "lora", "rank0.engine", "timing.cache"]
    found = {path.name: (path / "adapter_model.safetensors").read_bytes() for path in (engine / "lora").iterdir()}
    assert found == {"0": weights("de"), "1": weights("fr")}
