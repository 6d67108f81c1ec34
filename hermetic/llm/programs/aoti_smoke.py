"""Stage `smoke`: the engine computes what the same model computes eagerly, and what NumPy computes; and it answers.

``report.json`` has the deviations and the answers.
"""

from __future__ import annotations

import os
import sys
from decimal import ROUND_UP, Context, Decimal
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

import aoti_compile
import torch
from aoti_model import DTYPES, Decoder, exact
from aoti_run import Engine
from architecture import Architecture, parse_config
from reference_forward import Array, difference, logits
from safetensors_file import Tensor, read_checkpoint
from stage_file import Refused, StageFile, read_json, run, say, write_json

_REFERENCE = 64 << 20  # weights; NumPy takes minutes for more


def build(stage: StageFile) -> None:
    engine, parameters = Engine(stage.input("engine")), stage.parameters
    architecture = parse_config(read_json(stage.input("model") / "config.json"))
    found = read_checkpoint(stage.input("model"))
    tensors = {name: found[name] for name in architecture.tensors()}
    golden: dict[str, str] = parameters["golden"]
    prompts = list(dict.fromkeys([*parameters["prompts"], *golden]))
    if not prompts:
        raise Refused("there are no prompts to test the engine with")
    answers = [_answer(engine, prompt, golden.get(prompt), parameters["max_new_tokens"]) for prompt in prompts]
    tokens = (answers[0]["asked"] + answers[0]["tokens"])[: parameters["positions"]]
    compared = _compare(engine, architecture, tensors, tokens, parameters)
    stage.out.mkdir(exist_ok=True)
    kept = [{"prompt": item["prompt"], "text": item["text"], "tokens": len(item["tokens"])} for item in answers]
    report = {"answers": kept, "logits": compared, "on": aoti_compile.name_of(engine.device)}
    write_json(stage.out / "report.json", report | {"tools": aoti_compile.tools()})


def _answer(engine: Engine, prompt: str, golden: str | None, limit: int) -> dict[str, Any]:
    asked = engine.asked(prompt)
    first, second = (list(engine.answer(asked, limit)) for _ in range(2))
    text = engine.tokenizer.decode(first)
    say(f"{prompt!r}: {text!r} ({len(first)} tokens)")
    if first != second:
        raise Refused(f"{prompt!r} is answered differently the second time")
    if golden is not None and text != golden:
        raise Refused(f"{prompt!r} is answered with {text!r} instead of {golden!r}")
    return {"prompt": prompt, "asked": asked, "tokens": first, "text": text}


def _compare(
    engine: Engine,
    architecture: Architecture,
    tensors: dict[str, Tensor],
    tokens: list[int],
    parameters: dict[str, Any],
) -> dict[str, Any]:
    exact()
    here = engine.logits(tokens).to(torch.float32).cpu().numpy()
    decoder = Decoder(architecture, tensors, DTYPES[engine.about["dtype"]], engine.device)
    with torch.no_grad():
        eager = decoder(torch.tensor([tokens], dtype=torch.int64, device=engine.device))[0].to(torch.float32)
    result: dict[str, Any] = {"eager": _within("run eagerly", here, eager.cpu().numpy(), parameters["tolerance"])}
    if sum(tensor.end - tensor.begin for tensor in tensors.values()) <= 2 * _REFERENCE:
        exact_logits = logits(architecture, lambda name: tensors[name].float32(), tokens)
        result["numpy"] = _within("in NumPy", here, exact_logits, parameters["reference_tolerance"])
    limits = {name: parameters[name] for name in ("tolerance", "reference_tolerance")}
    return result | limits | {"positions": len(tokens)}


def _within(what: str, found: Array, expected: Array, limit: str) -> str:
    deviation = difference(found, expected)
    say(f"logits and those {what}: relative difference {deviation:.1e}, allowed {limit}")
    if not deviation <= float(limit):
        raise Refused(f"logits differ by {deviation:.1e} from those {what}, more than {limit}")
    return str(Decimal(deviation).normalize(Context(prec=1, rounding=ROUND_UP)))


if __name__ == "__main__":
    run(build)
