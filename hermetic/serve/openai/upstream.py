"""Triton's model ``tensorrt_llm`` over one gRPC channel: token ids in, token ids out as they are made."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from hermetic.serve.openai.errors import ApiError, invalid
from hermetic.serve.openai.hooks import Timings
from hermetic.serve.openai.stream import Ended, Late, Stream

__all__ = ["Ask", "Made", "Upstream", "Wanted"]

MODEL: Final = "tensorrt_llm"
#: Inputs whose name changed with a release of TensorRT-LLM (0.20), by their present one.
_FORMER: Final = {"seed": "random_seed", "min_tokens": "min_length"}
_FORMS: Final = {"INT32": "i", "UINT64": "Q", "FP32": "f", "BOOL": "?"}
_KINDS: Final = {
    "request_output_len": "INT32",
    "runtime_top_k": "INT32",
    "runtime_top_p": "FP32",
    "temperature": "FP32",
    "repetition_penalty": "FP32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
    "min_tokens": "INT32",
    "min_length": "INT32",
    "seed": "UINT64",
    "random_seed": "UINT64",
    "streaming": "BOOL",
    "return_log_probs": "BOOL",
    "return_perf_metrics": "BOOL",
}
_TIMES: Final = {
    "arrival_time_ns": "arrival_ns",
    "first_scheduled_time_ns": "first_scheduled_ns",
    "first_token_time_ns": "first_token_ns",
    "last_token_time_ns": "last_token_ns",
    "kv_cache_alloc_total_blocks": "kv_blocks",
    "kv_cache_reused_blocks": "kv_blocks_reused",
    "total_draft_tokens": "draft_tokens",
    "total_accepted_draft_tokens": "accepted_tokens",
}
#: For requests that still run when the proxy ends.
_CLOSING_S: Final = 2.0
#: A restarted Triton is found again within a second; by default gRPC would come to wait two minutes.
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclass(frozen=True)
class Ask:
    """One answer to one prompt. `settings` are inputs by their present name; `guide` is the type of guided decoding
    and what guides it.
    """

    ids: Sequence[int]
    max_tokens: int
    settings: Mapping[str, float | int | bool] = field(default_factory=dict)
    guide: tuple[str, str | None] | None = None


@dataclass(frozen=True)
class Made:
    """One response: tokens, their log probabilities if asked for, and with the last one the times."""

    ids: Sequence[int]
    scores: Sequence[float]
    timings: Timings | None


@dataclass(frozen=True)
class Wanted:
    """What the model behind Triton takes: the names of its inputs, whether it takes several ends, and its tokens."""

    inputs: frozenset[str]
    many_ends: bool
    max_seq_len: int | None


class Upstream:
    """One Triton, at `address` (host and port)."""

    def __init__(self, address: str, ends: Sequence[int]) -> None:
        self.address = address
        self._ends = ends
        self._wanted: Wanted | None = None
        self._streams: set[Stream] = set()
        self._mark, self._numbers = secrets.token_hex(4), itertools.count()

    @cached_property
    def _channel(self) -> Any:
        """It belongs to the event loop that it is made in."""
        return grpc.aio.insecure_channel(self.address, options=_OPTIONS)

    @cached_property
    def _stub(self) -> Any:
        return GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """What still runs is given up, and Triton has a moment to end it."""
        for stream in self._streams:
            stream.leave()
        if self._streams:
            await asyncio.wait([stream.task for stream in self._streams], timeout=_CLOSING_S)
        await self._channel.close()

    async def ready(self, within_s: float = 1.5) -> bool:
        """Whether Triton and the model answer; a Triton that has just come back is waited for."""
        waiting = {"timeout": within_s, "wait_for_ready": True}
        try:
            server = await self._stub.ServerReady(pb.ServerReadyRequest(), **waiting)
            if not server.ready:
                return False
            model = await self._stub.ModelReady(pb.ModelReadyRequest(name=MODEL), **waiting)
        except grpc.aio.AioRpcError:
            return False
        return bool(model.ready)

    async def wanted(self) -> Wanted:
        """Asked once. Raises `ApiError` (503) while Triton is not there."""
        if self._wanted is None:
            try:
                config = (await self._stub.ModelConfig(pb.ModelConfigRequest(name=MODEL), timeout=5.0)).config
            except grpc.aio.AioRpcError as error:
                raise _failed(error) from error
            inputs = {one.name: one for one in config.input}
            ends = inputs.get("end_id")
            length = config.parameters["max_seq_len"].string_value if "max_seq_len" in config.parameters else ""
            many = ends is not None and list(ends.dims) == [-1]
            self._wanted = Wanted(frozenset(inputs), many, int(length) if length.isdigit() else None)
        return self._wanted

    async def promised(self) -> Mapping[str, str]:
        """What the model says of itself now: ``engine_hash`` and ``tokenizer_hash``; nothing if it can't be asked, or
        if its repository is none of hermetic's.
        """
        try:
            config = (await self._stub.ModelConfig(pb.ModelConfigRequest(name=MODEL), timeout=5.0)).config
        except grpc.aio.AioRpcError:
            return {}
        names = ("engine_hash", "tokenizer_hash")
        return {name: config.parameters[name].string_value for name in names if name in config.parameters}

    async def generate(
        self, ask: Ask, request_id: str, within_s: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> AsyncGenerator[Made, None]:
        """The tokens, as they come. Leaving the iteration early stops Triton's work, and does not wait for that.

        Raises `ApiError`: 400 for a guide that cannot be followed, 502, 503, 504 (also after `within_s` seconds).
        """
        wanted = await self.wanted()
        name = f"{request_id}.{self._mark}{next(self._numbers)}"  # a client may have given two requests one id
        request = _request(ask, wanted, self._ends, name)
        stop = _stop(name) if "stop" in wanted.inputs else None
        stream = Stream(lambda: self._stub.ModelStreamInfer(metadata=tuple(metadata)), request, stop, within_s)
        self._streams.add(stream)
        stream.task.add_done_callback(lambda _: self._streams.discard(stream))
        try:
            while True:
                response, last = await stream.next()
                if response.error_message:
                    raise _refused(response.error_message, ask)
                made = _made(response.infer_response)
                if made is not None:
                    yield made
                if last:
                    return
        except Late:
            raise _late() from None
        except Ended:
            raise _gone("the connection was closed") from None
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error
        finally:
            stream.leave()


def _request(ask: Ask, wanted: Wanted, ends: Sequence[int], request_id: str) -> Any:
    request = pb.ModelInferRequest(model_name=MODEL, id=request_id)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    _add(request, "input_ids", "INT32", ask.ids)
    _add(request, "input_lengths", "INT32", [len(ask.ids)])
    _add(request, "request_output_len", "INT32", [ask.max_tokens])
    _add(request, "streaming", "BOOL", [True])
    if "end_id" in wanted.inputs and ends:
        _add(request, "end_id", "INT32", ends if wanted.many_ends else ends[:1])
    settings = dict(ask.settings)
    if "return_perf_metrics" in wanted.inputs:
        settings["return_perf_metrics"] = True
    for name, value in settings.items():
        known = name if name in wanted.inputs else _FORMER.get(name, "")
        if known not in wanted.inputs:
            raise invalid(name, f"the engine has no {name}", "unsupported_parameter")
        _add(request, known, _KINDS[known], [value])
    if ask.guide is not None:
        if "guided_decoding_guide" not in wanted.inputs:
            raise invalid("response_format", "the engine has no guided decoding", "unsupported_parameter")
        for name, text in zip(("guided_decoding_guide_type", "guided_decoding_guide"), ask.guide, strict=True):
            if text is not None:
                _add_text(request, name, text)
    return request


def _stop(request_id: str) -> Any:
    """Ends the request of that id. What is no `stop` is there because Triton insists on it, and is not looked at."""
    request = pb.ModelInferRequest(model_name=MODEL, id=request_id)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name in ("input_ids", "input_lengths", "request_output_len"):
        _add(request, name, "INT32", [0])
    _add(request, "stop", "BOOL", [True])
    return request


def _add(request: Any, name: str, kind: str, values: Sequence[float]) -> None:
    request.inputs.add(name=name, datatype=kind, shape=[1, len(values)])
    request.raw_input_contents.append(struct.pack(f"<{len(values)}{_FORMS[kind]}", *values))


def _add_text(request: Any, name: str, text: str) -> None:
    request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
    data = text.encode()
    request.raw_input_contents.append(struct.pack("<I", len(data)) + data)


def _made(response: Any) -> Made | None:
    """None for a response without tokens: the empty one that may end a stream."""
    ids: Sequence[int] = ()
    scores: Sequence[float] = ()
    times: dict[str, int] = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        name = output.name
        if name == "output_ids":
            ids = memoryview(raw).cast("i").tolist()
        elif name == "output_log_probs":
            scores = memoryview(raw).cast("f").tolist()
        elif name in _TIMES and raw:
            times[_TIMES[name]] = int.from_bytes(raw, "little", signed=True)
    return Made(ids, scores, Timings(**times) if times else None) if ids or times else None


def _refused(message: str, ask: Ask) -> ApiError:
    """Triton sends no more than a text with an error of a model."""
    if ask.guide is not None and ("guide" in message or "the engine failed" in message):
        return invalid("response_format", f"the engine cannot follow this format: {message}")
    return ApiError(502, "upstream_error", f"the engine failed: {message}")


def _failed(error: Any) -> ApiError:
    return _failed_with(error.code(), error.details())


def _failed_with(code: Any, details: str | None) -> ApiError:
    said = details or str(code)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _late()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return _gone(said)
    return ApiError(502, "upstream_error", f"the engine failed: {said}")


def _late() -> ApiError:
    return ApiError(504, "timeout", "the answer took longer than this server waits", kind="timeout_error")


def _gone(said: str) -> ApiError:
    headers = {"Retry-After": "1"}
    return ApiError(503, "upstream_unavailable", f"the engine is not there: {said}", headers=headers)
