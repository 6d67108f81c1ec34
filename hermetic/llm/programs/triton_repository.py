"""Stage `triton.repository`: a folder that Triton loads, and ``deployment.json``, what it promises to whom it serves.

The repository names fixed places (``/build/in/engine``, ``/build/in/tokenizer``), where whoever starts the server puts
engine and tokenizer, so it is the same bytes on every machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from blake3 import blake3
from file_digests import digests_below
from stage_file import Refused, StageFile, read_json, run, say, write_json
from tokenizers import Tokenizer
from triton_checks import problems
from triton_config import Model, pbtxt
from triton_kinds import XGRAMMAR, Served, served

#: What a tokenizer is read from, by whoever of server and proxy reads it.
TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt",
    "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip


def build(stage: StageFile) -> None:
    found = served(stage.input("engine"), stage.parameters)
    for problem in problems(found.models):
        raise Refused(f"the models do not fit together: {problem}")
    tokenizer = stage.inputs.get("tokenizer", stage.input("engine") / found.checkpoint)
    needed = found.vocabulary or ("tokenizer.json",)
    if not any((tokenizer / name).is_file() for name in needed):
        raise Refused(f"there is no {' and no '.join(needed)} beside the tokenizer's other files")
    deployment = _deployment(stage, found, tokenizer)
    for model in found.models:
        _write(stage.out / "repository" / model.name, _named(model, deployment), found)
    for place, text in found.texts.items():
        (stage.out / "repository" / place).write_text(text, encoding="utf-8")
    if found.guided:
        write_json(stage.out / XGRAMMAR, xgrammar_info(tokenizer))
    write_json(stage.out / "deployment.json", deployment)
    say(f"{found.kind}: {len(found.models)} models; engine {deployment['engine']['hash']}")


def _named(model: Model, deployment: dict[str, Any]) -> Model:
    """The engine's own model says what it serves, so that whoever asks Triton can tell it from another."""
    if model.name != "tensorrt_llm":
        return model
    hashes = {f"{what}_hash": deployment[what]["hash"] for what in ("engine", "tokenizer")}
    return replace(model, parameters={**model.parameters, **hashes})


def _write(folder: Path, model: Model, found: Served) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(pbtxt(model), encoding="utf-8")
    if model.name in found.code:
        shutil.copyfile(Path(__file__).parent / found.code[model.name], folder / "1" / "model.py")
        for name in found.modules.get(model.name, ()):
            shutil.copyfile(Path(__file__).parent / name, folder / "1" / name)
    else:
        (folder / "1" / ".keep").touch()  # an empty folder is lost on the way through many tools


def _deployment(stage: StageFile, found: Served, tokenizer: Path) -> dict[str, Any]:
    files = _engine_files(stage)
    names = found.vocabulary or TOKENIZER_FILES
    read = {name: of for name, of in digests_below(tokenizer).items() if name in names}
    folder = "" if "tokenizer" in stage.inputs else found.checkpoint
    return {
        "deployment": 1,
        "kind": found.kind,
        "quantisation": found.quantisation,
        "limits": dict(found.limits),
        "world": found.world,
        "models": [model.name for model in found.models],
        "tensors": found.tensors,
        "engine": {"hash": files_hash(files), "files": files},
        "tokenizer": {"hash": files_hash(read), "files": read, "folder": folder},
    }


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


def xgrammar_info(folder: Path) -> dict[str, Any]:
    """What TensorRT-LLM's C++ backend knows of a tokenizer for guided decoding, as its
    ``generate_xgrammar_tokenizer_info.py`` writes it: tokens by number, the whole tokenizer, and what ends an answer.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return {
        "encoded_vocab": sorted(vocabulary, key=vocabulary.__getitem__),
        "tokenizer_str": tokenizer.to_str(),
        "stop_token_ids": [_end(folder, vocabulary)],
    }


def _end(folder: Path, vocabulary: dict[str, int]) -> int:
    path = folder / "tokenizer_config.json"
    token = read_json(path).get("eos_token") if path.is_file() else None
    token = token["content"] if isinstance(token, dict) else token
    if token not in vocabulary:
        raise Refused(f"tokenizer_config.json says that {token!r} ends an answer, and the tokenizer does not know it")
    return vocabulary[token]


if __name__ == "__main__":
    run(build)
