"""What our writer of config.pbtxt wrote is what protobuf reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

sys.path.append(str(Path(__file__).parents[2] / "hermetic" / "llm" / "programs"))
import triton_openvino
from triton_config import Batching, Model, Step, Tensor, pbtxt


def parsed(model: Model) -> Any:
    return text_format.Parse(pbtxt(model), model_config_pb2.ModelConfig())


def read_tensor(tensor: Any) -> Tensor:
    kind = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    optional, ragged = (getattr(tensor, name, False) for name in ("optional", "allow_ragged_batch"))
    return Tensor(tensor.name, kind, tuple(tensor.dims), optional, tensor.HasField("reshape"), ragged)


def read(config: Any) -> Model:
    """The other way round, by protobuf's own classes."""
    steps = tuple(
        Step(step.model_name, dict(step.input_map), dict(step.output_map)) for step in config.ensemble_scheduling.step
    )
    batching = None
    if config.HasField("dynamic_batching"):
        queue = config.dynamic_batching
        batching = Batching(queue.max_queue_delay_microseconds, queue.default_queue_policy.max_queue_size)
    return Model(
        name=config.name,
        inputs=tuple(map(read_tensor, config.input)),
        outputs=tuple(map(read_tensor, config.output)),
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        decoupled=config.model_transaction_policy.decoupled,
        batching=batching,
        instances=sum(group.count for group in config.instance_group) or 1,
        parameters={name: value.string_value for name, value in config.parameters.items()},
        steps=steps,
    )


@pytest.mark.parametrize("model", triton_openvino.models({"max_seq_len": "2048"}, "/t"), ids=lambda one: one.name)
def test_every_model_comes_back(model: Model) -> None:
    assert read(parsed(model)) == (model if not model.steps else model.__class__(**{**vars(model), "decoupled": False}))


TENSORS = st.builds(
    Tensor,
    st.text(max_size=8),
    st.sampled_from(["INT32", "FP32", "STRING", "BOOL", "UINT64"]),
    st.lists(st.integers(-1, 99), min_size=1, max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
)
MAPS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)


@given(
    st.builds(
        Model,
        name=st.text(),
        inputs=st.lists(TENSORS, max_size=3).map(tuple),
        outputs=st.just(()),
        backend=st.text(),
        max_batch_size=st.integers(0, 9999),
        decoupled=st.booleans(),
        batching=st.none() | st.builds(Batching, st.integers(0, 10**6), st.integers(0, 10**6)),
        instances=st.integers(1, 9),
        parameters=MAPS,
    )
)
def test_any_text_survives(model: Model) -> None:
    """Colons, commas, quotes, `${…}` and every character that UTF-8 has, which templates break on."""
    assert read(parsed(model)) == model


@given(st.lists(st.builds(Step, st.text(), MAPS, MAPS), min_size=1, max_size=3).map(tuple))
def test_ensembles(steps: tuple[Step, ...]) -> None:
    config = parsed(Model("all", (), (), steps=steps))
    assert (config.platform, config.backend) == ("ensemble", "")
    assert read(config).steps == steps
