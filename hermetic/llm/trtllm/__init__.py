"""TensorRT-LLM by version: which options its tools take, their defaults, and what a wrong one should have been."""

from hermetic.llm.trtllm.commandline import Parsed, check_values, parse
from hermetic.llm.trtllm.options import Option, Table, table

__all__ = ["Option", "Parsed", "Table", "check_values", "parse", "table"]
