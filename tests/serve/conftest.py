"""Fixtures of `triton_kit` and `openai_kit`."""

from openai_kit import api
from triton_kit import tiny

__all__ = ["api", "tiny"]
