"""``model.py`` of a Triton model ``tensorrt_llm`` that computes nothing: tokens at a pace.

It is a stand-in that proxies are measured against. The pace is `PACE_MS` milliseconds a token and request; 0 is as fast
as it goes.
"""

from __future__ import annotations

import heapq
import os
import queue
import sys
import threading
import time
from typing import Any

sys.path.extend(filter(None, os.environ.get("PYTHONPATH", "").split(":")))

import numpy as np
import triton_python_backend_utils as pb_utils

PACE_MS = 10.0


class TritonPythonModel:
    """One thread sends what is due."""

    def initialize(self, args: dict[str, str]) -> None:  # noqa: ARG002
        self._waiting: queue.Queue[Any] = queue.Queue()
        self._stopped: set[str] = set()  # one that has ended stays in it
        threading.Thread(target=self._work, daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            if pb_utils.get_input_tensor_by_name(request, "stop") is not None:
                self._stopped.add(request.request_id())
                sender.send(pb_utils.InferenceResponse([]), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            wanted = pb_utils.get_input_tensor_by_name(request, "request_output_len").as_numpy().reshape(-1)[0]
            self._waiting.put((time.monotonic(), sender, request.request_id(), int(wanted)))

    def _work(self) -> None:
        due: list[tuple[float, int, int, str, Any]] = []
        number = 0
        while True:
            pause = max(0.0, due[0][0] - time.monotonic()) if due else None
            try:
                item = self._waiting.get(timeout=pause) if pause != 0 else self._waiting.get_nowait()
                arrived, sender, name, left = item
                number += 1
                heapq.heappush(due, (arrived + PACE_MS / 1000, number, left, name, sender))
            except queue.Empty:
                pass
            if due and due[0][0] <= time.monotonic():
                when, mine, left, name, sender = heapq.heappop(due)
                if self._send(sender, left, name):
                    heapq.heappush(due, (when + PACE_MS / 1000, mine, left - 1, name, sender))

    def _send(self, sender: Any, left: int, name: str) -> bool:
        """Whether there is more to send."""
        if name in self._stopped or sender.is_cancelled():
            left, tensors = 1, []
        else:
            tensors = [
                pb_utils.Tensor("output_ids", np.array([[[300 + left % 1000]]], np.int32)),
                pb_utils.Tensor("sequence_length", np.array([[1]], np.int32)),
            ]
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if left <= 1 else 0
        sender.send(pb_utils.InferenceResponse(tensors) if tensors else None, flags=flags)
        return left > 1
