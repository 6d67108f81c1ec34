"""The engine kind `tensorrt-llm-pytorch`: TensorRT-LLM loads a Hugging Face checkpoint itself, nothing is compiled.

::

    model = PyTorchModel(checkpoint=quantised, release="1.2.1", tp=2,
                         options={"max_batch_size": 64, "kv_cache_config": {"free_gpu_memory_fraction": "0.85"}})

What a server needs is one artefact: the checkpoint, ``model.yaml`` with the arguments of ``tensorrt_llm.LLM``, and the
autotuner's cache, if there is one.
"""

from __future__ import annotations

import difflib
import functools
import os
import tomllib
from typing import Any, ClassVar

from pydantic import Field, InstanceOf, model_validator
from pydantic_core import PydanticCustomError

from hermetic.llm import memory
from hermetic.llm.environments import files_environment
from hermetic.llm.findings import Finding, errors_of
from hermetic.llm.origins import origins
from hermetic.llm.quantise import Input, Positive
from hermetic.recipe import Environment, Gpu, Image, Stage

__all__ = ["Manifest", "PyTorchModel"]

_DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "support", "llm-args.toml")
_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool, "dict": dict}


class PyTorchModel(Stage):
    """``checkpoint/``, ``model.yaml`` and, with `autotuner_cache`, ``autotuner.json``: what Triton's LLM API backend,
    ``trtllm-serve`` and ``tensorrt_llm.LLM`` load.

    The checkpoint is checked: every shard whole, the tokenizer there, and the quantisation, if any, one that the
    backend reads (ModelOpt's ``hf_quant_config.json`` and ``config.json`` agreeing). With `quantisation`, such as
    ``W4A8_AWQ``, it must be that one. `options` are checked against the arguments that are known of the releases;
    one that is not is refused unless `unchecked` names it. Decimals are strings.

    `autotuner_cache` is a JSON file that TensorRT-LLM left where ``TLLM_AUTOTUNER_CACHE_PATH`` pointed: kernels as
    measured on one GPU, and only for that kind of GPU.

    `runtime` is the image of that release and `runtime_gpu` the GPUs that ``hermetic run`` and the smoke test start
    it with; neither changes the result. What does not fit into their memory is refused.
    """

    kind: ClassVar[str] = "tensorrt-llm-pytorch.model"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("pytorch_model.py", "model_yaml.py", "safetensors_file.py", "stage_file.py")
    runner: ClassVar[tuple[str, ...]] = (
        "trtllm_chat.py",
        "trtllm_session.py",
        "trtllm_speculation.py",
        "model_yaml.py",
        "stage_file.py",
    )
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=files_environment)
    runtime: InstanceOf[Environment] | None = None
    runtime_gpu: InstanceOf[Gpu] | None = None
    checkpoint: Input
    autotuner_cache: Input | None = None
    release: str
    tp: Positive = 1
    pp: Positive = 1
    quantisation: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    unchecked: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> PyTorchModel:
        known = arguments()
        for name, value in self.options.items():
            if name in known["ours"]:
                raise _unfit(f"{name} can't be set: {known['ours'][name]}")
            kind = known["types"].get(name)
            if kind is None and name not in self.unchecked:
                close = difflib.get_close_matches(name, known["types"], n=1)
                hint = f"; did you mean {close[0]}?" if close else "; list it in unchecked if the release has it"
                raise _unfit(f"{name} is no argument of tensorrt_llm.LLM that is known{hint}")
            if kind is not None and type(value) is not _TYPES[kind]:
                raise _unfit(f"{name} is {value!r}, and should be of type {kind}")
        if not self.release.startswith("1."):
            raise _unfit(f"release {self.release!r}: the arguments are known of the releases from 1.0 on")
        for finding in errors_of(memory.findings(self)):
            raise finding.unfit()
        return self

    def findings(self) -> list[Finding]:
        """What ``hermetic lint`` has to say beyond the errors that a recipe cannot have."""
        return [*memory.findings(self)]

    def expected_bytes(self) -> int | None:
        """The weights, which are nearly all of it."""
        return memory.weights_of(self)

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, without the input that is not given."""
        found = {name: value for name, value in super().parameters_in_full().items() if _is_parameter(name, value)}
        return found | {"decimals": arguments()["decimals"]}

    def parameters_in_key(self) -> dict[str, Any]:
        return {name: value for name, value in super().parameters_in_key().items() if value is not None}

    @property
    def run_environment(self) -> Environment:
        """The image that serves it, if the recipe names one."""
        return self.runtime if self.runtime is not None else self.environment

    @property
    def run_gpu(self) -> Gpu | None:
        return self.runtime_gpu


class Manifest(Stage):
    """``manifest.json`` of a `PyTorchModel`, in the form that an engine's has: every file with its SHA-256 and BLAKE3,
    the arguments, the quantisation, the tokenizer, the commits and container digests that it came from and runs in.

    `calibration` and `checkpoint`, where given, are listed file by file. With `smoke`, a `hermetic.llm.smoke.Smoke`,
    there is no manifest of a model that has failed, and its report is in it.
    """

    kind: ClassVar[str] = "tensorrt-llm-pytorch.manifest"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "trtllm_pytorch_manifest.py",
        "build_options.py",
        "file_digests.py",
        "model_yaml.py",
        "stage_file.py",
    )
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=files_environment)
    engine: InstanceOf[PyTorchModel]
    checkpoint: Input | None = None
    calibration: Input | None = None
    smoke: Input | None = None

    def parameters_in_full(self) -> dict[str, Any]:
        """What the recipe knows and no file says."""
        model, came_from = self.engine, origins(self.engine)
        gpu, runtime = model.runtime_gpu, model.runtime
        serving = {runtime.digest} if isinstance(runtime, Image) else set()
        return {
            "gpu": gpu.identity() if gpu is not None and gpu.declared else {},
            "release": model.release,
            "ranks": model.tp * model.pp,
            "requested": dict(model.options),
            "containers": sorted({*came_from.containers, *serving}),
            "snapshots": came_from.snapshots,
        }

    def parameters_in_key(self) -> dict[str, Any]:
        """All of them: none has a default."""
        return self.parameters_in_full()


def _is_parameter(name: str, value: object) -> bool:
    return value is not None and name not in ("runtime", "runtime_gpu")


@functools.cache
def arguments() -> dict[str, Any]:
    """``support/llm-args.toml``."""
    with open(_DATA, "rb") as stream:
        return tomllib.load(stream)


def _unfit(message: str) -> PydanticCustomError:
    return PydanticCustomError("unfit", "{reason}", {"reason": message})
