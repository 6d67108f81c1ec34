"""Which policy file a deployment has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hermetic.cli import settings

if TYPE_CHECKING:
    from hermetic.llm.policy import PolicyFile

__all__ = ["policy_of"]


def policy_of(name: str, given: str | None) -> PolicyFile | None:
    """The file that was given, else the one that the setting `policies` has for `name`.

    Raises `HermeticError` for a file that is none, as `read_policy` does.
    """
    setting = settings.find("policies")
    known = setting.value if setting is not None else {}
    file = given or (known.get(name) if isinstance(known, dict) else None)
    if not file:
        return None
    from hermetic.llm.policy_reading import read_policy

    return read_policy(os.path.expanduser(str(file)))
