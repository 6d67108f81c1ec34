"""The tiny engine behind a real Triton: answers, readiness, refusals, and an end that leaves nothing."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_kit
import tritonclient.grpc as triton
from google.protobuf import text_format
from triton_kit import Server, Tiny, hermetic, inside, none_is_left, read, serving
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from hermetic.testing.ports import free_ports

PROMPT = "<|im_start|>user\nWhat is a store path?<|im_end|>\n<|im_start|>assistant\n"
ANSWER = (
    "A store path is an immutable folder that holds the result of one stage. "
    "Its name starts with the key, so the same inputs always lead to the same path."
)
NAMES = ("--port", "--http-port", "--grpc-port", "--metrics-port")
HANGS = "import threading\nthreading.Event().wait()\n"
KINDS = {"INT32": np.int32, "BOOL": np.bool_, "FP32": np.float32, "UINT64": np.uint64, "BYTES": np.object_}


@pytest.fixture(scope="module")
def server(tiny: Tiny) -> Iterator[Server]:
    with serving(triton_kit.RECIPE) as found:
        yield found


def generate(server: Server, **inputs: Any) -> dict[str, Any]:
    request = urllib.request.Request(server.url("/v2/models/ensemble/generate"), json.dumps(inputs).encode())
    with urllib.request.urlopen(request) as answer:
        return dict(json.load(answer))


def tensor(name: str, kind: str, values: list[Any]) -> triton.InferInput:
    array = np.array([values], KINDS[kind])
    found = triton.InferInput(name, list(array.shape), kind)
    found.set_data_from_numpy(array)
    return found


class Stream:
    """One request to the model `tensorrt_llm`; the responses come in through `next`."""

    def __init__(self, client: triton.InferenceServerClient, ids: list[int], length: int, **settings: Any) -> None:
        self.responses: queue.Queue[Any] = queue.Queue()
        self.client = client
        client.start_stream(lambda result, error: self.responses.put((result, error)))
        inputs = [tensor("input_ids", "INT32", ids), tensor("input_lengths", "INT32", [len(ids)])]
        inputs += [tensor("request_output_len", "INT32", [length]), tensor("streaming", "BOOL", [True])]
        inputs += [tensor(name, kind, value) for name, (kind, value) in settings.items()]
        client.async_stream_infer("tensorrt_llm", inputs, enable_empty_final_response=True)

    def next(self) -> Any:
        result, error = self.responses.get(timeout=60)
        if error is not None:
            raise error
        return result

    def all(self) -> list[Any]:
        found = [self.next()]
        while not found[-1].get_response().parameters["triton_final_response"].bool_param:
            found.append(self.next())
        return found


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as found:
        yield found


def tokens(responses: list[Any]) -> list[int]:
    return [int(token) for one in responses for token in one.as_numpy("output_ids").reshape(-1)]


def test_it_answers(server: Server) -> None:
    assert generate(server, text_input=PROMPT, max_tokens=64)["text_output"] == ANSWER


def test_text_is_streamed_in_whole_characters(server: Server) -> None:
    """The model `tensorrt_llm_bls`, which puts tokens together first."""
    body = json.dumps({"text_input": PROMPT, "max_tokens": 64, "stream": True}).encode()
    request = urllib.request.Request(server.url("/v2/models/tensorrt_llm_bls/generate_stream"), body)
    with urllib.request.urlopen(request) as answer:
        events = [json.loads(line.removeprefix(b"data: ")) for line in answer if line.strip()]
    assert "".join(event["text_output"] for event in events) == ANSWER
    assert len(events) > 20


def test_what_it_says_when_it_is_ready(server: Server, tiny: Tiny) -> None:
    promised = json.loads((tiny.repository / "deployment.json").read_text())
    assert server.ready["event"] == "ready"
    assert server.ready["engine"] == promised["engine"]["hash"]
    assert server.ready["tokenizer"] == promised["tokenizer"]["hash"]
    assert promised["engine"]["files"] == json.loads((tiny.manifest / "manifest.json").read_text())["files"]
    with urllib.request.urlopen(server.url("/v2/health/ready")) as answer:
        assert answer.status == 200


def test_triton_reads_the_configuration_that_was_written(client: Any, tiny: Tiny) -> None:
    """Triton adds defaults of its own; whatever the file says it must say too."""
    for model in ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble"):
        text = (tiny.repository / "repository" / model / "config.pbtxt").read_text()
        written = text_format.Parse(text, model_config_pb2.ModelConfig())
        seen = client.get_model_config(model).config
        for name in ("name", "backend", "platform", "max_batch_size", "input", "output", "parameters"):
            assert getattr(seen, name) == getattr(written, name), (model, name)


def test_tokens_come_one_by_one_with_the_times(client: Any) -> None:
    stream = Stream(client, [1, 2, 3], 8, return_perf_metrics=("BOOL", [True]), return_log_probs=("BOOL", [True]))
    responses = stream.all()
    assert len(tokens(responses)) == 8
    assert len(responses) == 8
    assert responses[0].as_numpy("output_ids").shape == (1, 1, 1)
    assert responses[0].as_numpy("output_log_probs").shape == (1, 1, 1)
    names = ("arrival", "first_scheduled", "first_token", "last_token")
    times = [int(responses[-1].as_numpy(f"{name}_time_ns").reshape(-1)[0]) for name in names]
    assert times == sorted(times)
    assert times[0] > 0


def test_a_schema_is_kept_to(client: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
    response = Stream(
        client,
        [1, 2, 3],
        200,
        guided_decoding_guide_type=("BYTES", [b"json_schema"]),
        guided_decoding_guide=("BYTES", [json.dumps(schema).encode()]),
        temperature=("FP32", [0.0]),
    ).all()
    assert tokens(response)


@pytest.mark.parametrize(
    ("length", "settings", "says"),
    [
        (0, {}, "1 or more"),
        (4000, {}, "more than the engine's"),
        (8, {"guided_decoding_guide_type": ("BYTES", [b"poem"])}, "poem"),
        (
            8,
            {"guided_decoding_guide_type": ("BYTES", [b"regex"]), "guided_decoding_guide": ("BYTES", [b"("])},
            "no regular expression",
        ),
        (
            8,
            {"guided_decoding_guide_type": ("BYTES", [b"json_schema"]), "guided_decoding_guide": ("BYTES", [b"{"])},
            "Expecting property name",
        ),
        (8, {"temperature": ("FP32", [-1.0])}, "temperature"),
        (8, {"runtime_top_p": ("FP32", [1.5])}, "top_p"),
    ],
)
def test_refusals(client: Any, length: int, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InferenceServerException, match=says):
        Stream(client, [1, 2, 3], length, **settings).all()


def test_a_guide_that_can_not_be_compiled_harms_nobody_else(server: Server) -> None:
    """OpenVINO GenAI notices in the middle of a step, and could not make another one from then on."""
    guide = {"guided_decoding_guide_type": ("BYTES", [b"ebnf_grammar"]), "guided_decoding_guide": ("BYTES", [b"no ::"])}
    with triton.InferenceServerClient(server.grpc) as one, triton.InferenceServerClient(server.grpc) as other:
        running = Stream(one, [1, 2, 3], 600, min_tokens=("INT32", [600]))
        first = running.next()
        with pytest.raises(InferenceServerException, match="the engine failed"):
            Stream(other, [1, 2, 3], 8, **guide).all()
        assert len(tokens([first, *running.all()])) == 600
    assert generate(server, text_input=PROMPT, max_tokens=64)["text_output"] == ANSWER


@pytest.mark.parametrize("ids", [[], [-1], [10**9], [1, 2, 3000]])
def test_tokens_that_are_none(client: Any, ids: list[int]) -> None:
    """They would be read from beyond the table of embeddings."""
    with pytest.raises(InferenceServerException, match=r"input_ids must be|shape|batch|byte"):
        Stream(client, ids, 4).all()
    client.stop_stream()
    assert len(tokens(Stream(client, [1, 2, 3], 4).all())) == 4


def test_a_batch_of_two_is_refused(client: Any) -> None:
    batch = {"input_ids": (2, 3), "input_lengths": (2, 1), "request_output_len": (2, 1)}
    inputs = [triton.InferInput(name, list(shape), "INT32") for name, shape in batch.items()]
    for one in inputs:
        one.set_data_from_numpy(np.ones(one.shape(), np.int32))
    responses: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: responses.put(error))
    client.async_stream_infer("tensorrt_llm", inputs)
    assert "batch-size must be <= 1" in str(responses.get(timeout=60))


def test_a_cancelled_request_stops_computing(client: Any, server: Server) -> None:
    stream = Stream(client, [1, 2, 3], 2000, min_tokens=("INT32", [2000]))
    stream.next()
    client.stop_stream(cancel_requests=True)
    again = Stream(client, [1, 2, 3], 4)
    assert len(tokens(again.all())) == 4


def test_ports_in_use_name_who_has_them(server: Server) -> None:
    port = server.ready["grpc"]
    done = hermetic("serve", "triton", triton_kit.RECIPE, "--grpc-port", str(port))
    assert done.returncode == 8
    assert f"error[busy/port-in-use]: port {port} (grpc) of 127.0.0.1 is taken by tritonserver" in done.stderr


def test_a_policy_with_a_mistake_is_said_before_triton_is_started(tiny: Tiny, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("policy = 2")
    ports = [word for name, port in zip(NAMES, free_ports(4), strict=True) for word in (name, str(port))]
    done = hermetic("serve", triton_kit.RECIPE, "--policy", policy, *ports)
    assert (done.returncode, "error[recipe/policy-invalid]" in done.stderr) == (3, True)
    assert "Triton is started" not in done.stderr


def test_a_path_with_its_manifest(tiny: Tiny, tmp_path: Path) -> None:
    """An engine from anywhere; then one byte of it is another."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(tiny.engine, folder)
    folder.chmod(0o755)
    shutil.copy(tiny.manifest / "manifest.json", folder)
    with serving(folder, "--max-batch-size", "2") as server:
        assert generate(server, text_input=PROMPT, max_tokens=64)["text_output"] == ANSWER
    model = folder / "openvino_model.bin"
    model.chmod(0o644)
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    done = hermetic("serve", "triton", folder)
    assert done.returncode == 5
    assert "error[trust/engine-changed]" in done.stderr
    assert "openvino_model.bin has other bytes" in done.stderr


