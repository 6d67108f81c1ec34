"""Stage `weights`: a Hugging Face checkpoint, checked by name and written in one normal form.

The output does not depend on how the checkpoint was sharded, on tensors that the architecture ignores, or on who
saved it: ``config.json``, ``model.safetensors`` (tensors sorted by name, bits unchanged), ``tokenizer.json``,
``tokenizer_config.json`` with the chat template in it, ``generation_config.json``. Tensors are streamed, so memory
does not grow with the model.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from architecture import Architecture, parse_config
from safetensors_file import Tensor, check_finite, read_checkpoint, same_bytes, write_file
from stage_file import Refused, StageFile, read_json, run, say, write_json

#: Keys of config.json that say who wrote it and not what the model is.
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "_commit_hash", "use_cache", "initializer_range"}
#: Tensors that some versions of transformers saved and that follow from config.json.
_DERIVED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")


def build(stage: StageFile) -> None:
    source = _folder(stage.input("model"))
    config = read_json(source / "config.json")
    architecture = parse_config(config)
    tensors = check_tensors(architecture, read_checkpoint(source))
    tokenizer, tokenizer_config = read_tokenizer(source, architecture)
    generation = _generation(source, config, architecture)
    for name, tensor in tensors.items():
        check_finite(name, tensor)
    say(f"{architecture.kind}: {architecture.layers} layers, {len(tensors)} tensors, {_parameters(tensors)} parameters")
    stage.out.mkdir(exist_ok=True)
    write_file(stage.out / "model.safetensors", tensors)
    write_json(stage.out / "config.json", {key: config[key] for key in config if key not in _NOT_THE_MODEL})
    (stage.out / "tokenizer.json").write_bytes(tokenizer)
    write_json(stage.out / "tokenizer_config.json", tokenizer_config)
    write_json(stage.out / "generation_config.json", generation)


def _folder(source: Path) -> Path:
    if not source.is_dir():
        raise Refused("the model is a file; give the folder that holds config.json and the weights")
    return source


def check_tensors(architecture: Architecture, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Exactly the tensors that `architecture` needs. Raises `Refused` on a missing, extra or misshapen one."""
    expected = architecture.tensors()
    missing = [name for name in expected if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Refused(f"the checkpoint has no tensor {missing[0]}{more}")
    extra = sorted(name for name in found if name not in expected and not _DERIVED.fullmatch(name))
    if architecture.tied and "lm_head.weight" in extra:
        extra.remove("lm_head.weight")
        if not same_bytes(found["lm_head.weight"], found["model.embed_tokens.weight"]):
            raise Refused("tie_word_embeddings is set, but lm_head.weight differs from model.embed_tokens.weight")
    if extra:
        what = "a bias that is not supported" if extra[0].endswith(".bias") else "an unknown tensor"
        more = f" ({len(extra)} unknown in all)" if len(extra) > 1 else ""
        raise Refused(f"the checkpoint holds {what}, {extra[0]}{more}")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise Refused(f"{name} has shape {list(found[name].shape)}, but config.json says {list(shape)}")
    return {name: found[name] for name in expected}


def _parameters(tensors: dict[str, Tensor]) -> int:
    total = 0
    for tensor in tensors.values():
        count = 1
        for size in tensor.shape:
            count *= size
        total += count
    return total


def read_tokenizer(source: Path, architecture: Architecture) -> tuple[bytes, dict[str, Any]]:
    """tokenizer.json as it is and tokenizer_config.json with the chat template, after a look at both."""
    tokenizer = read_json(source / "tokenizer.json")
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise Refused(
            f"tokenizer.json holds a tokenizer of type {kind!r}; BPE and others with a vocabulary are supported"
        )
    ids = dict(model["vocab"])
    ids |= {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or ()}
    last = max(ids, key=lambda token: int(ids[token]))
    if ids[last] >= architecture.vocabulary:
        size = architecture.vocabulary
        raise Refused(f"the tokenizer does not fit: {last!r} is token {ids[last]}, but vocab_size is {size}")
    config = read_json(source / "tokenizer_config.json") if (source / "tokenizer_config.json").is_file() else {}
    template = source / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    return (source / "tokenizer.json").read_bytes(), config


def _generation(source: Path, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
    """generation_config.json, made from config.json where there is none; it must know how an answer ends."""
    path = source / "generation_config.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    generation = {key: value for key, value in found.items() if key not in _NOT_THE_MODEL}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if generation.get(key) is None and config.get(key) is not None:
            generation[key] = config[key]
    end = generation.get("eos_token_id")
    ends = end if isinstance(end, list) else [end]
    if not ends or any(type(token) is not int or not 0 <= token < architecture.vocabulary for token in ends):
        raise Refused(f"eos_token_id is {end!r} in generation_config.json and config.json: no answer would ever end")
    return generation


if __name__ == "__main__":
    run(build)
