"""Prompt runtime manifests: what the templates of an application were made and evaluated for.

Reviewers go by them; a deployment is ready only if the manifest for its engine names the very engine,
tokenizer and thresholds that it serves with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, ValidationError

from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy import Policy
from hermetic.llm.truss.base import Count, Model, Text
from hermetic.serve.policy.decisions import Identity

__all__ = ["Mismatch", "PromptRuntimeManager", "RuntimeManifest", "read_manifests"]

#: The thresholds that a manifest repeats.
COMPARED = ("max_queue_delay_us", "max_tokens", "max_cost_usd")


class Metadata(Model):
    """`generated_at` and `provenance` are passed on as they are."""

    version: Text
    generated_at: str = ""
    provenance: dict[str, Any] = Field(default_factory=dict)


class Template(Model):
    """One prompt template. `token_budget` is of prompt and answer together."""

    id: Text
    version: Text
    schema_id: str | None = None
    max_tokens: Count
    token_budget: Count
    warmup: bool = False


class ManifestThresholds(Model):
    """As the policy has them; one that neither has is left out."""

    max_queue_delay_us: Decimal | None = None
    max_tokens: Decimal | None = None
    max_cost_usd: Decimal | None = None


class RuntimeManifest(Model):
    """What a file of the manifests' folder says."""

    engine_hash: Text
    tokenizer_hash: Text
    quantisation: str = ""
    thresholds: ManifestThresholds
    metadata: Metadata
    templates: Annotated[tuple[Template, ...], Field(min_length=1)]


class Mismatch(Model):
    """Where the manifest and what is served differ."""

    field: str
    manifest: str
    served: str

    def __str__(self) -> str:
        return f"{self.field} is {self.manifest or 'not given'} in the manifest and {self.served or 'not given'} here"


class PromptRuntimeManager:
    """One manifest against what is served."""

    def __init__(self, manifest: RuntimeManifest, policy: Policy, identity: Identity) -> None:
        self.manifest = manifest
        self._policy = policy
        self._identity = identity

    def mismatches(self) -> tuple[Mismatch, ...]:
        """Everything that differs: hashes, quantisation where the manifest has it, thresholds."""
        ours = self.manifest
        pairs = [
            ("engine_hash", ours.engine_hash, self._identity.engine_hash),
            ("tokenizer_hash", ours.tokenizer_hash, self._identity.tokenizer_hash),
            *([("quantisation", ours.quantisation, self._identity.quantisation)] if ours.quantisation else []),
        ]
        pairs += [(f"thresholds.{name}", *self._limits(name)) for name in COMPARED]
        return tuple(Mismatch(field=name, manifest=one, served=other) for name, one, other in pairs if one != other)

    def _limits(self, name: str) -> tuple[str, str]:
        served = self._policy.thresholds.given().get(name)
        return _number(getattr(self.manifest.thresholds, name)), _number(served.limit if served else None)

    def summary(self) -> dict[str, Any]:
        """What reviewers sign off on: metadata, templates, and whether hashes and thresholds are those served."""
        document = self.manifest.model_dump(mode="json")
        return {
            "metadata": document["metadata"],
            "templates": document["templates"],
            "engine_hash": self.manifest.engine_hash,
            "tokenizer_hash": self.manifest.tokenizer_hash,
            "thresholds": document["thresholds"],
            "aligned": not self.mismatches(),
            "mismatches": [one.model_dump() for one in self.mismatches()],
        }


def _number(value: Decimal | None) -> str:
    return "" if value is None else f"{value.normalize():f}"


def read_manifests(folder: str) -> tuple[RuntimeManifest, ...]:
    """Every ``*.json`` in `folder`, by name.

    Raises `HermeticError`: recipe/no-runtime-manifests, recipe/runtime-manifest-invalid with the field.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except OSError as error:
        message = f"the runtime manifests' folder {folder} cannot be read: {error.strerror}"
        raise HermeticError(Domain.RECIPE, "no-runtime-manifests", message) from error
    return tuple(_read(os.path.join(folder, name)) for name in names)


def for_engine(manifests: Iterable[RuntimeManifest], engine_hash: str) -> RuntimeManifest | None:
    """The manifest for an engine: the one that a roll-back restores with it. Without one, the last, to show it."""
    known = list(manifests)
    return next((one for one in known if one.engine_hash == engine_hash), known[-1] if known else None)


def _read(path: str) -> RuntimeManifest:
    try:
        with open(path, "rb") as stream:
            said: Mapping[str, Any] = json.load(stream, parse_float=Decimal)
        return RuntimeManifest.model_validate(said)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        problem = f"{where}: {detail['msg']}"
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    raise HermeticError(Domain.RECIPE, "runtime-manifest-invalid", f"{path}: {problem}")
