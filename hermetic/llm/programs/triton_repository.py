"""Stage `triton.repository`: a folder that Triton loads, and ``deployment.json``, what it promises to whom it serves.

The repository names fixed places (``/build/in/engine``, ``/build/in/tokenizer``), where whoever starts the server puts
engine and tokenizer, so it is the same bytes on every machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

import triton_openvino
from blake3 import blake3
from file_digests import digests_below
from stage_file import Refused, StageFile, read_json, run, say, write_json
from triton_config import Model, pbtxt

ENGINE, TOKENIZER = "/build/in/engine", "/build/in/tokenizer"
#: What a tokenizer is read from, by whoever of server and proxy reads it.
TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt",
    "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
#: Program files that become a model's ``1/model.py``.
CODE = {
    "preprocessing": "triton_tokenize_model.py",
    "tensorrt_llm": "triton_openvino_model.py",
    "postprocessing": "triton_detokenize_model.py",
}


def build(stage: StageFile) -> None:
    engine = stage.input("engine")
    tokenizer = stage.inputs.get("tokenizer", engine)
    if not (engine / "openvino_model.xml").is_file():
        raise Refused("the engine is no OpenVINO folder: it has no openvino_model.xml")
    if not (tokenizer / "tokenizer.json").is_file():
        raise Refused("there is no tokenizer.json beside the tokenizer's other files")
    limits = _limits(engine, stage.parameters)
    models = triton_openvino.models(_parameters(limits, stage.parameters), TOKENIZER)
    for model in models:
        _write(stage.out / "repository" / model.name, model)
    files = _engine_files(stage)
    engine_hash = files_hash(files)
    deployment = {
        "deployment": 1,
        "kind": "openvino",
        "quantisation": _quantisation(engine),
        "limits": limits,
        "models": [model.name for model in models],
        "tensors": "0.20",
        "engine": {"hash": engine_hash, "files": files},
        "tokenizer": _tokenizer(tokenizer),
    }
    write_json(stage.out / "deployment.json", deployment)
    say(f"{len(models)} models; engine {engine_hash}")


def _limits(engine: Path, asked: dict[str, Any]) -> dict[str, int]:
    """Of one sequence in tokens, and of how many run at once."""
    context = read_json(engine / "config.json").get("max_position_embeddings")
    if not isinstance(context, int) or context < 1:
        raise Refused(f"config.json says that max_position_embeddings is {context!r}")
    wanted = asked["max_seq_len"] or context
    if wanted > context:
        raise Refused(f"max_seq_len is {wanted}, and the engine's model was made for {context} tokens")
    return {"max_seq_len": wanted, "max_batch_size": asked["max_batch_size"]}


def _parameters(limits: dict[str, int], asked: dict[str, Any]) -> dict[str, str]:
    return {
        "gpt_model_path": ENGINE,
        "max_seq_len": str(limits["max_seq_len"]),
        "max_batch_size": str(limits["max_batch_size"]),
        "kv_cache_gib": str(asked["kv_cache_gib"]),
        "enable_kv_cache_reuse": "true" if asked["kv_cache_reuse"] else "false",
    }


def _write(folder: Path, model: Model) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(pbtxt(model), encoding="utf-8")
    if model.steps:
        (folder / "1" / ".keep").touch()  # an empty folder is lost on the way through many tools
    else:
        shutil.copyfile(Path(__file__).parent / CODE[model.name], folder / "1" / "model.py")


def _engine_files(stage: StageFile) -> dict[str, Any]:
    """Digests of the engine's files: those of its manifest, if there is one, which is then compared by the server."""
    if "manifest" not in stage.inputs:
        return digests_below(stage.input("engine"))
    files = read_json(stage.input("manifest") / "manifest.json").get("files")
    if not isinstance(files, dict) or not files:
        raise Refused("manifest.json lists no files")
    return files


def files_hash(files: dict[str, Any]) -> str:
    """One digest for all: BLAKE3 of the JSON object of file name to BLAKE3, sorted and without spaces."""
    named = {name: of["blake3"] for name, of in files.items()}
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"blake3:{blake3(text.encode()).hexdigest()}"


def _tokenizer(folder: Path) -> dict[str, Any]:
    files = {name: of for name, of in digests_below(folder).items() if name in TOKENIZER_FILES}
    return {"hash": files_hash(files), "files": files}


def _quantisation(engine: Path) -> str:
    path = engine / "quantisation.json"
    return str(read_json(path)["asked"]["mode"]) if path.is_file() else "unknown"


if __name__ == "__main__":
    run(build)
