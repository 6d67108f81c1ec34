"""Converting a Hugging Face checkpoint with the ``convert_checkpoint.py`` of TensorRT-LLM's image.

::

    image = Image("nvcr.io/nvidia/tensorrt-llm/release:1.2.1")
    checkpoint = convert(snapshot, environment=image, release="1.2.1", tp=2, dtype="bfloat16", weight_only="int8")

`quantise` with ``export="tensorrt_llm"`` gives a checkpoint of the same form without this step.
"""

from __future__ import annotations

import functools
import os
import tomllib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, InstanceOf, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hermetic.errors import HermeticError
from hermetic.llm import memory
from hermetic.llm.findings import errors_of
from hermetic.llm.quantise import Input, Positive
from hermetic.llm.trtllm import check_values, table
from hermetic.llm.trtllm.options import Value
from hermetic.recipe import Environment, Source, Stage, evaluation

__all__ = ["Convert", "convert"]

_DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "support", "conversion.toml")
_TOOL = "convert_checkpoint.py"
#: Options that the stage itself gives.
_OURS = frozenset({"model_dir", "output_dir", "tp_size", "pp_size", "dtype", "calib_dataset", "workers"})
#: Options that make the script look at samples.
_CALIBRATED = ("smoothquant", "int8_kv_cache")


class Convert(Stage):
    """`snapshot` as a TensorRT-LLM checkpoint of `tp` x `pp` ranks: ``config.json`` and ``rank<N>.safetensors``.

    `options` are the script's own, of `release`, without dashes. SmoothQuant and an INT8 cache look at samples, which
    `calibration` brings; the script would take an unpinned data set from the Hub otherwise. A snapshot that is
    quantised already is refused, with the route that takes it. What was written is read back: every rank, the mapping
    and the quantisation.
    """

    kind: ClassVar[str] = "tensorrt-llm.convert"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("trtllm_convert.py", "disk_space.py", "safetensors_file.py", "stage_file.py")

    environment: InstanceOf[Environment]
    cores: Positive = 4
    memory_mb: Positive = 65536
    snapshot: Input
    calibration: Input | None = None
    release: str
    family: str = ""
    tp: Positive = 1
    pp: Positive = 1
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    options: dict[str, str | int | bool] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _not_ours(cls, options: dict[str, Value]) -> dict[str, Value]:
        if taken := sorted(_OURS & options.keys()):
            raise _unfit(f"the stage itself gives {', '.join(taken)}")
        return options

    @model_validator(mode="after")
    def _fits(self) -> Convert:
        if self.family and self.family not in conversion()["families"]:
            raise _unfit(f"family {self.family!r} is not known; {', '.join(conversion()['families'])} are")
        try:
            known = table(_TOOL, self.release)
        except HermeticError as error:
            raise _unfit(f"{error.message}: {error.hint}") from error
        wrong = errors_of(check_values(dict(self.options), known).findings)
        if wrong:
            raise _unfit("; ".join(f"{one.message} ({one.hint})" if one.hint else one.message for one in wrong))
        calibrated = [name for name in _CALIBRATED if self.options.get(name)]
        if calibrated and self.calibration is None:
            raise _unfit(f"{calibrated[0]} looks at samples: give calibration=calibration(...)")
        if self.calibration is not None and not calibrated:
            raise _unfit(f"calibration is used by {' and '.join(_CALIBRATED)}, and neither is set")
        return self

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, without the input that is not given, and with what the program must know of families and routes."""
        found = {name: value for name, value in super().parameters_in_full().items() if value is not None}
        return found | {"families": conversion()["families"]}

    def parameters_in_key(self) -> dict[str, Any]:
        return {name: value for name, value in super().parameters_in_key().items() if value is not None}

    def expected_bytes(self) -> int | None:
        """The weights, as it stores them."""
        return memory.weights_of(self)


@functools.cache
def conversion() -> dict[str, Any]:
    """Families, quantisation types and routes: ``support/conversion.toml``."""
    with open(_DATA, "rb") as stream:
        return tomllib.load(stream)


def convert(
    snapshot: Stage | Source,
    *,
    environment: Environment,
    release: str,
    tp: int = 1,
    pp: int = 1,
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto",
    weight_only: Annotated[str, "'', int8 or int4"] = "",
    quantization_type: str = "",
    **fields: Any,
) -> Convert:
    """See `Convert`. `weight_only` stores the weights in 8 or 4 bits; `quantization_type` is Baseten's word for a set
    of options, such as ``weights_kv_int8``.

    Reports `HermeticError` (recipe/quantization-type) for a type that the scripts can't do, with what can.
    """
    options = dict(fields.pop("options", {}))
    if weight_only:
        options |= {"use_weight_only": True, "weight_only_precision": weight_only}
    if quantization_type:
        options |= _options_of(quantization_type)
    fields |= {"snapshot": snapshot, "environment": environment, "release": release}
    return Convert(tp=tp, pp=pp, dtype=dtype, options=options, **fields)


def _options_of(name: str) -> dict[str, Any]:
    known = conversion()
    if name in known["instead"]:
        message = f"convert_checkpoint.py has no option for quantization_type {name!r}"
        evaluation.fail("quantization-type", message, hint=f"use {known['instead'][name]}")
    elif name not in known["types"]:
        message = f"the quantization_type {name!r} is not known; {', '.join(known['types'])} are"
        evaluation.fail("quantization-type", message)
    return dict(known["types"].get(name, {}))


def _unfit(message: str) -> PydanticCustomError:
    return PydanticCustomError("unfit", "{reason}", {"reason": message})
