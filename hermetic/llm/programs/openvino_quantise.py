"""Stage `quantised`: the decoder as an OpenVINO graph with compressed weights.

The graph is made directly from the checkpoint, one layer at a time: a layer is built over the mapped file, calibrated
on what the layers before it gave, compressed by NNCF, and only its compressed weights stay. So memory is bounded by
the compressed weights plus one layer in float32, not by the checkpoint. Activations for calibration come from the
layers before compression.

Output: ``openvino_model.xml`` and ``.bin``, and ``quantisation.json`` with what was asked and what the graph, read
back, really holds. The stage fails if the two differ.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import version
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

import lean_nncf  # noqa: F401  # before nncf
import nncf
import numpy as np
import openvino as ov
import openvino_graph as graph
from architecture import Architecture, parse_config
from calibration import read_samples
from nncf.quantization.advanced_parameters import AdvancedAWQParameters, AdvancedCompressionParameters
from openvino_weights import Graph, Storage
from safetensors_file import Tensor, as_float32, read_checkpoint
from stage_file import Refused, StageFile, read_json, run, say, write_json

Array = np.ndarray[Any, np.dtype[Any]]
Sample = dict[str, Array]

#: Full float32 whatever the CPU could do faster: a result must not depend on bfloat16 units.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


#: Share of a matrix's norm that rounding may take. Normally distributed weights lose a tenth with four bits and a
#: hundredth with eight; more than this is not rounding. What was not rounded loses nothing.
_LARGEST_LOSS = {"int4": 0.5, "uint8": 0.1, "f16": 0.0, "bf16": 0.0, "f32": 0.0}
_ROWS = 4096


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    mode: str
    group_size: int
    ratio: Decimal
    awq: bool
    scale_estimation: bool
    gptq: bool
    samples: int
    length: int

    @property
    def calibrated(self) -> bool:
        return self.awq or self.scale_estimation or self.gptq


def build(stage: StageFile) -> None:
    plan = _plan(stage.parameters)
    source = stage.input("weights")
    architecture = parse_config(read_json(source / "config.json"))
    tensors = read_checkpoint(source)
    _check_groups(plan, architecture)
    samples = _samples(plan, stage, architecture, tensors)
    narrow = _narrow(plan, architecture, tensors)
    weights = graph.Weights(tensors)
    model = _decoder(plan, architecture, weights, samples, narrow)
    stage.out.mkdir(exist_ok=True)
    path = stage.out / "openvino_model.xml"
    ov.save_model(model, str(path), compress_to_fp16=False)
    held = Graph(path)
    done = {name: held.storage(name) for name in held.matrices()}
    _compare(plan, architecture, tensors, done, narrow)
    losses, scaled = _losses(plan, tensors, held)
    if plan.awq and not scaled:
        raise Refused("AWQ was asked for, but it changed no layer")
    write_json(stage.out / "quantisation.json", _report(stage, done, samples, losses, scaled))


def _plan(parameters: dict[str, Any]) -> Plan:
    plan = Plan(**{**parameters, "ratio": Decimal(parameters["ratio"])})
    if plan.mode not in ("none", "int8_asym", "int4_sym"):
        raise Refused(f"the mode {plan.mode!r} is not known; none, int8_asym and int4_sym are")
    if plan.mode != "int4_sym" and (plan.calibrated or plan.ratio != 1):
        raise Refused(f"awq, scale_estimation, gptq and ratio belong to int4_sym, not to {plan.mode}")
    if not 0 < plan.ratio <= 1:
        raise Refused(f"ratio {plan.ratio} is not between 0 and 1")
    return plan


def _check_groups(plan: Plan, architecture: Architecture) -> None:
    for name, (_, width) in architecture.linears().items():
        if plan.mode == "int4_sym" and width % plan.group_size:
            fitting = [str(size) for size in (128, 64, 32) if not width % size]
            hint = f"; {' and '.join(fitting)} would" if fitting else "; use the mode int8_asym"
            raise Refused(f"group_size {plan.group_size} does not divide the {width} inputs of {name}{hint}")


def _samples(
    plan: Plan, stage: StageFile, architecture: Architecture, tensors: dict[str, Tensor]
) -> list[tuple[list[int], Sample]]:
    """Token ids of each calibration sample and what the first layer sees of them."""
    if not plan.calibrated:
        return []
    if "calibration" not in stage.inputs:
        raise Refused("awq, scale_estimation and gptq need the input calibration")
    tokenizer = stage.input("weights") / "tokenizer.json"
    texts = read_samples(stage.input("calibration"), tokenizer, plan.samples, plan.length)
    say(f"calibrating with {len(texts)} samples, {sum(map(len, texts))} tokens")
    start = graph.front(architecture)
    names = ("cos", "sin", "mask")
    results = [start.outputs[name].output(0) for name in names]
    request = ov.Core().compile_model(ov.Model(results, list(start.inputs.values())), "CPU", EXACT)
    table = tensors["model.embed_tokens.weight"]
    return [(ids, _first(request, names, table, ids)) for ids in texts]


def _first(request: Any, names: tuple[str, ...], table: Tensor, ids: list[int]) -> Sample:
    length = len(ids)
    inputs = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    given = request(inputs)
    sample = {name: np.array(given[index]) for index, name in enumerate(names)}
    return sample | {"hidden": table.rows(ids)[None], "beam_idx": inputs["beam_idx"]}


def _decoder(
    plan: Plan,
    architecture: Architecture,
    weights: graph.Weights,
    calibration: list[tuple[list[int], Sample]],
    narrow: frozenset[str],
) -> ov.Model:
    samples = [sample for _, sample in calibration]
    start = graph.front(architecture)
    embedding = graph.embedding(architecture, weights)
    _compress_to_bytes(plan, embedding.model("embedding"))
    _release(plan, weights)
    hidden, pieces = embedding.outputs["hidden"], []
    for index in range(architecture.layers):
        piece = graph.layer(architecture, index, weights)
        samples = _compress_layer(plan, piece.model(f"layer.{index}"), samples, narrow)
        _release(plan, weights)
        graph.connect(piece, {**start.outputs, "hidden": hidden})
        hidden = piece.outputs["hidden"]
        pieces.append(piece)
        say(f"layer {index + 1} of {architecture.layers}")
    norm = graph.final_norm(architecture, weights)
    graph.connect(norm, {"hidden": hidden})
    head = embedding
    if not architecture.tied:
        head = graph.untied_head(architecture, weights)
        _compress_to_bytes(plan, head.model("head"))
        graph.connect(head, norm.outputs)
    graph.connect(embedding, start.outputs | norm.outputs)
    return graph.join(pieces, start, head.outputs["logits"])


def _release(plan: Plan, weights: graph.Weights) -> None:
    if plan.mode != "none":
        weights.release()


def _compress_to_bytes(plan: Plan, model: ov.Model) -> None:
    """Embeddings and the head keep eight bits in every mode: four cost accuracy and save little."""
    if plan.mode != "none":
        nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


def _compress_layer(plan: Plan, model: ov.Model, samples: list[Sample], narrow: frozenset[str]) -> list[Sample]:
    """Compress `model` in place; the samples as the next layer sees them."""
    if plan.mode == "none":
        return samples
    following = _forward(model, samples)
    if plan.mode == "int4_sym":
        matrices = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
        wide = sorted(name for name in matrices if name not in narrow)
        if len(wide) < len(matrices):
            _compress_to_four_bits(plan, model, samples, wide)
    if plan.mode == "int8_asym" or wide:
        nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    return following


def _compress_to_four_bits(plan: Plan, model: ov.Model, samples: list[Sample], wide: list[str]) -> None:
    nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        group_size=plan.group_size,
        ratio=1.0,
        all_layers=True,  # otherwise NNCF takes a layer's last matrix for the model's head and gives it eight bits
        ignored_scope=nncf.IgnoredScope(names=wide) if wide else None,
        awq=plan.awq or None,
        scale_estimation=plan.scale_estimation or None,
        gptq=plan.gptq or None,
        dataset=nncf.Dataset(samples) if samples else None,
        subset_size=plan.samples,
        advanced_parameters=AdvancedCompressionParameters(
            awq_params=AdvancedAWQParameters(subset_size=plan.samples),
        ),
    )


def _forward(model: ov.Model, samples: list[Sample]) -> list[Sample]:
    """What the layer gives for each sample, before it is compressed."""
    if not samples:
        return []
    request = ov.Core().compile_model(model, "CPU", EXACT).create_infer_request()
    following = []
    for sample in samples:
        request.reset_state()
        hidden = np.array(request.infer(sample)[0])
        following.append(sample | {"hidden": hidden})
    return following


def _narrow(plan: Plan, architecture: Architecture, tensors: dict[str, Tensor]) -> frozenset[str]:
    """The matrices that get four bits: as many weights as `ratio` allows, those first that lose least by it."""
    if plan.mode != "int4_sym":
        return frozenset()
    shapes = architecture.linears()
    names = [f"model.layers.{index}.{name}" for index in range(architecture.layers) for name in shapes]
    if plan.ratio == 1:
        return frozenset(names)
    sizes = {name: int(np.prod(tensors[f"{name}.weight"].shape)) for name in names}
    losses = {name: _loss(tensors[f"{name}.weight"].float32(), plan.group_size) for name in names}
    allowed = plan.ratio * sum(sizes.values())
    chosen: set[str] = set()
    for name in sorted(names, key=lambda name: (losses[name], name)):
        if sizes[name] <= allowed:
            allowed -= sizes[name]
            chosen.add(name)
    return frozenset(chosen)


def _loss(matrix: Array, group_size: int) -> float:
    """Share of the matrix's energy that rounding to four bits takes away."""
    groups = matrix.reshape(-1, group_size)
    scale = np.maximum(np.abs(groups).max(axis=1, keepdims=True) / 7, 1e-30)
    error = groups - np.round(groups / scale) * scale
    return float(np.square(error, dtype=np.float64).sum() / max(np.square(groups, dtype=np.float64).sum(), 1e-30))


