"""Stage `smoke`: does the engine work, and does it compute what it should?

* the logits of a whole prompt at once and of the same tokens one by one through the KV cache, against a NumPy forward
  pass with the weights as the engine holds them (`tolerance`) and with the original ones (`original_tolerance`);
* each prompt is answered twice with the same tokens, the answer ends or reaches its limit, and it does not go round
  in circles where the original weights would not; a prompt with a golden answer gets exactly that.

All in float32 (``INFERENCE_PRECISION_HINT``), because the default depends on the CPU. Differences are relative to the
largest logit. The first failed check fails the stage; ``report.json`` has what was measured, rounded up to one digit.
"""

from __future__ import annotations

import hashlib
import os
import sys
from decimal import ROUND_UP, Context, Decimal
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

import numpy as np
import openvino as ov
import openvino_genai
from architecture import Architecture, parse_config
from openvino_weights import Graph
from reference_forward import Array, Weights, difference, logits
from repetition import repetition
from safetensors_file import read_checkpoint
from stage_file import Refused, StageFile, read_json, run, say, write_json

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def build(stage: StageFile) -> None:
    engine, parameters = stage.input("engine"), stage.parameters
    golden: dict[str, str] = parameters["golden"]
    prompts = list(dict.fromkeys([*parameters["prompts"], *golden]))
    if not prompts:
        raise Refused("there are no prompts to test the engine with")
    if "manifest" in stage.inputs:
        _check_files(engine, read_json(stage.input("manifest") / "manifest.json")["files"])
    architecture = parse_config(read_json(engine / "config.json"))
    pipeline = openvino_genai.LLMPipeline(str(engine), "CPU", **EXACT)
    answers = [_answer(pipeline, architecture, prompt, parameters) for prompt in prompts]
    del pipeline
    tensors = read_checkpoint(stage.input("weights"))

    def original(name: str) -> Array:
        return tensors[name].float32()

    for answer in answers:
        _check_answer(answer, golden.get(answer["prompt"]), parameters)
        answer["repetition"] = _check_repetition(answer, architecture, original, parameters)
    tokens = (answers[0]["asked"] + answers[0]["tokens"])[: parameters["positions"]]
    compared = _compare_logits(stage, architecture, original, tokens)
    stage.out.mkdir(exist_ok=True)
    kept = ("prompt", "text", "end", "repetition")
    report = [{key: answer[key] for key in kept} | {"tokens": len(answer["tokens"])} for answer in answers]
    write_json(stage.out / "report.json", {"answers": report, "logits": compared})


