"""A client that measures a server of tokens: ``python -m bench.asking WAY PORT STREAMS TOKENS REQUESTS``.

WAY is ``proxy`` (OpenAI's API, as bytes) or a model of Triton's, ``ensemble`` or ``tensorrt_llm`` (gRPC). Each of
STREAMS asks REQUESTS times in a row. It does as little as it can with what comes in, to leave the processor to who is
measured. Writes JSON.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from typing import Any

import grpc
import uvloop
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

PROMPT = "What is a store path?"


async def proxy(port: int, tokens: int) -> tuple[float, int]:
    """Seconds to the first token, and how many came."""
    said = {"model": "paced", "messages": [{"role": "user", "content": PROMPT}], "stream": True, "max_tokens": tokens}
    body = json.dumps(said).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    first, count, tail = 0.0, 0, b""
    while b"[DONE]" not in tail:
        data = await reader.read(65536)
        if not data:
            break
        count += data.count(b'"content":"') - data.count(b'"content":""')
        if not first and count:
            first = time.perf_counter() - start
        tail = tail[-8:] + data
    writer.close()
    return first, count


def tensor(request: Any, name: str, kind: str, raw: bytes, size: int = 1) -> None:
    request.inputs.add(name=name, datatype=kind, shape=[1, size])
    request.raw_input_contents.append(raw)


def question(model: str, tokens: int) -> Any:
    request = pb.ModelInferRequest(model_name=model)
    if model == "ensemble":
        text = PROMPT.encode()
        tensor(request, "text_input", "BYTES", struct.pack("<I", len(text)) + text)
        tensor(request, "max_tokens", "INT32", struct.pack("<i", tokens))
        tensor(request, "stream", "BOOL", b"\x01")
    else:
        tensor(request, "input_ids", "INT32", struct.pack("<8i", *range(8)), 8)
        tensor(request, "input_lengths", "INT32", struct.pack("<i", 8))
        tensor(request, "request_output_len", "INT32", struct.pack("<i", tokens))
        tensor(request, "streaming", "BOOL", b"\x01")
    return request


async def direct(stub: Any, model: str, tokens: int) -> tuple[float, int]:
    start = time.perf_counter()
    call = stub.ModelStreamInfer()
    await call.write(question(model, tokens))
    await call.done_writing()
    first, count = 0.0, 0
    while (response := await call.read()) is not grpc.aio.EOF:
        if response.error_message:
            raise SystemExit(response.error_message)
        count += 1
        first = first or time.perf_counter() - start
    return first, count


async def main(way: str, port: int, streams: int, tokens: int, requests: int) -> dict[str, Any]:
    if way == "proxy":

        async def once() -> tuple[float, int]:
            return await proxy(port, tokens)

    else:
        stub = GRPCInferenceServiceStub(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))

        async def once() -> tuple[float, int]:
            return await direct(stub, way, tokens)

    async def stream() -> list[tuple[float, int]]:
        return [await once() for _ in range(requests)]

    await once()
    start, used = time.perf_counter(), time.process_time()
    found = [one for several in await asyncio.gather(*[stream() for _ in range(streams)]) for one in several]
    seconds = time.perf_counter() - start
    cpu = time.process_time() - used
    return {
        "seconds": seconds,
        "cpu": cpu,
        "tokens": sum(count for _, count in found),
        "first": [one for one, _ in found],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(main(sys.argv[1], *map(int, sys.argv[2:])))) + "\n")
