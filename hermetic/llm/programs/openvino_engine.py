"""Stage `engine`: a folder that OpenVINO GenAI loads as it is.

The graph with its KV cache as state, the tokenizer and detokenizer as graphs, the settings of generation, the chat
template, ``quantisation.json``, and the versions of the tools in ``engine.json``. The tokenizer is compared with the
tokenizers library, and the folder is loaded once and made to produce a token.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

import openvino as ov
import openvino_genai
from openvino_tokenizer import compare, convert
from stage_file import Refused, StageFile, read_json, run, say, write_json

_FROM_WEIGHTS = ("config.json", "tokenizer.json", "tokenizer_config.json")
_FROM_QUANTISED = ("openvino_model.xml", "openvino_model.bin", "quantisation.json")
_TOOLS = ("openvino-genai", "openvino-tokenizers")
#: Settings of generation that are decimals, and so come as strings.
_DECIMALS = {"temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"}


def build(stage: StageFile) -> None:
    weights, quantised = stage.input("weights"), stage.input("quantised")
    stage.out.mkdir(exist_ok=True)
    for folder, names in ((weights, _FROM_WEIGHTS), (quantised, _FROM_QUANTISED)):
        for name in names:
            shutil.copyfile(folder / name, stage.out / name)
    generation = _generation(weights, stage.parameters["generation"])
    write_json(stage.out / "generation_config.json", generation)
    _write_tokenizer(stage.out, generation)
    say(f"tokenizer equal on {compare(stage.out / 'tokenizer.json', stage.out)} texts")
    tools = read_json(quantised / "quantisation.json")["tools"]
    write_json(stage.out / "engine.json", {"tools": tools | {name: version(name) for name in _TOOLS}})
    _load(stage.out)


def _generation(weights: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's settings with those of the recipe over them."""
    generation: dict[str, Any] = read_json(weights / "generation_config.json")
    for key, value in wanted.items():
        generation[key] = _decimal(key, value) if key in _DECIMALS else value
    return generation


def _decimal(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Refused(f"generation: {key} is {value!r}, expected a decimal as a string") from None


def _write_tokenizer(out: Path, generation: dict[str, Any]) -> None:
    end = generation["eos_token_id"]
    end = end[0] if isinstance(end, list) else end
    vocabulary = _vocabulary(out)
    pad = generation.get("pad_token_id")
    pad = end if pad is None else pad
    info: dict[str, str | int] = {"eos_token_id": end, "pad_token_id": pad}
    if isinstance(generation.get("bos_token_id"), int):
        info["bos_token_id"] = generation["bos_token_id"]
    for model, name in zip(
        convert(out / "tokenizer.json", (vocabulary.get(pad, ""), pad), info), ("", "de"), strict=True
    ):
        ov.save_model(model, str(out / f"openvino_{name}tokenizer.xml"), compress_to_fp16=False)


def _vocabulary(out: Path) -> dict[int, str]:
    tokenizer = read_json(out / "tokenizer.json")
    added = {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens") or ()}
    return {number: token for token, number in tokenizer["model"]["vocab"].items()} | added


def _load(out: Path) -> None:
    pipeline = openvino_genai.LLMPipeline(str(out), "CPU", INFERENCE_PRECISION_HINT="f32")
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens, settings.apply_chat_template = 1, False
    pipeline.generate("engine", settings)
    say("the engine loads and generates")


if __name__ == "__main__":
    run(build)