def test_a_name(tiny: Tiny, tmp_path: Path) -> None:
    """A link to a store path, for which the store itself vouches; then a link that leads nowhere."""
    (tmp_path / "qwen3").symlink_to(tiny.engine)
    with serving("qwen3", "--to", tmp_path, TOKENIZER_INFO="/somewhere") as server:
        assert server.ready["name"] == "qwen3"
        assert generate(server, text_input=PROMPT, max_tokens=64)["text_output"] == ANSWER
        assert any("TOKENIZER_INFO is not read here" in line for line in server.said)
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    done = hermetic("serve", "triton", "gone", "--to", tmp_path)
    assert (done.returncode, "error[store/profile-nowhere]" in done.stderr) == (6, True)


@pytest.mark.parametrize("victim", ["tritonserver", "tensorrt_llm"])
def test_what_dies_is_said_and_ends_all(victim: str, tiny: Tiny) -> None:
    """Triton itself, or the process of a model, without which Triton would go on to say that it is ready."""
    with serving(triton_kit.RECIPE) as server:
        words = {pid: read(pid, "cmdline").split(b"\0") for pid in inside(server.ready["http"])}
        ends = {"tritonserver": b"/bin/tritonserver", "tensorrt_llm": b"/tensorrt_llm/1/model.py"}[victim]
        (found,) = [pid for pid, line in words.items() if any(word.endswith(ends) for word in line[:2])]
        os.kill(found, signal.SIGKILL)
        assert server.process.wait() == 4
        server.said.wait_for("error[environment/triton-ended]: Triton ended by itself: signal 9")
        server.said.wait_for(f"all it printed is in {server.ready['log']}")
        if victim == "tensorrt_llm":
            server.said.wait_for("the process of a model has died")
    none_is_left(server.ready["http"])


