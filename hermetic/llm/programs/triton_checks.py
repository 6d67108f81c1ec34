"""Whether the models of a repository fit together. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from triton_config import Model, Tensor


def problems(models: Iterable[Model]) -> Iterator[str]:
    """What Triton would refuse, or take silently and never fill: names, types and shapes across each ensemble."""
    known = {model.name: model for model in models}
    for model in known.values():
        for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
            names = [tensor.name for tensor in tensors]
            yield from (f"{model.name}: {kind} {name} is there twice" for name in sorted(_twice(names)))
        if model.steps:
            yield from _ensemble(model, known)


def _twice(names: list[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def _ensemble(model: Model, known: dict[str, Model]) -> Iterator[str]:
    flowing = {tensor.name: (model.name, tensor) for tensor in model.inputs}
    for step in model.steps:
        inner = known.get(step.model)
        if inner is None:
            yield f"{model.name}: there is no model {step.model}"
            continue
        takes, gives = ({tensor.name: tensor for tensor in side} for side in (inner.inputs, inner.outputs))
        for name, outer in step.inputs.items():
            yield from _link(step.model, takes.get(name), name, flowing.get(outer), outer)
        missing = [tensor.name for tensor in inner.inputs if not tensor.optional and tensor.name not in step.inputs]
        yield from (f"{step.model}: nothing feeds {name}" for name in missing)
        yield from (f"{step.model}: it has no output {name}" for name in step.outputs if name not in gives)
        flowing |= {outer: (step.model, gives[name]) for name, outer in step.outputs.items() if name in gives}
        if inner.max_batch_size < model.max_batch_size:
            yield f"{step.model}: batches of {inner.max_batch_size}, and {model.name} takes {model.max_batch_size}"
    for tensor in model.outputs:
        yield from _link(model.name, tensor, tensor.name, flowing.get(tensor.name), tensor.name)


def _link(model: str, wanted: Tensor | None, name: str, found: tuple[str, Tensor] | None, outer: str) -> Iterator[str]:
    if wanted is None:
        yield f"{model}: it has no input {name}"
    elif found is None:
        yield f"{model}: nothing gives {outer}, which {name} is fed from"
    elif wanted.type != found[1].type:
        yield f"{model}: {name} is {wanted.type}, and {outer} of {found[0]} is {found[1].type}"
    elif not _fits(wanted.dims, found[1].dims):
        yield f"{model}: {name} has shape {list(wanted.dims)}, and {outer} of {found[0]} {list(found[1].dims)}"


def _fits(wanted: tuple[int, ...], found: tuple[int, ...]) -> bool:
    same = len(wanted) == len(found)
    return same and all(-1 in pair or pair[0] == pair[1] for pair in zip(wanted, found, strict=True))