def _compare(
    plan: Plan,
    architecture: Architecture,
    tensors: dict[str, Tensor],
    done: dict[str, Storage],
    narrow: frozenset[str],
) -> None:
    """Raise `Refused` unless every matrix of the saved graph is stored as planned."""
    wanted = {name.removesuffix(".weight") for name, shape in architecture.tensors().items() if len(shape) == 2}
    if set(done) != wanted:
        raise Refused(f"the graph holds other matrices than the checkpoint: {sorted(set(done) ^ wanted)[:4]}")
    for name, storage in done.items():
        tensor = tensors[f"{name}.weight"]
        rows, width = tensor.shape
        expected = Storage("uint8", (rows, width), width, symmetric=False)
        if name in narrow:
            expected = Storage("int4", (rows, width), plan.group_size, symmetric=True)
        elif plan.mode == "none":
            expected = Storage(tensor.dtype.lower(), (rows, width), width, symmetric=True)
        if storage != expected:
            raise Refused(f"{name} was to be stored as {expected}, but the graph holds {storage}")


def _losses(plan: Plan, tensors: dict[str, Tensor], held: Graph) -> tuple[dict[str, float], int]:
    """The largest rounding loss of any matrix of each storage type, and in how many layers AWQ moved scale.

    A loss is the norm of the change relative to the matrix's. What AWQ moves from the inputs of down_proj into the
    rows of up_proj is no loss. Raises `Refused` where a matrix is not the original one at all.
    """
    worst: dict[str, float] = {}
    scaled = 0
    for name in held.matrices():
        found, original, kind = held.value(name), tensors[f"{name}.weight"], held.storage(name).kind
        moved = _moved_scale(name, found, original) if plan.awq else None
        scaled += moved is not None and name.endswith("up_proj") and bool(np.abs(moved - 1).max() > 0.05)
        loss = _change(found, original, moved)
        if loss > _LARGEST_LOSS[kind]:
            raise Refused(f"{name} lost {loss:.2f} of itself when it was stored as {kind}")
        worst[kind] = max(loss, worst.get(kind, 0.0))
    return worst, scaled


