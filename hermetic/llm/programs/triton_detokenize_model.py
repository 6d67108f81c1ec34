"""``model.py`` of the Triton model `postprocessing`: tokens become text, those of one response by themselves.

A character whose bytes are spread over several responses comes out as U+FFFD; who streams text asks the model
`tensorrt_llm` and puts the tokens together.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

sys.path.extend(filter(None, os.environ.get("PYTHONPATH", "").split(":")))  # a stub's interpreter does not look there

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        self._tokenizer = Tokenizer.from_file(f"{parameters['tokenizer_dir']}/tokenizer.json")
        self._skip = parameters.get("skip_special_tokens", "true") == "true"

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy().reshape(-1)
        beams = tokens.reshape(len(lengths), -1)
        texts = [
            self._tokenizer.decode(beam[:length].tolist(), skip_special_tokens=self._skip).encode()
            for beam, length in zip(beams, lengths, strict=True)
        ]
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([texts], dtype=np.object_))])
