"""A STAND-IN for Triton's gRPC front end, which tells how calls end: a model whose tokens a test says one by one."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

__all__ = ["StandInCall", "StandInCalls"]


class StandInCall:
    """One stream. `asked` are the ids of its requests, `stopped` of those to stop another; `closed` says that the
    client has closed its side, `cancelled` that it cancelled the call; `ended` is set when it is over.
    """

    def __init__(self, context: Any) -> None:
        self.asked: list[str] = []
        self.stopped: list[str] = []
        self.closed = self.cancelled = False
        self.ended = asyncio.Event()
        self._context = context
        self._whole = asyncio.Event()

    async def say(self, *tokens: int, last: bool = False) -> None:
        """A response to the first request."""
        await self._send(self.asked[0], tokens, last=last)
        if last:
            self._whole.set()

    async def refuse(self, message: str) -> None:
        """As Triton does what it does not give the model: without saying that this is the last response."""
        await self._context.write(pb.ModelStreamInferResponse(error_message=message))
        self._whole.set()

    async def stop(self, name: str) -> None:
        """As a model does: the request of that id has its last response, and what stops it has one too."""
        self.stopped.append(name)
        if not self._whole.is_set():
            await self.say(last=True)
        await self._send(name, (), last=True)

    async def whole(self) -> None:
        """Until the first request has its last response."""
        await self._whole.wait()

    async def _send(self, name: str, tokens: Sequence[int], *, last: bool) -> None:
        said = pb.ModelStreamInferResponse()
        said.infer_response.id = name
        said.infer_response.parameters["triton_final_response"].bool_param = last
        if tokens:
            said.infer_response.outputs.add(name="output_ids", datatype="INT32", shape=[1, 1, len(tokens)])
            said.infer_response.raw_output_contents.append(struct.pack(f"<{len(tokens)}i", *tokens))
        await self._context.write(said)


class StandInCalls(GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated code has no types
    """A server with the model `tensorrt_llm`, whose inputs are `inputs`; one that is `deaf` does not stop anything.
    Every call comes out of `calls` once its first request is there.
    """

    def __init__(self, *inputs: str, deaf: bool = False) -> None:
        self.calls: asyncio.Queue[StandInCall] = asyncio.Queue()
        self._inputs, self._deaf = inputs, deaf

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its address."""
        server = grpc.aio.server()
        add_GRPCInferenceServiceServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)

    async def ModelConfig(self, _: Any, __: Any) -> Any:  # noqa: N802  # the protocol's name
        """Inputs, and nothing else."""
        found = pb.ModelConfigResponse()
        for name in self._inputs:
            found.config.input.add(name=name)
        return found

    async def ModelStreamInfer(self, requests: Any, context: Any) -> None:  # noqa: N802  # the protocol's name
        """Ends when the client has closed its side and has had the last response."""
        call = StandInCall(context)
        try:
            async for request in requests:
                if any(tensor.name == "stop" for tensor in request.inputs):
                    if not self._deaf:
                        await call.stop(request.id)
                    continue
                call.asked.append(request.id)
                self.calls.put_nowait(call)
            call.closed = True
            await call.whole()
        except asyncio.CancelledError:
            call.cancelled = True
            raise
        finally:
            call.ended.set()
