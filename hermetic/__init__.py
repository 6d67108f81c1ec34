"""Reproducible, Nix-style builds of LLM engines.

A recipe imports what it needs from here. The names are loaded on first use, because a command that finds everything
in place must not pay for pydantic.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` itself takes 7 ms to import, a third of a command that finds everything in place
if TYPE_CHECKING:
    from hermetic.recipe import (
        TOKENIZER,
        Environment,
        FixedOutput,
        Gpu,
        Harvest,
        Host,
        Image,
        KnownSizes,
        LogLine,
        PythonEnv,
        Script,
        Source,
        Stage,
        Validator,
        hub_dataset,
        hub_snapshot,
        param,
        remote,
    )

__all__ = [
    "TOKENIZER",
    "Environment",
    "FixedOutput",
    "Gpu",
    "Harvest",
    "Host",
    "Image",
    "KnownSizes",
    "LogLine",
    "PythonEnv",
    "Script",
    "Source",
    "Stage",
    "Validator",
    "__version__",
    "hub_dataset",
    "hub_snapshot",
    "param",
    "remote",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in __all__:
        import hermetic.recipe  # noqa: PLC0415  # see the module docstring

        return getattr(hermetic.recipe, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
