"""Stage `tensorrt-llm.whisper-manifest`: ``manifest.json`` of an encoder and a decoder, in the form of an engine's."""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from file_digests import digests_below
from stage_file import StageFile, read_json, run, write_json
from tensorrt_llm_manifest import described


def build(stage: StageFile) -> None:
    engine, asked = stage.input("engine"), stage.parameters
    files = digests_below(engine)
    encoder, decoder = (described(engine / half, asked, asked["requested"][half]) for half in ("encoder", "decoder"))
    own = ("model", "quantisation", "build")
    manifest = {
        **decoder,
        "encoder": {name: encoder[name] for name in own},
        "tokenizer": {name: of for name, of in files.items() if name.endswith(".tiktoken")},
        "inputs": {},
        "files": files,
    }
    if "smoke" in stage.inputs:
        manifest["smoke"] = read_json(stage.input("smoke") / "report.json")
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "manifest.json", manifest)


if __name__ == "__main__":
    run(build)
