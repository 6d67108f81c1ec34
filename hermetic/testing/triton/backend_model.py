"""A STAND-IN for TensorRT-LLM's Triton backend: ``backends/tensorrtllm/model.py`` of a Triton that is real.

Triton runs it as one of its python-based backends, for every model whose ``config.pbtxt`` says ``backend:
"tensorrtllm"``. It takes and gives the tensors that this file names, so those of whatever release wrote it; what it
answers follows from the bytes of ``rank0.engine`` and the prompt, and nothing is computed.

Of several ranks the first answers. It waits for the others when it starts, and they for its end, as the real ones do.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

sys.path.extend(filter(None, os.environ.get("PYTHONPATH", "").split(":")))  # a stub's interpreter does not look there

import numpy as np
import triton_python_backend_utils as pb_utils

_RANK, _SIZE = "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"
#: Tokens of the answers: any byte-level tokenizer knows these numbers.
_FIRST, _COUNT = 32, 64


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        self._config = json.loads(args["model_config"])
        self._outputs = {one["name"]: one for one in self._config["output"]}
        engine = self._config["parameters"]["gpt_model_path"]["string_value"]
        rank, size = int(os.environ.get(_RANK, "0")), int(os.environ.get(_SIZE, "1"))
        with open(f"{engine}/config.json", encoding="utf-8") as stream:
            world = json.load(stream)["pretrained_config"].get("mapping", {}).get("world_size", 1)
        if world != size:
            raise pb_utils.TritonModelException(f"the engine has {world} ranks, and MPI started {size}")
        with open(f"{engine}/rank{rank}.engine", "rb") as stream:
            self._seed = stream.read()
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
        pb_utils.Logger.log_info(f"STAND-IN for TensorRT-LLM: rank {rank} of {size}, GPUs {devices}")
        self._doors = _meet(rank, size)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            for response in self._responses(request):
                if sender.is_cancelled():
                    break
                sender.send(response)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        for door in self._doors:
            os.close(door)

    def _responses(self, request: Any) -> Iterator[Any]:
        """With `streaming` one for each token."""
        prompt = _input(request, "input_ids").reshape(-1)
        length = int(_input(request, "request_output_len").reshape(-1)[0])
        streaming = _input(request, "streaming")
        tokens = answer(self._seed, prompt.tolist(), length)
        parts = [[token] for token in tokens] if streaming is not None and streaming.reshape(-1)[0] else [tokens]
        for part in parts:
            asked = request.requested_output_names()
            yield pb_utils.InferenceResponse([self._tensor(name, part) for name in self._outputs if name in asked])

    def _tensor(self, name: str, tokens: list[int]) -> Any:
        """The tokens in the shapes of the release, and for everything else as many zeros as its shape needs."""
        if name == "output_ids":
            return pb_utils.Tensor(name, np.array([[tokens]], np.int32))
        if name == "sequence_length":
            return pb_utils.Tensor(name, np.array([[len(tokens)]], np.int32))
        said = self._outputs[name]
        shape = (1, *(max(1, int(length)) for length in said["dims"]))
        return pb_utils.Tensor(name, np.zeros(shape, pb_utils.triton_string_to_numpy(said["data_type"])))


def answer(engine: bytes, prompt: list[int], length: int) -> list[int]:
    """The tokens that an engine of these bytes answers `prompt` with."""
    found: list[int] = []
    while len(found) < length:
        seed = hashlib.blake2b(engine + json.dumps([prompt, len(found)]).encode()).digest()
        found += [_FIRST + byte % _COUNT for byte in seed]
    return found[:length]


def _meet(rank: int, size: int) -> list[int]:
    """The first holds a pipe to each of the others open; what they read of it ends with the first."""
    places = [f"{os.environ['TMPDIR']}/standin-rank{other}" for other in range(1, size)]
    for place in places if rank == 0 else [places[rank - 1]]:
        with suppress(FileExistsError):
            os.mkfifo(place)
    if rank == 0:
        return [os.open(place, os.O_WRONLY) for place in places]
    with open(places[rank - 1], "rb") as stream:
        stream.read()
    return []


def _input(request: Any, name: str) -> Any:
    found = pb_utils.get_input_tensor_by_name(request, name)
    return None if found is None else found.as_numpy()
