"""Taking out of what is logged, sent or shown whatever a policy's patterns match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hermetic.llm.policy import Redaction

__all__ = ["Redactor"]


class Redactor:
    """Of values that JSON has; texts in them, keys included, come back without what the patterns match."""

    def __init__(self, redaction: Redaction) -> None:
        self._patterns = [re.compile(pattern) for pattern in redaction.patterns]
        self._replacement = redaction.replacement

    def text(self, text: str) -> str:
        """`text` with the replacement, as it stands, for every match of a pattern."""
        for pattern in self._patterns:
            text = pattern.sub(lambda _: self._replacement, text)
        return text

    def value(self, value: Any) -> Any:
        """A copy of `value`, at any depth."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(one) for key, one in value.items()}
        if isinstance(value, Iterable):
            return [self.value(one) for one in value]
        return value
