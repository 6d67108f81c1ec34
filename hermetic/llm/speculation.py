"""How an engine that drafts tokens is told to draft them when it runs; what is built into it is in its options.

::

    engine = Engine(..., options={"speculative_decoding_mode": "lookahead_decoding", "max_draft_len": 83},
                    speculation=Lookahead(window=7, ngram=7, verification=7))

None of this changes an engine. ``hermetic run``, the smoke test and ``realise --check`` start it so.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

__all__ = ["NEEDED", "Eagle", "Lookahead", "Medusa", "draft_len"]

Positive = Annotated[int, Field(ge=1)]


def _tuples(value: object) -> object:
    """Trees are lists of lists wherever they are copied from."""
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


Branch = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Tree = Annotated[tuple[Branch, ...], BeforeValidator(_tuples)]


def draft_len(window: int, ngram: int, verification: int) -> int:
    """Tokens that one step of lookahead decoding may draft.

    Source: `max_draft_len` in NVIDIA/TensorRT-LLM, examples/lookahead/README.md at 7ed07f06.
    """
    return (0 if ngram == 1 else ngram - 2) + (window - 1 + verification) * (ngram - 1)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    #: What ``speculative_decoding_mode`` of the engine must be.
    mode: ClassVar[str]

    def told(self) -> dict[str, Any]:
        """As the programs that load the engine read it."""
        return {"mode": self.mode} | self.model_dump(mode="json", exclude_none=True)


class Lookahead(_Settings):
    """Lookahead decoding: the size of the window, of the n-grams, and of the set of n-grams that one step verifies.

    The engine's ``max_draft_len`` must be what follows from them (`draft_len`).
    """

    mode: ClassVar[str] = "lookahead_decoding"

    window: Annotated[int, Field(ge=2)]
    ngram: Annotated[int, Field(ge=2)]
    verification: Positive

    @property
    def draft_len(self) -> int:
        return draft_len(self.window, self.ngram, self.verification)


def _different(choices: Tree) -> Tree:
    for branch in choices:
        if choices.count(branch) > 1:
            raise ValueError(f"the branch {list(branch)} is there twice")
    return choices


class Medusa(_Settings):
    """Medusa: heads of the model itself draft a tree, of which one step verifies the branches `choices`.

    A branch is the rank of its token at every depth, as for ``--medusa_choices`` (NVIDIA/TensorRT-LLM,
    examples/medusa/README.md at 0f041b7b).
    """

    mode: ClassVar[str] = "medusa"

    choices: Annotated[Tree, Field(min_length=1)]

    _checked = field_validator("choices")(_different)


class Eagle(_Settings):
    """EAGLE: a small network drafts a tree, either that of `choices` (see `Medusa`), or one that grows as it goes
    (EAGLE-2), every node by at most `dynamic_top_k`.
    """

    mode: ClassVar[str] = "eagle"

    choices: Tree = ()
    dynamic_top_k: Positive | None = None

    _checked = field_validator("choices")(_different)

    @model_validator(mode="after")
    def _one_of_them(self) -> Eagle:
        if bool(self.choices) == (self.dynamic_top_k is not None):
            raise ValueError("give either choices or dynamic_top_k")
        return self


#: What an engine of each mode needs to be told; engines of the other modes need nothing.
NEEDED: Final[dict[str, type[_Settings]]] = {kind.mode: kind for kind in (Lookahead, Medusa, Eagle)}
