"""``model.py`` of the Triton model ``tensorrt_llm`` for engines of the kind `openvino`.

It speaks the tensors of TensorRT-LLM's own backend (``input_ids`` in, ``output_ids`` out, one response a token), so
that whoever talks to one talks to the other: all have a batch dimension of 1, tokens a beam dimension of 1 after it.
Requests run together through OpenVINO GenAI's continuous batching, in a thread of their own: that library is stepped,
and says nothing by itself.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

sys.path.extend(filter(None, os.environ.get("PYTHONPATH", "").split(":")))  # a stub's interpreter does not look there

import numpy as np
import openvino as ov
import openvino_genai as genai
import triton_python_backend_utils as pb_utils

#: Inputs that are settings of generation, by the name that OpenVINO GenAI has for them.
SETTINGS = {
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "temperature": "temperature",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "min_tokens": "min_new_tokens",
    "seed": "rng_seed",
}


@dataclass
class Running:
    """One request that is being answered. `made` are all tokens of it, `tokens` those that are not sent yet."""

    id: str
    sender: Any
    handle: Any
    ids: Any
    settings: Any
    guided: bool
    streaming: bool
    log_probs: bool
    metrics: bool
    arrival: int
    scheduled: int
    first: int = 0
    tokens: list[int] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        self._parameters = parameters
        self._pipeline = self._load()
        self._longest = int(parameters["max_seq_len"])
        with open(f"{parameters['gpt_model_path']}/config.json", encoding="utf-8") as stream:
            self._vocabulary = int(json.load(stream)["vocab_size"])
        self._waiting: queue.Queue[Any] = queue.Queue()
        self._running: dict[int, Running] = {}
        self._number = 0
        self._stopping = False
        self._stepper = threading.Thread(target=self._work, name="stepper")
        self._stepper.start()

    def _load(self) -> Any:
        parameters = self._parameters
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = int(parameters.get("kv_cache_gib", "1"))
        scheduler.max_num_seqs = int(parameters.get("max_batch_size", "64"))
        scheduler.enable_prefix_caching = parameters.get("enable_kv_cache_reuse", "true") == "true"
        return genai.ContinuousBatchingPipeline(parameters["gpt_model_path"], scheduler, "CPU")

    def execute(self, requests: list[Any]) -> None:
        """Take requests; the answers come through their senders."""
        for request in requests:
            self._waiting.put((request, time.time_ns()))

    def finalize(self) -> None:
        self._stopping = True
        self._waiting.put(None)
        self._stepper.join()

    def _work(self) -> None:
        while not self._stopping:
            self._take(block=not self._running)
            if not self._running:
                continue
            try:
                self._pipeline.step()
            except RuntimeError as error:
                self._recover(error)
            for number in list(self._running):
                self._deliver(number)

    def _recover(self, error: RuntimeError) -> None:
        """After a step that failed, as it does for a guide that cannot be compiled, and from then on for every step.

        The engine is loaded anew. Requests with a guide are refused; the others go on from where they are.
        """
        self._pipeline = None  # before the next is loaded: there may be no room for two
        self._pipeline = self._load()
        running, self._running = self._running, {}
        guided = any(one.guided for one in running.values())
        for one in running.values():
            if guided and not one.guided and len(one.made) < one.settings.max_new_tokens:
                self._resume(one)
            else:
                _refuse(one.sender, f"the engine failed: {error}")

    def _resume(self, one: Running) -> None:
        ids = np.concatenate([one.ids, np.array([one.made], np.int64).reshape(1, -1)], axis=1)
        one.settings.max_new_tokens -= len(one.made)
        one.settings.min_new_tokens = max(0, one.settings.min_new_tokens - len(one.made))
        one.ids, one.made = ids, []
        self._number += 1
        one.handle = self._pipeline.add_request(self._number, ov.Tensor(ids), one.settings)
        self._running[self._number] = one

    def _take(self, *, block: bool) -> None:
        """Start everything that waits; with `block` wait for the first."""
        while True:
            try:
                item = self._waiting.get(block=block)
            except queue.Empty:
                return
            if item is not None:
                self._start(*item)
            block = False

    def _start(self, request: Any, arrival: int) -> None:
        sender = request.get_response_sender()
        if _one(request, "stop", False):
            self._stop(request.request_id(), sender)
            return
        try:
            settings, ids = self._settings(request)
            self._number += 1
            handle = self._pipeline.add_request(self._number, ov.Tensor(ids), settings)
        except (ValueError, RuntimeError) as error:
            _refuse(sender, str(error))
            return
        self._running[self._number] = Running(
            request.request_id(),
            sender,
            handle,
            ids,
            settings,
            pb_utils.get_input_tensor_by_name(request, "guided_decoding_guide_type") is not None,
            bool(_one(request, "streaming", False)),
            bool(_one(request, "return_log_probs", False)),
            bool(_one(request, "return_perf_metrics", False)),
            arrival,
            time.time_ns(),
        )

    def _stop(self, name: str, sender: Any) -> None:
        """End the request of that id, as TensorRT-LLM's backend does it: what stops has an empty response of its own,
        also where there is nothing to stop, since that may have ended meanwhile.
        """
        if not name:
            _refuse(sender, "a request to stop another needs its id")
            return
        for number, one in list(self._running.items()):
            if one.id == name:
                self._end(number)
                pb_utils.Logger.log_verbose(f"{name} was stopped")
        sender.send(pb_utils.InferenceResponse([]), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _end(self, number: int) -> None:
        one = self._running.pop(number)
        one.handle.cancel()
        one.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _settings(self, request: Any) -> tuple[Any, np.ndarray[Any, Any]]:
        ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy().reshape(1, -1).astype(np.int64)
        if not ids.size or ids.min() < 0 or ids.max() >= self._vocabulary:
            raise ValueError(f"input_ids must be one or more numbers from 0 to {self._vocabulary - 1}")
        length = int(_one(request, "request_output_len", 0))
        if length < 1:
            raise ValueError("request_output_len must be 1 or more")
        if ids.shape[1] + length > self._longest:
            raise ValueError(f"{ids.shape[1]} + {length} tokens are more than the engine's {self._longest}")
        settings = genai.GenerationConfig()
        settings.max_new_tokens = length
        for name, ours in SETTINGS.items():
            value = _one(request, name, None)
            if value is not None:
                setattr(settings, ours, value)
        if settings.temperature < 0:
            raise ValueError(f"temperature is {settings.temperature}, and must be 0 or more")
        settings.do_sample = settings.temperature > 0 and settings.top_k != 1
        if not settings.do_sample:
            settings.temperature = 1.0
        ends = pb_utils.get_input_tensor_by_name(request, "end_id")
        if ends is not None:
            settings.stop_token_ids = {int(end) for end in ends.as_numpy().reshape(-1)}
        settings.logprobs = 1 if _one(request, "return_log_probs", False) else 0
        guide = _one(request, "guided_decoding_guide_type", None)
        if guide is not None:
            settings.structured_output_config = _guided(guide.decode(), _one(request, "guided_decoding_guide", b"{}"))
        settings.validate()
        return settings, ids

    def _deliver(self, number: int) -> None:
        running = self._running[number]
        if running.sender.is_cancelled():
            self._end(number)
            pb_utils.Logger.log_warn(f"{running.id} was cancelled with its call, not stopped")
            return
        finished = False
        while running.handle.can_read():
            for output in running.handle.read().values():
                running.first = running.first or time.time_ns()
                running.tokens += output.generated_ids
                running.made += output.generated_ids
                running.scores += output.generated_log_probs
                finished = finished or output.finish_reason != genai.GenerationFinishReason.NONE
            if running.streaming and running.tokens and not finished:
                self._send(running, final=False)
        if running.handle.get_status() == genai.GenerationStatus.IGNORED and not finished:
            _refuse(running.sender, "the engine's KV cache is too small for this request")
            del self._running[number]
        elif finished:
            self._send(running, final=True)
            del self._running[number]

    def _send(self, running: Running, *, final: bool) -> None:
        tensors = [
            pb_utils.Tensor("output_ids", np.array([[running.tokens]], np.int32)),
            pb_utils.Tensor("sequence_length", np.array([[len(running.tokens)]], np.int32)),
        ]
        if running.log_probs:
            tensors.append(pb_utils.Tensor("output_log_probs", np.array([[running.scores]], np.float32)))
        if running.metrics and final:
            times = (running.arrival, running.scheduled, running.first, time.time_ns())
            names = ("arrival", "first_scheduled", "first_token", "last_token")
            tensors += [
                pb_utils.Tensor(f"{name}_time_ns", np.array([[value]], np.int64))
                for name, value in zip(names, times, strict=True)
            ]
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        running.sender.send(pb_utils.InferenceResponse(tensors), flags=flags)
        running.tokens, running.scores = [], []


def _refuse(sender: Any, message: str) -> None:
    refusal = pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
    sender.send(refusal, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _guided(kind: str, guide: bytes) -> Any:
    text = guide.decode()
    if kind == "json":
        return genai.StructuredOutputConfig(json_schema='{"type": "object"}')
    if kind == "json_schema":
        if not isinstance(json.loads(text), dict):
            raise ValueError("the guide is no JSON schema: it is no object")
        return genai.StructuredOutputConfig(json_schema=text)
    if kind == "regex":
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"the guide is no regular expression: {error}") from error
        return genai.StructuredOutputConfig(regex=text)
    if kind == "ebnf_grammar":
        return genai.StructuredOutputConfig(grammar=text)
    raise ValueError(f"there is no guided decoding of kind {kind!r}")


def _one(request: Any, name: str, default: Any) -> Any:
    """The only value of an input, or `default` where the request has none."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return default
    value = tensor.as_numpy().reshape(-1)[0]
    return value if isinstance(value, bytes) else value.item()
