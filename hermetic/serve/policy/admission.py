"""One request against a policy: refused, or passed on with the defaults of its operation. No effects.

A request says what it is with headers that OpenAI's clients can send (``extra_headers``): `X-Operation`, `X-Template`
(``id`` or ``id@version``) and `X-Schema-Id` (``name_version`` of the registry).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hermetic.llm.policy import Operation, Policy
from hermetic.serve.openai.hooks import Facts, Passed, Refusal
from hermetic.serve.policy.decisions import Breach, Identity, RequestFacts, before, check_headers, defaults_of
from hermetic.serve.policy.schemas import SchemaRegistry

__all__ = ["UNREGISTERED", "Admitted", "admit"]

#: The schema id of a guided request whose schema is in no registry.
UNREGISTERED: Final = "unregistered"
_TEMPLATE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}(@[A-Za-z0-9._-]{1,32})?")


@dataclass(frozen=True)
class Admitted:
    """What is remembered of a request until it ends; `breaches` are those that it was refused for."""

    operation: str = ""
    template: str = ""
    schema_id: str = ""
    breaches: tuple[Breach, ...] = ()


def admit(
    policy: Policy, registry: SchemaRegistry, identity: Identity, facts: Facts, headers: Mapping[str, str]
) -> tuple[Refusal | Passed, Admitted]:
    """`headers` are by lower-case name; `identity` is what they must name."""
    operation, template = headers.get("x-operation", ""), headers.get("x-template", "")
    named = Admitted(operation)
    if refusal := check_headers(policy, identity, headers):
        return refusal, Admitted()
    defaults = defaults_of(policy, operation)
    if isinstance(defaults, Refusal):
        return defaults, Admitted()
    if template and _TEMPLATE.fullmatch(template) is None:
        return Refusal(400, "bad_template", "X-Template is an id, or id@version", "X-Template"), named
    schema = _schema(policy, registry, defaults, facts, headers)
    if isinstance(schema, Refusal):
        return schema, named
    schema_id, added = schema
    length = _length(policy, defaults, facts)
    refusal, breaches = before(policy, RequestFacts(facts.prompt_tokens, length, facts.choices, template))
    admitted = Admitted(operation, template, schema_id, breaches)
    limited = {} if _chosen(facts) else {"max_tokens": length}
    shown = {"X-Schema-Id": schema_id} if schema_id else {}
    return refusal or Passed({**_given(defaults), **added, **limited}, shown), admitted


def _length(policy: Policy, defaults: Operation, facts: Facts) -> int:
    """The longest answer: what the client asks for, else the operation's, and then no more than the limit leaves."""
    if _chosen(facts):
        return facts.max_tokens
    length = min(facts.max_tokens, defaults.max_tokens or facts.max_tokens)
    limit = policy.thresholds.max_tokens
    if limit is not None and limit.action == "reject":
        length = min(length, max(1, int(limit.limit) - facts.prompt_tokens))
    return length


def _chosen(facts: Facts) -> bool:
    return any(facts.body.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))


def _given(defaults: Operation) -> dict[str, Any]:
    found = {"temperature": defaults.temperature, "top_p": defaults.top_p}
    return {name: float(value) for name, value in found.items() if value is not None}


def _schema(
    policy: Policy, registry: SchemaRegistry, defaults: Operation, facts: Facts, headers: Mapping[str, str]
) -> Refusal | tuple[str, dict[str, Any]]:
    """The schema's id, "" for a request without one, and what the request gets to be guided by it."""
    wanted = headers.get("x-schema-id", "")
    if wanted:
        return _registered(registry, wanted, facts)
    if facts.schema is None:
        if defaults.guided:
            message = "this operation answers by a schema: give response_format with one, or X-Schema-Id"
            return Refusal(400, "schema_required", message, "response_format")
        return "", {}
    found = registry.of(facts.schema)
    if found is None and policy.schemas is not None and policy.schemas.required:
        known = ", ".join(registry.ids) or "none"
        message = f"the schema is not registered; there are {known}"
        return Refusal(400, "schema_not_registered", message, "response_format")
    return (found.schema_id if found is not None else UNREGISTERED), {}


def _registered(registry: SchemaRegistry, wanted: str, facts: Facts) -> Refusal | tuple[str, dict[str, Any]]:
    found = registry.get(wanted)
    if found is None:
        message = f"there is no schema {wanted!r}; there are {', '.join(registry.ids) or 'none'}"
        return Refusal(400, "unknown_schema", message, "X-Schema-Id")
    if facts.schema is None and facts.body.get("response_format") is None:
        inner = {"name": re.sub(r"[^A-Za-z0-9_-]", "_", found.schema_id), "schema": found.schema}
        return found.schema_id, {"response_format": {"type": "json_schema", "json_schema": inner}}
    if facts.schema is None or registry.of(facts.schema) is not found:
        message = f"response_format is not the schema {wanted!r} of the registry"
        return Refusal(400, "schema_mismatch", message, "response_format")
    return found.schema_id, {}
