"""What an OpenVINO graph really holds: the storage type of each weight, and its value as float32.

Compressed weights are unpacked and scaled here in NumPy, not by OpenVINO, so that the comparison of an engine with
`reference_forward` does not use the code that it checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from stage_file import Refused

Array = np.ndarray[Any, np.dtype[Any]]
Node = Any

_NAMES = {"int4_t": "int4", "uint4_t": "uint4", "int8_t": "int8", "uint8_t": "uint8", "float32": "f32"}
_NAMES |= {"float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Storage:
    """How a matrix is kept. `group_size` weights share a scale; a whole row does where it is the row's length."""

    kind: str
    shape: tuple[int, int]
    group_size: int
    symmetric: bool


class Graph:
    """The weights of a decoder graph, by the names of the checkpoint."""

    def __init__(self, path: Path) -> None:
        self.model = ov.Core().read_model(str(path))
        self._nodes = {op.get_friendly_name(): op for op in self.model.get_ordered_ops()}

    def matrices(self) -> list[str]:
        """Names of the matrices, without ``.weight``; tied embeddings and head are one, ``model.embed_tokens``."""
        kinds = ("MatMul", "Gather")
        found = [name for name, op in self._nodes.items() if op.get_type_name() in kinds and _is_named(name)]
        if "lm_head" in found and self._origin("lm_head") == self._origin("model.embed_tokens"):
            found.remove("lm_head")
        return sorted(found)

    def storage(self, name: str) -> Storage:
        """How the matrix `name` is stored."""
        stored, scale, offset = _parts(self._matrix(name))
        rows, *rest = stored.get_output_shape(0)
        width = int(np.prod(rest))
        group = width if scale is None or len(rest) == 1 else rest[-1]
        kind = _NAMES.get(_type(stored), _type(stored))
        return Storage(kind, (rows, width), group, offset is None)

    def value(self, name: str) -> Array:
        """The tensor `name` of the checkpoint as float32, as the graph holds it."""
        base = name.removesuffix(".weight")
        if base in self._nodes and self._nodes[base].get_type_name() in ("MatMul", "Gather"):
            return _evaluate(self._matrix(base))
        if name not in self._nodes or self._nodes[name].get_type_name() != "Constant":
            raise Refused(f"the graph holds no weight {name}")
        return _evaluate(self._nodes[name])

    def _matrix(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            raise Refused(f"the graph has no operation {name}")
        return node.input_value(0 if node.get_type_name() == "Gather" else 1).get_node()

    def _origin(self, name: str) -> str:
        return str(_parts(self._matrix(name))[0].get_friendly_name())


def _is_named(name: str) -> bool:
    return name == "lm_head" or name.startswith("model.")


def _type(node: Node) -> str:
    return str(node.get_output_element_type(0)).split("'")[1]


def _parts(node: Node) -> tuple[Node, Node | None, Node | None]:
    """The stored constant, its scale and its zero point, below a chain of decompression operations."""
    scale = offset = None
    while node.get_type_name() != "Constant":
        kind = node.get_type_name()
        if kind == "Multiply":
            scale = node.input_value(1).get_node()
        elif kind == "Subtract":
            offset = node.input_value(1).get_node()
        elif kind not in ("Convert", "Reshape"):
            raise Refused(f"the operation {kind} in the weights of the graph is not known")
        node = node.input_value(0).get_node()
    return node, scale, offset


def _evaluate(node: Node) -> Array:
    kind = node.get_type_name()
    if kind == "Constant":
        return _constant(node)
    first = _evaluate(node.input_value(0).get_node())
    if kind == "Convert":
        return first
    if kind == "Reshape":
        return first.reshape(tuple(node.get_output_shape(0)))
    second = _evaluate(node.input_value(1).get_node())
    if kind == "Multiply":
        return np.multiply(first, second, out=first)
    if kind == "Subtract":
        return np.subtract(first, second, out=first)
    raise Refused(f"the operation {kind} in the weights of the graph is not known")


def _constant(node: Node) -> Array:
    """A fresh float32 array. Four-bit values are packed two in a byte, the first in the low half."""
    kind, shape = _NAMES.get(_type(node), _type(node)), tuple(node.get_output_shape(0))
    data = np.asarray(node.data)
    if kind == "bf16":
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if kind not in ("int4", "uint4"):
        return data.astype(np.float32).reshape(shape)
    packed = data.reshape(-1).view(np.uint8)
    halves = np.empty((packed.size, 2), dtype=np.float32)
    halves[:, 0], halves[:, 1] = packed & 15, packed >> 4
    flat = halves.reshape(-1)[: int(np.prod(shape))]
    if kind == "int4":
        flat[flat > 7] -= 16
    return flat.reshape(shape)
