"""One engine that the proxy can ask: its tokenizer, its Triton, and what it promised."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hermetic.serve.openai.tokenizer import Text
from hermetic.serve.openai.upstream import Upstream
from hermetic.serve.triton_deployment import Deployment

__all__ = ["Engine"]


@dataclass(frozen=True)
class Engine:
    """`model` is what clients call it."""

    model: str
    text: Text
    upstream: Upstream
    deployment: Deployment
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def at(cls, model: str, tokenizer: str, address: str, deployment: Deployment) -> Engine:
        """With the tokenizer in the folder `tokenizer`, behind the Triton at `address`."""
        text = Text(tokenizer)
        return cls(model, text, Upstream(address, text.ends), deployment)

    @property
    def max_seq_len(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self.deployment.limits["max_seq_len"]

    @property
    def fingerprint(self) -> str:
        """``system_fingerprint``: the beginning of the engine's hash."""
        return f"fp_{self.deployment.engine_hash.rpartition(':')[2][:16]}"

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of who made it."""
        return {"X-Engine-Hash": self.deployment.engine_hash, "X-Quantisation": self.deployment.quantisation}