def _check_files(engine: Path, files: dict[str, dict[str, Any]]) -> None:
    """The engine has exactly the files of its manifest, with the same bytes."""
    found = {path.relative_to(engine).as_posix() for path in engine.rglob("*") if path.is_file()}
    if found != set(files):
        raise Refused(f"engine and manifest differ in {sorted(found ^ set(files))}")
    for name, entry in sorted(files.items()):
        with (engine / name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                raise Refused(f"{name} is not the file that the manifest lists")


def _answer(
    pipeline: openvino_genai.LLMPipeline,
    architecture: Architecture,
    prompt: str,
    parameters: dict[str, Any],
) -> dict[str, Any]:
    tokenizer = pipeline.get_tokenizer()
    chat = bool(tokenizer.chat_template)
    text = prompt
    if chat:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    inputs = tokenizer.encode(text, add_special_tokens=not chat)
    settings = pipeline.get_generation_config()
    settings.do_sample, settings.max_new_tokens = False, parameters["max_new_tokens"]
    first, second = ([int(t) for t in pipeline.generate(inputs, settings).tokens[0]] for _ in range(2))
    if first != second:
        raise Refused(f"{prompt!r} is answered differently the second time")
    if any(not 0 <= token < architecture.vocabulary for token in first):
        raise Refused(f"{prompt!r} is answered with tokens outside the vocabulary")
    ended = bool(first) and first[-1] in settings.stop_token_ids
    return {
        "prompt": prompt,
        "asked": [int(token) for token in inputs.input_ids.data.reshape(-1)],
        "tokens": first,
        "text": tokenizer.decode(first),
        "end": "stop token" if ended else "limit",
    }


def _check_answer(answer: dict[str, Any], golden: str | None, parameters: dict[str, Any]) -> None:
    prompt, text, tokens = answer["prompt"], answer["text"], answer["tokens"]
    say(f"{prompt!r}: {text!r} ({len(tokens)} tokens, {answer['end']})")
    if not tokens or (not text.strip() and not parameters["allow_nonsense"]):
        raise Refused(f"{prompt!r} has an empty answer")
    if answer["end"] == "limit" and len(tokens) != parameters["max_new_tokens"]:
        raise Refused(f"{prompt!r}: the answer stops after {len(tokens)} tokens without a stop token")
    if golden is not None and text != golden:
        raise Refused(f"{prompt!r} is answered with {text!r} instead of {golden!r}")


def _check_repetition(
    answer: dict[str, Any], architecture: Architecture, original: Weights, parameters: dict[str, Any]
) -> str:
    """Refuse an answer that goes round in circles, unless the original weights go along with most of it.

    Small and untrained models do repeat themselves; that is no fault of the engine.
    """
    tokens, asked = answer["tokens"], answer["asked"]
    loop = repetition(tokens)
    if not loop:
        return "none"
    chosen = logits(architecture, original, asked + tokens)[len(asked) - 1 : -1].argmax(axis=-1)
    agree = int((chosen == np.array(tokens)).sum())
    say(
        f"{answer['prompt']!r}: goes round in circles of {loop} tokens; the original would say {agree} of {len(tokens)}"
    )
    if 2 * agree < len(tokens) and not parameters["allow_nonsense"]:
        raise Refused(
            f"{answer['prompt']!r}: the answer goes round in circles of {loop} tokens, and the original weights would "
            f"say only {agree} of its {len(tokens)} tokens: {answer['text']!r}"
        )
    return f"{loop} tokens"


def _compare_logits(
    stage: StageFile, architecture: Architecture, original: Weights, tokens: list[int]
) -> dict[str, object]:
    whole, stepwise = _engine_logits(stage.input("engine") / "openvino_model.xml", tokens)
    held = Graph(stage.input("engine") / "openvino_model.xml")
    exact = logits(architecture, held.value, tokens)
    unquantised = logits(architecture, original, tokens)
    limits = {"tolerance": stage.parameters["tolerance"], "original_tolerance": stage.parameters["original_tolerance"]}
    found = {
        "prefill": _within("the prompt at once", whole, exact, limits["tolerance"]),
        "cached": _within("the tokens one by one", stepwise, exact, limits["tolerance"]),
        "original": _within("the original weights", whole, unquantised, limits["original_tolerance"]),
    }
    agree = int((whole.argmax(axis=-1) == unquantised.argmax(axis=-1)).sum())
    return found | limits | {"positions": len(tokens), "same_token_as_original": agree}


def _engine_logits(path: Path, tokens: list[int]) -> tuple[Array, Array]:
    """Logits of all positions in one pass, and one position at a time."""
    request = ov.Core().compile_model(str(path), "CPU", EXACT).create_infer_request()

    def step(chunk: list[int], past: int) -> Array:
        end = past + len(chunk)
        inputs = {
            "input_ids": np.array([chunk], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(past, end)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        return np.array(request.infer(inputs)[0][0])

    whole = step(tokens, 0)
    request.reset_state()
    return whole, np.concatenate([step([token], past) for past, token in enumerate(tokens)])


def _within(what: str, found: Array, expected: Array, limit: str) -> str:
    if not np.isfinite(found).all():
        raise Refused(f"logits of {what}: NaN or infinity")
    deviation = difference(found, expected)
    say(f"logits of {what}: relative difference {deviation:.1e}, allowed {limit}")
    if not deviation <= float(limit):
        raise Refused(f"logits of {what} differ by {deviation:.1e} from the reference, more than {limit}")
    return str(Decimal(deviation).normalize(Context(prec=1, rounding=ROUND_UP)))


if __name__ == "__main__":
    run(build)
