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
from hermetic.llm.speculation import NEEDED
from hermetic.llm.support.releases import is_older
from hermetic.llm.tensorrt_llm import SESSION, Engine
from hermetic.recipe import Environment, Stage

__all__ = ["Smoke"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[str, Field(pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$")]

#: TensorRT-LLM has xgrammar since this release (release notes of 0.16).
_GUIDED_SINCE: Final = "0.16.0"
_SCHEMA: Final = (
    '{"type": "object", "properties": {"city": {"type": "string"}, "inhabitants": {"type": "integer"}},'
    ' "required": ["city", "inhabitants"], "additionalProperties": false}'
)


class Smoke(Stage):
    """A required check of `engine`, whose environment and GPU it runs in; ``report.json`` has what was found.

    A prompt of `prefill` tokens (or the longest that the engine takes) must give a token. Each of `prompts` must get
    the same sensible answer twice, in up to `max_new_tokens`, and none that goes round in circles unless
    `allow_repetition`. The tokens of each answer of `golden` may differ by a share of `golden_tolerance` of that
    answer: put in, left out or replaced. With `json_schema` the answer to `json_prompt` must be JSON that fits its
    outermost level, the same twice; "" leaves guided decoding out, as is the default where the engine has none.

    An engine that drafts tokens is tested with its `speculation`. One for external draft tokens is tested without any,
    or with those of `draft`, another engine of the same tokenizer, `draft_tokens` in a step; both have one rank then.
    Where an engine can also be asked without drafts, each answer must be the same then, within `golden_tolerance`.
    How many drafted tokens were right is in the report as far as the release says it.
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
    draft: InstanceOf[Engine] | None = None
    draft_tokens: Positive = 4

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
        if mode in NEEDED and not self.engine.run_parameters():
            raise _unfit(f"an engine for {mode} is told how when it runs: speculation={NEEDED[mode].__name__}(...)")
        if self.draft is not None:
            self._drafted(mode)
        if isinstance(self.engine, PyTorchModel) and self.engine.runtime is None:
            raise _unfit("the engine does not say which image it runs in: PyTorchModel(runtime=Image(...))")
        ranks, gpus = self._ranks(), self.gpu.count if self.gpu is not None else 0
        if gpus and gpus < ranks:
            raise _unfit(f"the engine has {ranks} ranks, and the test has {gpus} GPU: gpu=Gpu(..., count={ranks})")
        if self.json_schema and not _guided(self.engine):
            raise _unfit("this engine has no guided decoding: leave out json_schema")
        return self

    def _drafted(self, mode: object) -> None:
        if mode != "draft_tokens_external":
            raise _unfit("drafts of another engine are for speculative_decoding_mode draft_tokens_external")
        longest = self.engine.options.get("max_draft_len", 0)
        if isinstance(longest, int) and longest < self.draft_tokens:
            raise _unfit(f"draft_tokens is {self.draft_tokens}, and the engine takes {longest}: max_draft_len")
        if self._ranks() > 1 or memory.ranks(self.draft) > 1:
            raise _unfit("drafts of another engine can be tested where both have one rank: leave out draft")

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, with how the engine is told to draft; without the engine that drafts, if there is none."""
        found = {name: value for name, value in super().parameters_in_full().items() if value is not None}
        return found | self.engine.run_parameters()

    def _ranks(self) -> int:
        """As far as the recipe says it; whoever made the checkpoint decided."""
        if isinstance(self.engine, PyTorchModel):
            return self.engine.tp * self.engine.pp
        return memory.ranks(self.engine)


def _guided(engine: Engine | PyTorchModel) -> bool:
    if isinstance(engine, PyTorchModel):
        return bool(engine.options.get("guided_decoding_backend"))
    # Whether grammars and drafts go together nobody has said of these releases.
    return engine.options.get("speculative_decoding_mode") is None and not is_older(engine.release, _GUIDED_SINCE)


def _unfit(message: str) -> PydanticCustomError:
    return PydanticCustomError("unfit", "{reason}", {"reason": message})
