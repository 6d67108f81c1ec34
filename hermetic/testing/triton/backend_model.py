"""A STAND-IN for TensorRT-LLM's Triton backend: ``backends/tensorrtllm/model.py`` of a Triton that is real.

Triton runs it as one of its python-based backends, for every model whose ``config.pbtxt`` says ``backend:
"tensorrtllm"``. It takes and gives the tensors that this file names, so those of whatever release wrote it; what it
answers follows from the bytes of ``rank0.engine`` and the prompt, and nothing is computed.

Of several ranks the first answers. It waits for the others when it starts, and they for its end, as the real ones do.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
        self._running: dict[str, threading.Event] = {}
        self._workers = ThreadPoolExecutor(64)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender, name = request.get_response_sender(), request.request_id()
            if _flag(request, "stop"):
                self._stop(name, sender)
                continue
            stopped = self._running[name] = threading.Event()
            self._workers.submit(self._answer, request, name, stopped)

    def _stop(self, name: str, sender: Any) -> None:
        """As the real one: without an id an error, and else an empty response, also where nothing of that id runs."""
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if not name:
            error = pb_utils.TritonError("Trying to stop a request but request ID is not provided")
            sender.send(pb_utils.InferenceResponse(error=error), flags=final)
            return
        if name in self._running:
            self._running[name].set()
            pb_utils.Logger.log_info(f"STAND-IN for TensorRT-LLM: {name} is stopped")
        sender.send(pb_utils.InferenceResponse([]), flags=final)

    def _answer(self, request: Any, name: str, stopped: threading.Event) -> None:
        sender = request.get_response_sender()
        for response in self._responses(request):
            if stopped.is_set() or sender.is_cancelled():
                break
            sender.send(response)
        if sender.is_cancelled():
            pb_utils.Logger.log_info(f"STAND-IN for TensorRT-LLM: {name} is cancelled")
        if self._running.get(name) is stopped:
            del self._running[name]
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        self._workers.shutdown()
        for door in self._doors:
            os.close(door)

    def _responses(self, request: Any) -> Iterator[Any]:
        """With `streaming` one for each token."""
        try:
            prompt = self._heard(request) if _input(request, "input_ids") is None else _input(request, "input_ids")
        except ValueError as error:
            yield pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            return
        length = int(_input(request, "request_output_len").reshape(-1)[0])
        tokens = itertools.islice(_tokens(self._seed, prompt.reshape(-1).tolist()), length)
        asked = request.requested_output_names()
        for part in ([token] for token in tokens) if _flag(request, "streaming") else [list(tokens)]:
            yield pb_utils.InferenceResponse([self._tensor(name, part) for name in self._outputs if name in asked])

    def _heard(self, request: Any) -> Any:
        """The decoder's prompt, and what stands for the sound."""
        encoder = self._config["parameters"].get("encoder_model_path", {}).get("string_value")
        features, begin = _input(request, "encoder_input_features"), _input(request, "decoder_input_ids")
        if encoder is None or features is None or begin is None:
            raise ValueError("there is neither text nor sound")
        with open(f"{encoder}/config.json", encoding="utf-8") as stream:
            bands = json.load(stream)["pretrained_config"]["n_mels"]
        _, frames, width = features.shape
        lengths = [int(_input(request, name).reshape(-1)[0]) for name in ("input_lengths", "encoder_output_lengths")]
        if width != bands or lengths != [frames, frames // 2]:
            raise ValueError(f"{frames} frames of {width} bands, said to be {lengths}, and the encoder takes {bands}")
        sound = np.frombuffer(hashlib.blake2b(features.tobytes(), digest_size=8).digest(), np.uint8)
        return np.concatenate([begin.reshape(-1), sound])

    def _tensor(self, name: str, tokens: list[int]) -> Any:
        """The tokens in the shapes of the release, and for everything else as many zeros as its shape needs."""
        if name == "output_ids":
            return pb_utils.Tensor(name, np.array([[tokens]], np.int32))
        if name == "sequence_length":
            return pb_utils.Tensor(name, np.array([[len(tokens)]], np.int32))
        said = self._outputs[name]
        shape = (1, *(max(1, int(length)) for length in said["dims"]))
        return pb_utils.Tensor(name, np.zeros(shape, pb_utils.triton_string_to_numpy(said["data_type"])))


def _tokens(engine: bytes, prompt: list[int]) -> Iterator[int]:
    """What an engine of these bytes answers `prompt` with, without end."""
    for start in itertools.count(step=64):
        seed = hashlib.blake2b(engine + json.dumps([prompt, start]).encode()).digest()
        yield from (_FIRST + byte % _COUNT for byte in seed)


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


def _flag(request: Any, name: str) -> bool:
    found = _input(request, name)
    return found is not None and bool(found.reshape(-1)[0])
