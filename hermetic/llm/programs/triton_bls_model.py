"""``model.py`` of the Triton model ``tensorrt_llm_bls``: text in, text out, by calling the other models.

With `accumulate_tokens` each response is the text of all tokens so far less the text that was sent, and what ends in
the middle of a character waits for the rest of it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

sys.path.extend(filter(None, os.environ.get("PYTHONPATH", "").split(":")))  # a stub's interpreter does not look there

import numpy as np
import triton_python_backend_utils as pb_utils

#: Names that the model behind has for what a client calls otherwise.
INNER = {"top_k": "runtime_top_k", "top_p": "runtime_top_p", "length_penalty": "len_penalty", "stream": "streaming"}
WORDS = {"stop_words": ("STOP_WORDS_DICT", "STOP_WORDS_IDS"), "bad_words": ("BAD_WORDS_DICT", "BAD_WORDS_IDS")}
ASKED = ("text_input", "max_tokens")


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._inputs = [one["name"] for one in config["input"]]
        self._outputs = [one["name"] for one in config["output"]]
        self._model = parameters["tensorrt_llm_model_name"]
        self._accumulate = parameters["accumulate_tokens"] == "true"
        self._decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        if not self._decoupled:
            return [list(self._answers(request))[-1] for request in requests]
        for request in requests:
            sender = request.get_response_sender()
            for answer in self._answers(request):
                if sender.is_cancelled():
                    break
                sender.send(answer)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def _answers(self, request: Any) -> Iterator[Any]:
        """The responses to one request; the last of them is an error if anything failed."""
        try:
            sent, tokens = "", np.zeros((1, 1, 0), np.int32)
            for answer in self._tokens(request, self._tokenized(request)):
                new = _named(answer, "output_ids").as_numpy()
                tokens = np.concatenate([tokens, new], axis=2) if self._accumulate else new
                text = self._text(tokens)
                part = text
                if self._accumulate:
                    whole = text.rstrip("\ufffd")
                    part, sent = whole[len(sent) :], whole if len(whole) > len(sent) else sent
                yield self._response(part, answer)
        except pb_utils.TritonModelException as error:
            yield pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def _tokenized(self, request: Any) -> Any:
        inputs = [_renamed(request, "text_input", "QUERY"), _renamed(request, "max_tokens", "REQUEST_OUTPUT_LEN")]
        wanted = ["INPUT_ID", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN"]
        for name, (inner, ids) in WORDS.items():
            if name in self._inputs:
                wanted.append(ids)
                inputs.append(_renamed(request, name, inner))
        inputs = [one for one in inputs if one is not None]
        return _checked(_request("preprocessing", wanted, inputs).exec())

    def _tokens(self, request: Any, tokenized: Any) -> Iterator[Any]:
        names = {"INPUT_ID": "input_ids", "REQUEST_INPUT_LEN": "input_lengths"}
        names |= {"REQUEST_OUTPUT_LEN": "request_output_len"}
        names |= {ids: f"{name}_list" for name, (_, ids) in WORDS.items() if name in self._inputs}
        inputs = [pb_utils.Tensor(inner, _named(tokenized, name).as_numpy()) for name, inner in names.items()]
        others = (name for name in self._inputs if name not in ASKED and name not in WORDS)
        inputs += [
            one for one in (_renamed(request, name, INNER.get(name, name)) for name in others) if one is not None
        ]
        outputs = ["output_ids", "sequence_length", *(name for name in self._outputs if name != "text_output")]
        inner = _request(self._model, outputs, inputs)
        answers = inner.exec(decoupled=True) if self._decoupled else [inner.exec()]
        for answer in answers:
            if _checked(answer).output_tensors():
                yield answer

    def _text(self, tokens: Any) -> str:
        lengths = np.array([[tokens.shape[2]]], np.int32)
        inputs = [pb_utils.Tensor("TOKENS_BATCH", tokens), pb_utils.Tensor("SEQUENCE_LENGTH", lengths)]
        answer = _checked(_request("postprocessing", ["OUTPUT"], inputs).exec())
        return str(_named(answer, "OUTPUT").as_numpy().reshape(-1)[0].decode())

    def _response(self, text: str, answer: Any) -> Any:
        passed = [tensor for tensor in answer.output_tensors() if tensor.name() in self._outputs]
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("text_output", np.array([[text.encode()]], np.object_)), *passed]
        )


def _request(model: str, outputs: list[str], inputs: list[Any]) -> Any:
    return pb_utils.InferenceRequest(model_name=model, requested_output_names=outputs, inputs=inputs)


def _named(response: Any, name: str) -> Any:
    return pb_utils.get_output_tensor_by_name(response, name)


def _renamed(request: Any, name: str, inner: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else pb_utils.Tensor(inner, tensor.as_numpy())


def _checked(response: Any) -> Any:
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return response