def test_an_engine_without_a_manifest(tmp_path: Path) -> None:
    done = hermetic("serve", "triton", f"{tmp_path}/.")
    assert done.returncode == 5
    assert "error[trust/no-manifest]" in done.stderr


@pytest.mark.parametrize(
    ("model", "code", "options", "reason", "says"),
    [
        (
            "tensorrt_llm",
            "raise RuntimeError('of a test')",
            (),
            "model-failed",
            "'tensorrt_llm': Internal: RuntimeError",
        ),
        ("preprocessing", HANGS, ("--start-timeout", "2"), "start-timeout", "waited for"),
    ],
    ids=["fails", "hangs"],
)
def test_a_model_that_can_not_be_loaded(
    model: str, code: str, options: tuple[str, ...], reason: str, says: str, tiny: Tiny, tmp_path: Path
) -> None:
    """An error at once, or when the time is over. What Triton printed is in a file, and not on the terminal."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny.repository, broken)
    for folder, _, _ in os.walk(broken):
        os.chmod(folder, 0o755)
    file = broken / "repository" / model / "1" / "model.py"
    file.chmod(0o644)
    file.write_text(code)
    ports = [str(port) for port in free_ports(3)]
    log = tmp_path / "triton.log"
    done = hermetic(
        "serve", "triton", tiny.engine, "--repository", broken, "--triton-log", log, *options,
        "--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2],
    )  # fmt: skip
    assert done.returncode == 4
    error = done.stderr[done.stderr.index(f"error[environment/{reason}]") :]
    assert says in error
    assert f"  |   /build/in/repository/repository/{model}/1/model.py(1)" in error or reason == "start-timeout"
    assert f"all it printed is in {log}" in error
    assert "TRITONBACKEND_ModelInstanceInitialize" not in done.stderr.replace(error, "")
    assert "TRITONBACKEND_ModelInstanceInitialize" in log.read_text()
    none_is_left(int(ports[0]))


def closed(server: Server, *ports: str) -> bool:
    for name in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.ready[name])) == 0:
                return False
    return True


def test_a_kill_leaves_nothing(tiny: Tiny) -> None:
    """Of hermetic itself, with a request that runs: no process, no shared memory, no open port."""
    before = set(os.listdir("/dev/shm"))
    with serving(triton_kit.RECIPE) as server, triton.InferenceServerClient(server.grpc) as client:
        Stream(client, [1, 2, 3], 2000, min_tokens=("INT32", [2000])).next()
        assert len(inside(server.ready["http"])) >= 4  # Triton and a stub for each model that is no ensemble
        server.process.kill()
    none_is_left(server.ready["http"])
    assert closed(server, "http", "grpc", "metrics")
    assert {name for name in set(os.listdir("/dev/shm")) - before if "hermetic" in name} == set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["Unable to allocate pinned", "loading: tensorrt_llm", "TRITONBACKEND_ModelInst"])
def test_a_signal_while_it_starts_leaves_nothing(tiny: Tiny, moment: str, number: signal.Signals) -> None:
    with triton_kit.starting(triton_kit.RECIPE, "--verbose") as (process, port):
        assert any(moment in line for line in process.stderr)  # type: ignore[union-attr]  # it is a pipe
        assert inside(port)
        process.send_signal(number)
        none_is_left(port)
        assert process.wait() == (-9 if number == signal.SIGKILL else 130)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_requests_that_run_come_to_their_end(tiny: Tiny, number: signal.Signals) -> None:
    with serving(triton_kit.RECIPE) as server, triton.InferenceServerClient(server.grpc) as client:
        stream = Stream(client, [1, 2, 3], 500, min_tokens=("INT32", [500]))
        stream.next()
        server.process.send_signal(number)
        responses = stream.all()
        assert len(tokens(responses)) == 499
        client.stop_stream()
        assert server.process.wait() == 0


@pytest.mark.slow
def test_a_client_that_never_goes_does_not_hold_the_server(tiny: Tiny) -> None:
    with serving(triton_kit.RECIPE, "--drain", "0") as server, triton.InferenceServerClient(server.grpc) as client:
        Stream(client, [1, 2, 3], 4).all()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 0
