"""The decoder as OpenVINO operations, one piece at a time.

Each piece (embedding, decoder layer, head) is a model of its own whose parameters stand for what the pieces before it
give, so that it can be calibrated and compressed alone while no other layer is in memory; `join` then connects the
pieces. Arithmetic is float32. The KV cache is state (ReadValue, Assign) with the variable names that OpenVINO GenAI
expects, and attention is ScaledDotProductAttention, which it turns into paged attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
from architecture import Architecture
from openvino import opset15 as ops
from openvino.op.util import Variable, VariableInfo
from openvino_names import settle_names
from safetensors_file import Tensor

Node = Any  # the bindings return nodes and outputs interchangeably and are not typed

_TYPES = {"BF16": ov.Type.bf16, "F16": ov.Type.f16, "F32": ov.Type.f32}
_MASKED = np.finfo(np.float32).min


@dataclass
class Piece:
    """A part of the decoder. `inputs` are its parameters by name, `outputs` what the next pieces use."""

    inputs: dict[str, Node]
    outputs: dict[str, Node]
    sinks: list[Node] = field(default_factory=list)
    variables: list[Node] = field(default_factory=list)

    def model(self, name: str) -> ov.Model:
        results = [ops.result(output, name=f"{name}.{key}") for key, output in self.outputs.items()]
        return ov.Model(results, self.sinks, list(self.inputs.values()), self.variables, name)


def _parameter(name: str, shape: list[int], kind: ov.Type) -> Node:
    node = ops.parameter(ov.PartialShape(shape), kind, name=name)
    node.output(0).tensor.set_names({name})
    return node


def _const(value: Any, kind: type = np.int64) -> Node:
    return ops.constant(np.array(value, dtype=kind))


class Weights:
    """The checkpoint's tensors as constants. OpenVINO does not keep the mapped bytes alive; this object does."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self._views: list[Any] = []

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def matrix(self, name: str) -> Node:
        """A constant that shares the bytes of the mapped file, converted to float32 where it is used."""
        tensor = self.tensors[name]
        bits = tensor.bits()
        constant = ov.op.Constant(ov.Tensor(bits, ov.Shape(tensor.shape), _TYPES[tensor.dtype]))
        constant.set_friendly_name(name)
        self._views += [bits, constant]
        return constant if tensor.dtype == "F32" else ops.convert(constant, "f32", name=f"{name}.float32")

    def vector(self, name: str) -> Node:
        """A small float32 constant of its own: norms and biases are never compressed."""
        return ops.constant(self.tensors[name].float32(), name=name)

    def release(self) -> None:
        """Unmap what was handed out; the graphs made of it must have been compressed or dropped."""
        self._views.clear()


def _linear(name: str, x: Node, weights: Weights) -> Node:
    product = ops.matmul(x, weights.matrix(f"{name}.weight"), False, True, name=name)
    if f"{name}.bias" not in weights:
        return product
    return ops.add(product, weights.vector(f"{name}.bias"), name=f"{name}.sum")


def _norm(name: str, x: Node, weights: Weights, epsilon: float) -> Node:
    square = ops.power(x, _const(2, np.float32))
    mean = ops.reduce_mean(square, _const([-1]), keep_dims=True)
    root = ops.sqrt(ops.add(mean, _const(epsilon, np.float32)))
    scaled = ops.multiply(x, ops.divide(_const(1, np.float32), root))
    return ops.multiply(scaled, weights.vector(f"{name}.weight"), name=name)


def front(architecture: Architecture) -> Piece:
    """The model's inputs, and what every layer needs of them: rotations, attention mask, beams."""
    ids = _parameter("input_ids", [-1, -1], ov.Type.i64)
    mask = _parameter("attention_mask", [-1, -1], ov.Type.i64)
    positions = _parameter("position_ids", [-1, -1], ov.Type.i64)
    beams = _parameter("beam_idx", [-1], ov.Type.i32)
    cos, sin = _rotations(architecture, positions)
    outputs = {"input_ids": ids, "beam_idx": beams, "cos": cos, "sin": sin, "mask": _causal(ids, mask)}
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "beam_idx": beams}
    return Piece(inputs, outputs)


