"""LoRA adapters: merged into their base, or checked and laid out for a server that applies them at run time.

::

    merged = merge_lora(base, Source("adapter"), "bfloat16")          # one checkpoint, for every engine kind
    tuned = adapters(base, {"fr": Source("fr"), "de": Source("de")})  # the base stays as it is
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, InstanceOf, field_validator

from hermetic.llm.quantise import Decimal, Input, Positive, models_environment
from hermetic.recipe import Environment, Source, Stage

__all__ = ["Adapters", "MergeLora", "adapters", "merge_lora"]

Dtype = Literal["bfloat16", "float16", "float32"]

_CHECKED: tuple[str, ...] = (
    "adapter_file.py", "architecture.py", "checkpoint.py", "safetensors_file.py", "stage_file.py",
)  # fmt: skip


class MergeLora(Stage):
    """`base` with the LoRA `adapter` merged into it by peft, stored in `dtype`: a checkpoint like any other.

    rsLoRA and DoRA are honoured; an adapter whose shapes, layers or targets are another base's is refused, and so is
    whatever else of peft would change the arithmetic. With `base_name` the adapter must say that it is for that one.

    Logits of seeded tokens must agree, relative to the largest logit: of the merged model in float32 within
    `tolerance` of base and adapter side by side, and of the written files within `stored_tolerance`, rounding to
    `dtype` included. ``merge.json`` says what was merged: every file of both with its SHA-256, target modules, rank,
    alpha, dtype, and what was measured.

    Memory: twice the model in float32.
    """

    kind: ClassVar[str] = "models.merge-lora"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("lora_merge.py", "disk_space.py", "torch_model.py", *_CHECKED)
    comparator: ClassVar[tuple[str, ...]] = ("checkpoint_grade.py", "safetensors_file.py", "stage_file.py")
    #: The product of the two small matrices is summed in an order that may differ between instruction sets.
    platform: ClassVar[tuple[str, ...]] = ("system", "cpu_isa")

    environment: InstanceOf[Environment] = Field(default_factory=models_environment)
    cores: Positive = 2
    memory_mb: Positive = 8192
    base: Input
    adapter: Input
    dtype: Dtype = "bfloat16"
    base_name: str = ""
    prompts: Positive = 2
    positions: Positive = 32
    tolerance: Decimal = "0.0001"
    stored_tolerance: Decimal = "0.05"


class Adapters(Stage):
    """`adapters` of one `base` by name, each checked against it, for a server that applies them at run time.

    ``<name>/`` is what vLLM, SGLang and TensorRT-LLM load as an adapter; ``adapters.json`` has the largest rank and the
    target modules of all. DoRA is refused: servers do not apply it.
    """

    kind: ClassVar[str] = "models.adapters"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("lora_adapters.py", *_CHECKED)
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=models_environment)
    base: Input
    adapters: dict[str, Input]

    @field_validator("adapters")
    @classmethod
    def _named(cls, given: dict[str, Any]) -> dict[str, Any]:
        # Truss's pattern for names of adapters, without the colon, which a folder for every system can't have.
        wrong = [name for name in given if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)]
        if wrong or not given:
            raise ValueError(
                f"names of adapters are letters, digits, '_', '.' and '-': {wrong[0]!r}" if wrong else "none"
            )
        return given


def merge_lora(base: Stage | Source, adapter: Stage | Source, dtype: Dtype = "bfloat16", **fields: Any) -> MergeLora:
    """See `MergeLora`."""
    return MergeLora(base=base, adapter=adapter, dtype=dtype, **fields)


def adapters(base: Stage | Source, adapters: Mapping[str, Stage | Source], **fields: Any) -> Adapters:
    """See `Adapters`."""
    return Adapters(base=base, adapters=dict(adapters), **fields)
