"""What an engine of TensorRT-LLM needs to run: its GPUs, and the release that made it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hermetic.errors import Domain, HermeticError
from hermetic.recipe import Gpu
from hermetic.serve.triton_deployment import Deployment

__all__ = ["Known", "Needs", "insist_on_release", "needs", "told"]


@dataclass(frozen=True)
class Known:
    """What is known of an engine besides its files: what its `manifest` says (a path, "" for none), and its recipe."""

    manifest: str = ""
    gpu: Gpu | None = None
    release: str = ""


@dataclass(frozen=True)
class Needs:
    """`gpu` counts a GPU for each rank; None is an engine that needs none. `release` is "" if any will do."""

    gpu: Gpu | None
    release: str


def needs(name: str, engine: str, deployment: Deployment, known: Known, declared: str) -> Needs:
    """Of the engine in the folder `engine`; `declared` is what the user says of its GPU, a product or "none".

    Raises `HermeticError`: environment/gpu-unknown if nothing says which GPU it was made for, usage/gpu-declared if
    that is said already, trust/manifest-invalid, trust/engine-invalid.
    """
    found = told(engine, deployment, known)
    if found.gpu is None:
        gpu = _declared(name, declared)
        return replace(found, gpu=gpu.model_copy(update={"count": deployment.world}) if gpu is not None else None)
    if declared and found.gpu.product != declared:
        message = f"the engine {name!r} was made for {found.gpu}, and --gpu says {declared}"
        raise HermeticError(Domain.USAGE, "gpu-declared", message)
    return found


def told(engine: str, deployment: Deployment, known: Known) -> Needs:
    """What the engine's files, its manifest and its recipe say; no GPU if none of them says one.

    Raises `HermeticError` (trust/manifest-invalid, trust/engine-invalid).
    """
    manifest = _read(known.manifest, "manifest-invalid") if known.manifest else {}
    gpu = _gpu(manifest, known)
    if gpu is not None:
        gpu = gpu.model_copy(update={"count": deployment.world})
    return Needs(gpu, _release(engine, deployment, manifest) or known.release)


def _gpu(manifest: Mapping[str, Any], known: Known) -> Gpu | None:
    """What the manifest says, else the recipe."""
    said = manifest.get("platform", {}).get("gpu")
    if isinstance(said, dict) and said:
        try:
            whole = "product" in said
            return Gpu(**said) if whole else Gpu(**said, portable="sm")
        except (ValueError, TypeError) as error:
            message = f"the manifest says of the GPU {said}, which cannot be"
            raise HermeticError(Domain.TRUST, "manifest-invalid", message) from error
    return known.gpu if known.gpu is not None and known.gpu.declared else None


def _declared(name: str, declared: str) -> Gpu | None:
    if not declared:
        message = f"nothing says which GPU the engine {name!r} was made for"
        hint = "give its manifest with --manifest, or say it: --gpu 'NVIDIA H100 80GB HBM3', or --gpu none"
        raise HermeticError(Domain.ENVIRONMENT, "gpu-unknown", message, hint=hint)
    return None if declared == "none" else Gpu(declared)


def _release(engine: str, deployment: Deployment, manifest: Mapping[str, Any]) -> str:
    """An engine runs in the release that serialised it; of a checkpoint for the LLM API the manifest says one, if any
    does.
    """
    if deployment.kind != "tensorrt-llm":
        return str(manifest.get("tools", {}).get("tensorrt_llm", ""))
    path = os.path.join(engine, "config.json")
    if not os.path.exists(path):  # of Whisper both halves are engines, of one release
        path = os.path.join(engine, "decoder", "config.json")
    return str(_read(path, "engine-invalid").get("version", "unknown"))


def _read(path: str, reason: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            found: object = json.load(stream)
    except (OSError, ValueError) as error:
        raise HermeticError(Domain.TRUST, reason, f"{path} cannot be used: {error}") from error
    return found if isinstance(found, dict) else {}


def insist_on_release(name: str, needed: str, there: str, where: str) -> None:
    """Raises `HermeticError` (environment/release-mismatch) unless `there`, TensorRT-LLM's version `where` Triton is,
    is the `needed` one. "" is a version that nobody knows, which will only do if none is needed.
    """
    if needed and needed != there:
        found = f"TensorRT-LLM {there}" if there else "no TensorRT-LLM whose version can be told"
        message = f"the engine {name!r} is of TensorRT-LLM {needed}, and {where} has {found}"
        hint = f"another image or Triton, with TensorRT-LLM {needed}"
        raise HermeticError(Domain.ENVIRONMENT, "release-mismatch", message, hint=hint)
