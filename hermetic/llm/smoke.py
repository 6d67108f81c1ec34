"""The smoke test of the engine kinds `tensorrt-llm` and `tensorrt-llm-pytorch`, in the image that they run in.

::

    smoke = Smoke(engine=engine, golden={"What is 2+2?": "4"}, golden_tolerance="0.1")
    manifest = Manifest(engine=engine, smoke=smoke)                   # not built unless the test passes
    repository = triton_repository(engine, manifest=manifest)         # nor is this
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, InstanceOf, model_validator
from pydantic_core import PydanticCustomError

from hermetic.llm import memory
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.support.releases import is_older
from hermetic.llm.tensorrt_llm import Engine
from hermetic.recipe import Environment, Stage

__all__ = ["SESSION", "Smoke"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[str, Field(pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$")]

#: What loads an engine of either kind and asks it.
SESSION: Final = ("trtllm_session.py", "model_yaml.py", "stage_file.py")
#: TensorRT-LLM has xgrammar since this release (release notes of 0.16).
_GUIDED_SINCE: Final = "0.16.0"
_SCHEMA: Final = (
    '{"type": "object", "properties": {"city": {"type": "string"}, "inhabitants": {"type": "integer"}},'
    ' "required": ["city", "inhabitants"], "additionalProperties": false}'
)
#: Engines that need settings of their own at run time, which the test does not give.
_SPECULATIVE: Final = frozenset({"lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"})


class Smoke(Stage):
    """A required check of `engine`, whose environment and GPU it runs in; ``report.json`` has what was found.

    A prompt of `prefill` tokens (or the longest that the engine takes) must give a token. Each of `prompts` must get
    the same sensible answer twice, in up to `max_new_tokens`, and none that goes round in circles unless
    `allow_repetition`. The tokens of each answer of `golden` may differ by a share of `golden_tolerance` of that
    answer: put in, left out or replaced. With `json_schema` the answer to `json_prompt` must be JSON that fits its
    outermost level, the same twice; "" leaves guided decoding out, as is the default where the engine has none.

    Of engines for speculative decoding only those for external draft tokens can be tested.
    """

    kind: ClassVar[str] = "tensorrt-llm.smoke"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("trtllm_smoke.py", "repetition.py", *SESSION)
    #: Sums of floating-point numbers are in an order that the GPU chooses, and an answer may turn on the last bit.
    grade: ClassVar[str] = "different"

    environment: InstanceOf[Environment]
    cores: Positive = 4
    memory_mb: Positive = 65536
    timeout: Annotated[int, Field(ge=0)] = 3600
    check: bool = True
    engine: InstanceOf[Engine] | InstanceOf[PyTorchModel]
    prompts: tuple[str, ...] = ("What is the capital of France?",)
    golden: dict[str, str] = Field(default_factory=dict)
    golden_tolerance: Share = "0"
    max_new_tokens: Positive = 64
    prefill: Positive = 512
    allow_repetition: bool = False
    json_schema: str = ""
    json_prompt: str = "Answer in JSON: which city is the capital of France, and how many inhabitants has it?"
    max_json_tokens: Positive = 128

    @model_validator(mode="before")
    @classmethod
    def _as_its_engine(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Environment and GPU are the engine's, and so is whether it has guided decoding."""
        engine = data.get("engine")
        if not isinstance(engine, Engine | PyTorchModel):
            return {"json_schema": "", **data}
        own: dict[str, Any] = {"environment": engine.run_environment, "json_schema": _SCHEMA if _guided(engine) else ""}
        if engine.run_gpu is not None:
            own["gpu"] = engine.run_gpu
        return own | data

    @model_validator(mode="after")
    def _fits(self) -> Smoke:
        mode = self.engine.options.get("speculative_decoding_mode")
        if mode in _SPECULATIVE:
            raise _unfit(f"an engine for {mode} needs settings at run time that this test does not give")
        if isinstance(self.engine, PyTorchModel) and self.engine.runtime is None:
            raise _unfit("the engine does not say which image it runs in: PyTorchModel(runtime=Image(...))")
        ranks, gpus = self._ranks(), self.gpu.count if self.gpu is not None else 0
        if gpus and gpus < ranks:
            raise _unfit(f"the engine has {ranks} ranks, and the test has {gpus} GPU: gpu=Gpu(..., count={ranks})")
        if self.json_schema and not _guided(self.engine):
            raise _unfit("this engine has no guided decoding: leave out json_schema")
        return self

    def _ranks(self) -> int:
        """As far as the recipe says it; whoever made the checkpoint decided."""
        if isinstance(self.engine, PyTorchModel):
            return self.engine.tp * self.engine.pp
        return memory.ranks(self.engine)


def _guided(engine: Engine | PyTorchModel) -> bool:
    if isinstance(engine, PyTorchModel):
        return bool(engine.options.get("guided_decoding_backend"))
    return not is_older(engine.release, _GUIDED_SINCE)


def _unfit(message: str) -> PydanticCustomError:
    return PydanticCustomError("unfit", "{reason}", {"reason": message})
