"""What ``hermetic run`` starts: the engine answers one prompt on stdout, token by token, and nothing else goes there.

Parameters: ``prompt``; optional ``system``, ``max_new_tokens`` (else what the engine says), and ``precision``: ``f32``
(the default: the same answer on every CPU) or ``auto`` (what the CPU does fastest).
"""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

import openvino_genai
from stage_file import Refused, StageFile, run


def answer(stage: StageFile) -> None:
    prompt = stage.parameters.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise Refused("there is no prompt")
    precision = stage.parameters.get("precision", "f32")
    properties = {} if precision == "auto" else {"INFERENCE_PRECISION_HINT": precision}
    pipeline = openvino_genai.LLMPipeline(str(stage.input("engine")), "CPU", **properties)
    settings = pipeline.get_generation_config()
    if stage.parameters.get("max_new_tokens"):
        settings.max_new_tokens = stage.parameters["max_new_tokens"]
    pipeline.generate(_question(pipeline, stage, prompt, settings), settings, _print)


def _question(
    pipeline: openvino_genai.LLMPipeline,
    stage: StageFile,
    prompt: str,
    settings: openvino_genai.GenerationConfig,
) -> object:
    """A chat where the model knows chats, else the bare prompt to go on from."""
    tokenizer = pipeline.get_tokenizer()
    if not tokenizer.chat_template:
        settings.apply_chat_template = False
        return prompt
    history = openvino_genai.ChatHistory()
    if stage.parameters.get("system"):
        history.append({"role": "system", "content": stage.parameters["system"]})
    history.append({"role": "user", "content": prompt})
    return history


def _print(text: str) -> openvino_genai.StreamingStatus:
    sys.stdout.write(text)
    sys.stdout.flush()
    return openvino_genai.StreamingStatus.RUNNING


if __name__ == "__main__":
    run(answer)