def _moved_scale(name: str, found: Array, original: Tensor) -> Array | None:
    """By how much AWQ multiplied the rows of up_proj or the columns of down_proj; None for other matrices."""
    if not name.endswith(("up_proj", "down_proj")):
        return None
    axis = 1 if name.endswith("up_proj") else 0
    values = original.float32()
    square = np.maximum(np.square(values).sum(axis=axis, keepdims=True), 1e-30)
    scale: Array = (found * values).sum(axis=axis, keepdims=True) / square
    return scale


def _change(found: Array, original: Tensor, scale: Array | None) -> float:
    """A few rows at a time: the embeddings are large."""
    bits, changed, whole = original.bits(), 0.0, 0.0
    for begin in range(0, len(found), _ROWS):
        rows = slice(begin, begin + _ROWS)
        expected = as_float32(bits[rows], original.dtype)
        if scale is not None:
            expected = expected * (scale[rows] if len(scale) > 1 else scale)
        changed += float(np.square(found[rows] - expected, dtype=np.float64).sum())
        whole += float(np.square(expected, dtype=np.float64).sum())
    return float(np.sqrt(changed / whole)) if whole else 0.0


def _report(
    stage: StageFile,
    done: dict[str, Storage],
    samples: list[tuple[list[int], Sample]],
    losses: dict[str, float],
    scaled: int,
) -> dict[str, Any]:
    sizes = {name: storage.shape[0] * storage.shape[1] for name, storage in done.items()}
    kinds = sorted({storage.kind for storage in done.values()})
    return {
        "asked": stage.parameters,
        "calibration": {"samples": len(samples), "tokens": sum(len(ids) for ids, _ in samples)},
        "done": {
            "awq_layers": scaled,
            "largest_loss_by_type": {kind: f"{loss:.3f}" for kind, loss in sorted(losses.items())},
            "weights_by_type": {kind: sum(sizes[n] for n, s in done.items() if s.kind == kind) for kind in kinds},
            "matrices": {
                name: {"type": storage.kind, "shape": list(storage.shape), "group_size": storage.group_size}
                for name, storage in done.items()
            },
        },
        "tools": {name: version(name) for name in ("nncf", "numpy", "openvino", "tokenizers")},
    }


if __name__ == "__main__":
    nncf.set_log_level(40)  # errors; the progress of each layer is said here
    run(build)
