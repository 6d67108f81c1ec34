"""What a Triton model's ``config.pbtxt`` says, as data, and its text. Standard library only.

The fields are those of ``ModelConfig`` in Triton's ``model_config.proto``; the text is protobuf's text format. It is
written from the data and never by filling a template: a template leaves what nobody filled in place as ``${name}``, and
a value with a colon breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tensor:
    """An input or output. `type` is a Triton type without ``TYPE_``; `dims` lack the batch's, −1 is any length.

    `scalar`: the model's backend wants it without its one dimension (``reshape``); `ragged`: requests of different
    lengths may share a batch.
    """

    name: str
    type: str
    dims: tuple[int, ...]
    optional: bool = False
    scalar: bool = False
    ragged: bool = False


@dataclass(frozen=True)
class Batching:
    """How the server gathers requests: how long the first waits in µs, and how many may wait (0: any number)."""

    max_queue_delay_microseconds: int = 0
    max_queue_size: int = 0


@dataclass(frozen=True)
class Step:
    """One model of an ensemble. `inputs` and `outputs` map its tensors to those of the ensemble."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Model:
    """One model of a repository; with `steps` it is an ensemble, and has no backend."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    backend: str = ""
    max_batch_size: int = 0
    decoupled: bool = False
    batching: Batching | None = None
    instances: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()


def pbtxt(model: Model) -> str:
    """The text of its ``config.pbtxt``."""
    return "\n".join(_model(model)) + "\n"


def _model(model: Model) -> Iterator[str]:
    yield f"name: {quoted(model.name)}"
    yield 'platform: "ensemble"' if model.steps else f"backend: {quoted(model.backend)}"
    yield f"max_batch_size: {model.max_batch_size}"
    if model.decoupled and not model.steps:  # of an ensemble it follows from the steps
        yield "model_transaction_policy { decoupled: true }"
    if model.batching is not None:
        yield from _batching(model.batching)
    yield from (f"input {{ {' '.join(_tensor(tensor))} }}" for tensor in model.inputs)
    yield from (f"output {{ {' '.join(_tensor(tensor))} }}" for tensor in model.outputs)
    if model.steps:
        yield "ensemble_scheduling {"
        yield from (f"  {line}" for step in model.steps for line in _step(step))
        yield "}"
    else:
        yield f"instance_group {{ count: {model.instances} kind: KIND_CPU }}"
    for name, value in sorted(model.parameters.items()):
        yield f"parameters {{ key: {quoted(name)} value {{ string_value: {quoted(value)} }} }}"


def _tensor(tensor: Tensor) -> Iterator[str]:
    yield f"name: {quoted(tensor.name)}"
    yield f"data_type: TYPE_{tensor.type}"
    yield from (f"dims: {length}" for length in tensor.dims)
    if tensor.scalar:
        yield "reshape { }"  # to no dimension at all
    if tensor.optional:
        yield "optional: true"
    if tensor.ragged:
        yield "allow_ragged_batch: true"


def _batching(batching: Batching) -> Iterator[str]:
    yield "dynamic_batching {"
    yield f"  max_queue_delay_microseconds: {batching.max_queue_delay_microseconds}"
    if batching.max_queue_size:
        yield f"  default_queue_policy {{ max_queue_size: {batching.max_queue_size} }}"
    yield "}"


def _step(step: Step) -> Iterator[str]:
    yield "step {"
    yield f"  model_name: {quoted(step.model)}"
    yield "  model_version: -1"
    for kind, names in (("input_map", step.inputs), ("output_map", step.outputs)):
        for name, outer in names.items():
            yield f"  {kind} {{ key: {quoted(name)} value: {quoted(outer)} }}"
    yield "}"


def quoted(text: str) -> str:
    """As a string of protobuf's text format: printable ASCII as it is, every other byte as three octal digits."""
    return '"' + "".join(_escaped(byte) for byte in text.encode()) + '"'


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
