"""What a config says about the folder that it lies in."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator

from hermetic.llm.findings import Finding
from hermetic.llm.truss.load import Truss
from hermetic.llm.truss.rules import error, rule

__all__: list[str] = []


@rule("external_package_dirs")
def packages(truss: Truss) -> Iterator[Finding]:
    for index, name in enumerate(truss.config.external_package_dirs):
        if not os.path.exists(os.path.join(truss.folder, name)):
            yield error(truss, "folder-missing", f"external_package_dirs.{index}", f"there is no {name}")


@rule("model_module_dir", "model_class_filename", "model_class_name")
def model_class(truss: Truss) -> Iterator[Finding]:
    """A model class of one's own gets the engine as the argument `trt_llm`; without a file Truss brings a class."""
    config = truss.config
    name = os.path.join(config.model_module_dir, config.model_class_filename)
    if truss.section is None or not os.path.isfile(os.path.join(truss.folder, name)):
        return
    try:
        with open(os.path.join(truss.folder, name), encoding="utf-8") as stream:
            tree = ast.parse(stream.read())
    except (OSError, SyntaxError, ValueError) as problem:
        yield error(truss, "bad-model-file", "model_class_filename", f"{name} cannot be read: {problem}")
        return
    problem_found = _problem(tree, config.model_class_name)
    if problem_found:
        yield error(truss, "bad-model-class", "model_class_name", f"{name}: {problem_found}")


def _problem(tree: ast.Module, name: str) -> str:
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    makers = [
        node for kind in classes for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    if not classes:
        return f"it has no class {name}"
    if not makers:
        return f"{name} has no __init__, which must take trt_llm"
    if not all("trt_llm" in [argument.arg for argument in maker.args.args] for maker in makers):
        return f"{name}.__init__ must take trt_llm"
    return ""