def _rotations(architecture: Architecture, positions: Node) -> tuple[Node, Node]:
    """Cos and sin of shape [batch, 1, length, head_dim]."""
    frequencies = architecture.frequencies().astype(np.float32).reshape(1, 1, -1)
    at = ops.unsqueeze(ops.convert(positions, "f32"), _const(-1))
    angle = ops.multiply(at, ops.constant(frequencies, name="rope.frequencies"))
    angle = ops.unsqueeze(ops.concat([angle, angle], -1), _const(1))
    return ops.cos(angle, name="rope.cos"), ops.sin(angle, name="rope.sin")


def _causal(ids: Node, mask: Node) -> Node:
    """[batch, 1, length, past + length]: zero where a query may look, the least float elsewhere."""
    length = _dimension(ids, 1)
    total = _dimension(mask, 1)
    columns = ops.range(_const(0), total, _const(1), "i64")
    rows = ops.add(ops.range(_const(0), length, _const(1), "i64"), ops.subtract(total, length))
    seen = ops.less_equal(ops.unsqueeze(columns, _const(0)), ops.unsqueeze(rows, _const(1)))
    real = ops.unsqueeze(ops.convert(mask, "boolean"), _const([1, 2]))
    allowed = ops.logical_and(ops.unsqueeze(seen, _const([0, 1])), real)
    return ops.select(allowed, _const(0, np.float32), _const(_MASKED, np.float32), name="attention.mask")


def _dimension(x: Node, axis: int) -> Node:
    return ops.gather(ops.shape_of(x), _const(axis), _const(0))


def embedding(architecture: Architecture, weights: Weights) -> Piece:
    """Tokens to hidden states; with tied weights also hidden states to logits, so that both use one constant."""
    ids = _parameter("input_ids", [-1, -1], ov.Type.i64)
    name = "model.embed_tokens"
    table = weights.matrix(f"{name}.weight")
    piece = Piece({"input_ids": ids}, {"hidden": ops.gather(table, ids, _const(0), name=name)})
    if architecture.tied:
        last = _hidden(architecture, "last")
        piece.inputs["last"] = last
        piece.outputs["logits"] = ops.matmul(last, table, False, True, name="lm_head")
    return piece


def untied_head(architecture: Architecture, weights: Weights) -> Piece:
    last = _hidden(architecture, "last")
    return Piece({"last": last}, {"logits": _linear("lm_head", last, weights)})


def final_norm(architecture: Architecture, weights: Weights) -> Piece:
    hidden = _hidden(architecture, "hidden")
    return Piece({"hidden": hidden}, {"last": _norm("model.norm", hidden, weights, architecture.epsilon)})


def _hidden(architecture: Architecture, name: str) -> Node:
    return _parameter(name, [-1, -1, architecture.hidden], ov.Type.f32)


def layer(architecture: Architecture, index: int, weights: Weights) -> Piece:
    """One decoder layer with its part of the KV cache."""
    size = architecture.head_dim
    inputs = {
        "hidden": _hidden(architecture, "hidden"),
        "cos": _parameter("cos", [-1, 1, -1, size], ov.Type.f32),
        "sin": _parameter("sin", [-1, 1, -1, size], ov.Type.f32),
        "mask": _parameter("mask", [-1, 1, -1, -1], ov.Type.f32),
        "beam_idx": _parameter("beam_idx", [-1], ov.Type.i32),
    }
    piece = Piece(inputs, {})
    name, epsilon = f"model.layers.{index}", architecture.epsilon
    x = inputs["hidden"]
    normed = _norm(f"{name}.input_layernorm", x, weights, epsilon)
    x = ops.add(x, _attention(architecture, index, normed, piece, weights))
    after = f"{name}.post_attention_layernorm"
    x = ops.add(x, _mlp(f"{name}.mlp", _norm(after, x, weights, epsilon), weights))
    piece.outputs["hidden"] = x
    return piece


def _mlp(name: str, x: Node, weights: Weights) -> Node:
    gate = ops.swish(_linear(f"{name}.gate_proj", x, weights))
    return _linear(f"{name}.down_proj", ops.multiply(gate, _linear(f"{name}.up_proj", x, weights)), weights)


