"""Imports as a recipe sees them: the standard library, hermetic, and modules beside the recipe."""

from __future__ import annotations

import builtins
import importlib
import os
import sys
import types
from typing import Any

from hermetic.errors import Domain, HermeticError
from hermetic.recipe import evaluation
from hermetic.recipe.purity import REFUSED_MODULES, guarded_builtins, refuse

__all__ = ["Importer", "execute"]


class Importer:
    """``__import__`` for one evaluation.

    Modules beside the recipe are compiled from source each time and live only in this evaluation: bytecode caches
    would hide which sources were read, and `sys.modules` would leak one recipe's helpers into the next.
    """

    def __init__(self, running: evaluation.Evaluation) -> None:
        self._running = running
        self._beside: dict[str, types.ModuleType] = {}

    def __call__(
        self,
        name: str,
        globals: dict[str, Any] | None = None,  # noqa: A002  # the protocol's own names
        locals: dict[str, Any] | None = None,  # noqa: A002
        fromlist: tuple[str, ...] = (),
        level: int = 0,
    ) -> types.ModuleType:
        if level:
            name = self._absolute(name, globals or {}, level)
        top = name.partition(".")[0]
        if level or self._find(top) is not None:
            return self._import_beside(name, fromlist, top)
        self._permit(top)
        with self._running.trusted():
            return builtins.__import__(name, globals, locals, fromlist, 0)

    def _permit(self, top: str) -> None:
        if top in REFUSED_MODULES:
            refuse(f"imports {top}, which reaches {REFUSED_MODULES[top]}")
        if top != "hermetic" and top not in sys.stdlib_module_names:
            place = evaluation.origin()
            raise HermeticError(
                Domain.RECIPE,
                "import-not-allowed",
                f"{place}: the recipe imports {top!r}",
                hint="a recipe may import the standard library, hermetic, and modules beside it",
            )

    def _absolute(self, name: str, names: dict[str, Any], level: int) -> str:
        package = str(names.get("__package__") or "")
        parts = package.split(".") if package else []
        base = parts[: len(parts) - level + 1]
        return ".".join([*base, name] if name else base)

    def _import_beside(self, name: str, fromlist: tuple[str, ...], top: str) -> types.ModuleType:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            self._load(".".join(parts[:end]))
        for attribute in fromlist or ():
            if attribute != "*" and not hasattr(self._beside[name], attribute) and self._find(f"{name}.{attribute}"):
                self._load(f"{name}.{attribute}")
        return self._beside[name if fromlist else top]

    def _find(self, name: str) -> str | None:
        base = os.path.join(self._running.directory, *name.split("."))
        with self._running.trusted():
            for candidate in (f"{base}.py", os.path.join(base, "__init__.py")):
                if self._running.memo.observe(candidate) is not None:
                    return candidate
        return None

    def _load(self, name: str) -> None:
        if name in self._beside:
            return
        path = self._find(name)
        if path is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = types.ModuleType(name)
        is_package = os.path.basename(path) == "__init__.py"
        module.__package__ = name if is_package else name.rpartition(".")[0]
        self._beside[name] = module
        execute(path, module, self, self._running)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(self._beside[parent], child, module)


def execute(path: str, module: types.ModuleType, importer: Importer, running: evaluation.Evaluation) -> None:
    """Compile the file at `path` and run it in `module` under the rules of a recipe."""
    with running.trusted():
        running.memo.observe(path)
        with open(path, "rb") as stream:
            text = stream.read()
    running.files.add(path)
    code = compile(text, path, "exec", dont_inherit=True)
    module.__file__ = path
    module.__dict__["__builtins__"] = guarded_builtins(importer)
    exec(code, module.__dict__)  # noqa: S102  # a recipe is a program


def preload() -> None:
    """Import what stages need before the rules apply: pydantic reads the environment while it is imported."""
    for name in ("hermetic.recipe.stage", "hermetic.recipe.environments", "pathlib", "dataclasses"):
        importlib.import_module(name)
