"""A config as a recipe: its build plan as stages, as if somebody had written them in Python.

What a config cannot say are parameters: ``--set image=…`` is the builder's image, ``--set accept_licence=…`` accepts
the licence of the weights, ``--set gpu=…`` says which product the accelerator is where hermetic does not know, and
``--set driver=…`` which drivers the engine must run with.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal, cast

from hermetic.errors import Domain, HermeticError
from hermetic.llm.convert import convert
from hermetic.llm.findings import Severity, raise_errors
from hermetic.llm.lora import adapters
from hermetic.llm.pytorch import PyTorchModel, arguments
from hermetic.llm.quantise import calibration, quantise
from hermetic.llm.smoke import Smoke
from hermetic.llm.speculation import Lookahead
from hermetic.llm.support import Target
from hermetic.llm.tensorrt_llm import Engine, Manifest
from hermetic.llm.truss.hardware import PRODUCTS
from hermetic.llm.truss.lint import examined, missing
from hermetic.llm.truss.load import load
from hermetic.llm.truss.plan import Address, BuildPlan, plan_of
from hermetic.recipe import Gpu, Image, Source, Stage, evaluation, hub_dataset, hub_snapshot, param, remote
from hermetic.recipe.gpu import KNOWN_GPUS

__all__ = ["names"]

#: Other forms of weights that a repository may have beside its safetensors.
_OTHER_WEIGHTS = ("original/", "*.bin", "*.pth", "*.pt", "*.gguf", "*.onnx", "*.h5", "*.msgpack")
_NAMED = "--set gpu=NAME,GIB,SM with what hermetic doctor shows on such a machine"
_SM = re.compile(r"[0-9]+\.[0-9]")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")
_SEED = 1234  # what quantize.py of TensorRT-LLM shuffles with


def names(running: evaluation.Evaluation) -> dict[str, object]:
    """The stages of the config in `running.file`, by name.

    Raises `HermeticError` (recipe/…): whatever ``hermetic lint`` calls an error, nothing-to-build, not-yet-built.
    """
    shown = running.shown(running.file)
    truss = load(running.file, shown)
    raise_errors(examined(truss))
    plan = plan_of(truss)
    if plan is None:
        message = f"{shown}: there is no trt_llm section, so there is no engine to build"
        raise HermeticError(Domain.RECIPE, "nothing-to-build", message)
    raise_errors(replace(item, severity=Severity.ERROR) for item in missing(truss))
    before = len(running.errors)
    found = _stages(plan)
    for error in running.errors[before:]:
        error.message = f"{shown}: {error.message}" if not error.message.startswith(shown) else error.message
    return found


def _stages(plan: BuildPlan) -> dict[str, object]:
    image = Image(param("image", plan.image, help="the image of TensorRT-LLM that builds the engine"))
    licence = param("accept_licence", "", help="the licence of the weights, as the Hub calls it")
    assert plan.snapshot is not None
    found: dict[str, object] = {"snapshot": _weights(plan.snapshot, licence)}
    snapshot = cast("Source", found["snapshot"])
    if plan.samples is not None:
        found["dataset"] = hub_dataset(plan.samples.dataset, allow=plan.samples.files)
        found["samples"] = calibration(
            cast("Source", found["dataset"]),
            count=plan.samples.count,
            column=plan.samples.column,
            max_length=plan.samples.max_length,
            seed=_SEED,
            split="train",
        )
    if plan.adapters:
        found["adapters"] = adapters(snapshot, {name: _weights(item, licence) for name, item in plan.adapters.items()})
    samples = cast("Stage | None", found.get("samples"))
    return found | (_engine if plan.kind == "tensorrt-llm" else _model)(plan, image, snapshot, samples)


def _weights(address: Address, licence: str) -> Source:
    scheme, mark, rest = address.uri.partition("://")
    if scheme == "hf":
        repository, _, revision = rest.partition("@")
        return hub_snapshot(
            repository,
            revision=revision,
            ignore=_OTHER_WEIGHTS,
            accept_licence=licence,
            runtime_secret_name=address.secret,
        )
    return remote(address.uri, ignore=_OTHER_WEIGHTS) if mark else Source(address.uri)


def _gpu(plan: BuildPlan, *, count: int, needed: bool) -> Gpu | None:
    """What the engine is built on, which is in its key and so `needed`, or loaded on."""
    given = param("gpu", "", help="NAME or NAME,GIB,SM of the GPU to build on; none: the image is a stand-in")
    more: dict[str, Any] = {"count": count, "at_least_driver": _driver()}
    name, *facts = (part.strip() for part in given.split(","))
    if name == "none" or (not (name or plan.accelerator) and not needed):
        return None
    if facts:
        return _described(given, name, facts, more)
    product = name or PRODUCTS.get(plan.accelerator, plan.accelerator)
    if product in ("", *KNOWN_GPUS):
        return Gpu(product, **more)
    if name:
        evaluation.fail("gpu-unknown", f"--set gpu={name}: its memory and sm are not known here", hint=_NAMED)
    elif needed:
        message = f"resources.accelerator: what the driver calls a {plan.accelerator} is not known here"
        evaluation.fail("gpu-unknown", message, hint=_NAMED)
    return None


def _described(given: str, name: str, facts: list[str], more: dict[str, Any]) -> Gpu | None:
    if len(facts) != 2 or not facts[0].isdigit() or _SM.fullmatch(facts[1]) is None:
        evaluation.fail("gpu-unknown", f"--set gpu={given}: that is neither NAME nor NAME,GIB,SM", hint=_NAMED)
        return None
    return Gpu(name, memory_gib=int(facts[0]), sm=facts[1], **more)


def _driver() -> str:
    given = param("driver", "", help="the oldest NVIDIA driver that the engine is for, such as 570.86")
    if not given or _VERSION.fullmatch(given):
        return given
    evaluation.fail("bad-driver", f"--set driver={given}: that is no version of a driver", hint="--set driver=570.86")
    return ""


def _engine(plan: BuildPlan, image: Image, snapshot: Source, samples: Stage | None) -> dict[str, object]:
    checkpoint = _checkpoint(plan, image, snapshot, samples)
    engine = Engine(
        environment=image,
        gpu=_gpu(plan, count=plan.gpus, needed=True),
        release=plan.release,
        checkpoint=checkpoint,
        tokenizer=snapshot,
        quantisation=plan.algorithm,
        options=plan.engine,
        speculation=Lookahead(**plan.lookahead) if plan.lookahead else None,
    )
    more: dict[str, Any] = {"calibration": samples} if samples is not None else {}
    found: dict[str, object] = {"checkpoint": checkpoint, "engine": engine, "default": engine}
    if plan.lookahead or "speculative_decoding_mode" not in engine.options:  # it has to be told how it drafts
        found["smoke"] = more["smoke"] = Smoke(environment=image, engine=engine)
    return found | {"manifest": Manifest(engine=engine, checkpoint=checkpoint, **more)}


def _checkpoint(plan: BuildPlan, image: Image, snapshot: Source, samples: Stage | None) -> Stage:
    if plan.format:
        assert samples is not None
        return _quantised(plan, snapshot, samples, "tensorrt_llm", tp=plan.tp, pp=plan.pp)
    more: dict[str, Any] = {"calibration": samples} if samples is not None else {}
    return convert(
        snapshot,
        environment=image,
        release=plan.release,
        tp=plan.tp,
        pp=plan.pp,
        quantization_type=plan.quantisation,
        options=plan.convert,
        **more,
    )


def _quantised(
    plan: BuildPlan, snapshot: Source, samples: Stage, export: Literal["hf", "tensorrt_llm"], **ranks: int
) -> Stage:
    paged = plan.engine.get("use_paged_context_fmha", "enable") == "enable"
    return quantise(
        snapshot,
        cast("Any", plan.format),
        calibration=samples,
        kv_cache=cast("Any", plan.cache),
        export=export,
        target=Target(plan.kind, str(plan.sm or ""), paged),
        **ranks,
    )


def _model(plan: BuildPlan, image: Image, snapshot: Source, samples: Stage | None) -> dict[str, object]:
    """A checkpoint that TensorRT-LLM loads itself, and the arguments to load it with."""
    found: dict[str, object] = {}
    checkpoint: Source | Stage = snapshot
    if plan.format and samples is not None:
        checkpoint = found["checkpoint"] = _quantised(plan, snapshot, samples, "hf")
    options = {name: _decimals(name, value) for name, value in plan.engine.items()}
    model = PyTorchModel(
        checkpoint=checkpoint,
        runtime=image,
        runtime_gpu=_gpu(plan, count=plan.tp, needed=False),
        release=plan.release,
        tp=plan.tp,
        quantisation=plan.algorithm,
        options=options,
    )
    return {**found, "model": model, "default": model}


def _decimals(name: str, value: Any) -> Any:
    """Numbers with a fraction as text, where the stage writes that as a number again; it refuses others."""
    known = arguments()["decimals"].get(name, ())
    if not isinstance(value, dict):
        return value
    return {key: str(item) if key in known and isinstance(item, float) else item for key, item in value.items()}
