"""Names in a graph that do not depend on what else the process did.

OpenVINO numbers the operations it names with one counter for the process. Compiling a graph moves that counter by as
many operations as the processor's kernels make of it, so the same graph had other names on another instruction set.
"""

from __future__ import annotations

import re

import openvino as ov

_COUNTED = re.compile(r"[A-Z][A-Za-z0-9]*_\d+")


def settle_names(model: ov.Model) -> None:
    """Name what OpenVINO named after its place in the graph: type and number in topological order."""
    for number, operation in enumerate(model.get_ordered_ops()):
        if _COUNTED.fullmatch(operation.get_friendly_name()):
            operation.set_friendly_name(f"{operation.get_type_name()}.{number}")
