"""``model.py`` of the Triton model `preprocessing`: a text becomes the tokens of the engine's own tokenizer."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

sys.path.extend(filter(None, os.environ.get("PYTHONPATH", "").split(":")))  # a stub's interpreter does not look there

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

WORDS = (("STOP_WORDS_DICT", "STOP_WORDS_IDS"), ("BAD_WORDS_DICT", "BAD_WORDS_IDS"))


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        folder = config["parameters"]["tokenizer_dir"]["string_value"]
        outputs = {one["name"] for one in config["output"]}
        self._words = [(name, ids) for name, ids in WORDS if ids in outputs]
        self._tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        query = pb_utils.get_input_tensor_by_name(request, "QUERY").as_numpy().reshape(-1)[0]
        length = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy()
        try:
            ids = self._tokenizer.encode(query.decode("utf-8")).ids
        except UnicodeDecodeError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"text_input is no UTF-8: {error}"))
        if not ids:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("text_input is empty"))
        tensors = [
            pb_utils.Tensor("INPUT_ID", np.array([ids], np.int32)),
            pb_utils.Tensor("REQUEST_INPUT_LEN", np.array([[len(ids)]], np.int32)),
            pb_utils.Tensor("REQUEST_OUTPUT_LEN", length),
        ]
        return pb_utils.InferenceResponse(
            tensors + [pb_utils.Tensor(to, self._listed(request, name)) for name, to in self._words]
        )

    def _listed(self, request: Any, name: str) -> np.ndarray[Any, Any]:
        """Words as TensorRT-LLM takes them, ``[1, 2, n]``: all their tokens in a row, and where each word ends."""
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        words = [] if tensor is None else [word.decode() for word in tensor.as_numpy().reshape(-1) if word]
        encoded = [self._tokenizer.encode(word, add_special_tokens=False).ids for word in words]
        flat = [token for ids in encoded for token in ids]
        ends = np.cumsum([len(ids) for ids in encoded]).tolist()
        ends += [-1] * (len(flat) - len(ends))
        return np.array([[flat, ends]], np.int32).reshape(1, 2, -1)