def _attention(architecture: Architecture, index: int, x: Node, piece: Piece, weights: Weights) -> Node:
    name = f"model.layers.{index}.self_attn"
    cos, sin = piece.inputs["cos"], piece.inputs["sin"]
    q = _heads(architecture, f"{name}.q_proj", architecture.heads, x, weights)
    k = _heads(architecture, f"{name}.k_proj", architecture.kv_heads, x, weights)
    v = _heads(architecture, f"{name}.v_proj", architecture.kv_heads, x, weights)
    if architecture.qk_norm:
        q = _norm(f"{name}.q_norm", q, weights, architecture.epsilon)
        k = _norm(f"{name}.k_norm", k, weights, architecture.epsilon)
    q = _rotate(_swap(q), cos, sin, architecture.head_dim)
    k = _rotate(_swap(k), cos, sin, architecture.head_dim)
    k = _cached(architecture, index, "key", k, piece)
    v = _cached(architecture, index, "value", _swap(v), piece)
    k, v = _repeated(architecture, k), _repeated(architecture, v)
    attended = ops.scaled_dot_product_attention(q, k, v, piece.inputs["mask"], causal=False, name=f"{name}.attention")
    joined = ops.reshape(_swap(attended), _const([0, 0, architecture.heads * architecture.head_dim]), True)
    return _linear(f"{name}.o_proj", joined, weights)


def _heads(architecture: Architecture, name: str, heads: int, x: Node, weights: Weights) -> Node:
    """[batch, length, heads, head_dim]"""
    return ops.reshape(_linear(name, x, weights), _const([0, 0, heads, architecture.head_dim]), True)


def _swap(x: Node) -> Node:
    return ops.transpose(x, _const([0, 2, 1, 3]))


def _rotate(x: Node, cos: Node, sin: Node, size: int) -> Node:
    halves = ops.variadic_split(x, _const(-1), _const([size // 2, size // 2]))
    turned = ops.concat([ops.negative(halves.output(1)), halves.output(0)], -1)
    return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))


def _cached(architecture: Architecture, index: int, what: str, fresh: Node, piece: Piece) -> Node:
    """What was remembered, with `fresh` behind it. A sequence starts with nothing."""
    info = VariableInfo()
    info.data_shape = ov.PartialShape([-1, architecture.kv_heads, -1, architecture.head_dim])
    info.data_type = ov.Type.f32
    info.variable_id = f"past_key_values.{index}.{what}present.{index}.{what}"
    variable = Variable(info)
    batch = ops.unsqueeze(_dimension(piece.inputs["beam_idx"], 0), _const(0))
    shape = ops.concat([batch, _const([architecture.kv_heads, 0, architecture.head_dim])], 0)
    nothing = ops.broadcast(_const(0, np.float32), shape)
    past = ov.op.read_value(nothing, variable)
    past = ops.gather(past, piece.inputs["beam_idx"], _const(0))
    whole = ops.concat([past, fresh], 2)
    piece.variables.append(variable)
    piece.sinks.append(ov.op.assign(whole, variable))
    return whole


def _repeated(architecture: Architecture, x: Node) -> Node:
    """Each key-value head as often as there are query heads for it."""
    times = architecture.heads // architecture.kv_heads
    if times == 1:
        return x
    wide = ops.unsqueeze(x, _const(2))
    shape = ops.concat([_const([1, 1]), _const([times]), _const([1, 1])], 0)
    wide = ops.broadcast(wide, shape, broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(wide, _const([0, architecture.heads, -1, architecture.head_dim]), True)


def connect(piece: Piece, values: dict[str, Node]) -> None:
    """Let `piece` read `values` where it read its parameters."""
    for name, parameter in piece.inputs.items():
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(_output(values[name]))


def _output(node: Node) -> Node:
    return node if isinstance(node, ov.Output) else node.output(0)


def join(pieces: Iterable[Piece], start: Piece, logits: Node) -> ov.Model:
    """The whole decoder as one model, named so that the same graph is always the same text."""
    found = list(pieces)
    _output(logits).tensor.set_names({"logits"})
    sinks = [sink for piece in found for sink in piece.sinks]
    variables = [variable for piece in found for variable in piece.variables]
    model = ov.Model(
        [ops.result(logits, name="logits.result")], sinks, list(start.inputs.values()), variables, "decoder"
    )
    model.validate_nodes_and_infer_types()
    settle_names(model)
    return model
