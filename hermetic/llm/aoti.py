"""The engine kind `aoti`: a decoder compiled by PyTorch's AOTInductor, for one GPU product or for a processor.

::

    gpu = Gpu("NVIDIA H200")                                    # None: for the processor
    env = toolchain("/opt/torch/.venv")                         # a Host: torch, a C++ compiler, its headers
    weights = Checkpoint(model=Source("my-model"), environment=env)
    tuned = Tune(model=weights, gpu=gpu, environment=env)       # measures kernels; the compiler's cache is its output
    engine = Engine(model=weights, tuned=tuned, gpu=gpu, environment=env)
    smoke = Smoke(model=weights, engine=engine, gpu=gpu, environment=env)

Qwen2, Qwen3 and Llama decoders, as for `hermetic.llm.openvino`. The compiled model has no KV cache: it reads the whole
text for each new token. It serves to build, check and compare, not to carry load.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, InstanceOf

from hermetic.errors import Domain, HermeticError
from hermetic.llm.openvino import Checkpoint
from hermetic.recipe import Host, Source, Stage

__all__ = ["Checkpoint", "Engine", "Smoke", "Tune", "toolchain"]

Input = InstanceOf[Stage] | InstanceOf[Source]
Positive = Annotated[int, Field(ge=1)]
Decimal = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$")]

_MODEL = (
    "stage_file.py",
    "safetensors_file.py",
    "architecture.py",
    "aoti_model.py",
    "aoti_compile.py",
    "aoti_settings.py",
)
_PACKAGES = (
    "_distutils_hack",
    "filelock",
    "fsspec",
    "functorch",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
    "numpy",
    "numpy.libs",
    "nvidia",
    "packaging",
    "setuptools",
    "sympy",
    "tokenizers",
    "torch",
    "torch.libs",
    "torchgen",
    "triton",
    "typing_extensions.py",
    "yaml",
)
_VERSIONS = re.compile(r"(torch|triton)-[0-9].*\.dist-info")
_SYSTEM = (
    "/bin",
    "/lib",
    "/lib64",
    "/usr/bin",
    "/usr/include",
    "/usr/lib",
    "/usr/libexec",
    "/usr/local/cuda/include",
)


def toolchain(venv: str | os.PathLike[str]) -> Host:
    """What torch's compiler needs of this machine: the torch of a virtual environment, its interpreter, g++, and the
    headers in ``/usr/local/cuda`` if they are there.

    A `Host`: keys made with it hold on machines with the same files. Only the packages that the stages import are
    listed, so what else is installed beside them changes nothing. Hashing it once reads several gigabytes.

    Raises `HermeticError` (recipe/no-virtual-environment).
    """
    root = os.path.abspath(venv)
    if not os.path.isfile(f"{root}/pyvenv.cfg"):
        hint = "python3 -m venv DIR; DIR/bin/pip install torch numpy tokenizers setuptools"
        raise HermeticError(Domain.RECIPE, "no-virtual-environment", f"{root} is no virtual environment", hint=hint)
    library = next(f"{root}/lib/{name}" for name in sorted(os.listdir(f"{root}/lib")) if name.startswith("python"))
    listed = [f"{library}/site-packages/{name}" for name in _PACKAGES]
    # How importlib.metadata knows versions.
    names = sorted(os.listdir(f"{library}/site-packages"))
    listed += [f"{library}/site-packages/{name}" for name in names if _VERSIONS.fullmatch(name)]
    base = os.path.dirname(_home(f"{root}/pyvenv.cfg"))
    listed += [] if base == "/usr" else [base]
    found = [path for path in (*_SYSTEM, *listed, f"{root}/pyvenv.cfg") if os.path.exists(path)]
    return Host(paths=(*found, f"{root}/bin/python3"), python=f"{root}/bin/python3")


def _home(file: str) -> str:
    with open(file, encoding="utf-8") as stream:
        pairs = (line.partition("=") for line in stream)
        return next(value.strip() for name, _, value in pairs if name.strip() == "home")


class _Stage(Stage):
    #: The compiler makes code for the processor too, and looks at what it can.
    platform: ClassVar[tuple[str, ...]] = ("system", "cpu_isa")

    model: Input

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, without inputs that are not given; with what kind of device the engine is for."""
        given = {name: value for name, value in super().parameters_in_full().items() if value is not None}
        return given | {"device": "cuda" if self.gpu is not None else "cpu"}

    def parameters_in_key(self) -> dict[str, Any]:
        """The device is in the key's platform."""
        return {name: value for name, value in super().parameters_in_key().items() if name != "device"}


class _Compiled(_Stage):
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    longest: Positive = 1024
    tuning: Literal["default", "max"] = "default"
    cores: Positive = 4
    memory_mb: Positive = 8192


class Tune(_Compiled):
    """The compiler's cache after one compilation: which kernels were measured and chosen.

    With ``tuning="max"`` matrix products are measured too. Two runs may choose differently, so this stage promises no
    grade; its output is the input that makes `Engine` choose the same again.
    """

    kind: ClassVar[str] = "aoti.tune"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("aoti_tune.py", *_MODEL)
    grade: ClassVar[str] = "different"


class Engine(_Compiled):
    """``engine.pt2``, which AOTInductor loads, with tokenizer and settings, for texts of up to `longest` tokens.

    The engine must load and compute once, or the build fails.
    """

    kind: ClassVar[str] = "aoti.engine"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("aoti_engine.py", "aoti_run.py", *_MODEL)
    runner: ClassVar[tuple[str, ...]] = ("aoti_chat.py", "aoti_run.py", *_MODEL)
    #: On a processor two builds were equal; on a GPU the code of most kernels was not, and all logits were.
    grade: ClassVar[str] = "numeric"
    comparator: ClassVar[tuple[str, ...]] = ("aoti_grade.py", "aoti_run.py", *_MODEL)

    tuned: Input | None = None


class Smoke(_Stage):
    """A required check of `engine`; ``report.json`` has what was measured.

    Logits must lie within `tolerance` of those of the same model run eagerly on the same device, and of small models
    within `reference_tolerance` of a NumPy forward pass in float32, relative to the largest logit. Each of `prompts`
    must get the same answer twice, each of `golden` exactly the answer given there.
    """

    kind: ClassVar[str] = "aoti.smoke"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("aoti_smoke.py", "aoti_run.py", "reference_forward.py", *_MODEL)

    cores: Positive = 2
    memory_mb: Positive = 8192
    check: bool = True
    engine: Input
    prompts: tuple[str, ...] = ("What is the capital of France?",)
    golden: dict[str, str] = Field(default_factory=dict)
    max_new_tokens: Positive = 64
    positions: Positive = 64
    tolerance: Decimal = "0.02"
    reference_tolerance: Decimal = "0.05"
