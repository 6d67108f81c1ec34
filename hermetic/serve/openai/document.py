"""The proxy's own OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from hermetic import __version__
from hermetic.serve.openai.bodies import ChatBody, CompletionBody
from hermetic.serve.openai.settings import ProxySettings

__all__ = ["document"]

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_STATUSES = {
    "400": "A parameter is wrong, or cannot be honoured",
    "401": "No known API key",
    "404": "Not served here",
    "405": "Another method",
    "408": "The request did not come in time",
    "413": "The body is too long",
    "429": "Busy: try again after Retry-After seconds",
    "500": "A mistake of the server",
    "502": "The engine failed",
    "503": "The engine is not there",
    "504": "The answer took too long",
}


def document(settings: ProxySettings, models: Sequence[str]) -> dict[str, Any]:
    """OpenAPI 3.1, as plain data; `models` are those that are served."""
    bodies = [(ChatBody, "validation"), (CompletionBody, "validation")]
    _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    components: dict[str, Any] = {"schemas": {**schemas["$defs"], "Error": _ERROR, "Answer": {"type": "object"}}}
    named = {"type": "string", "enum": sorted(set(models))}
    for body, _ in bodies:
        components["schemas"][body.__name__]["properties"]["model"] = named
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "hermetic serve openai", "version": __version__},
        "paths": {
            "/v1/chat/completions": {"post": _asking("ChatBody")},
            "/v1/completions": {"post": _asking("CompletionBody")},
            "/v1/models": {"get": _getting("The models that are served", "401")},
            "/v1/models/{model}": {"get": _getting("One of them", "401", "404") | {"parameters": [_model(named)]}},
            "/health/live": {"get": _getting("The server runs")},
            "/health/ready": {"get": _ready()},
            "/metrics": {"get": _metrics()},
            "/version": {"get": _getting("What is served, and its hashes")},
        },
        "components": components,
    }
    if settings.keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, item in found["paths"].items():
            if path.startswith("/v1"):
                for operation in item.values():
                    operation["security"] = [{"key": []}]
    return found


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _asking(body: str) -> dict[str, Any]:
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    good = {"description": "The answer; a stream of events with stream: true", "content": _json("Answer") | stream}
    return {
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {"200": good, **_errors(*_STATUSES)},
    }


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: {"description": _STATUSES[status], "content": _json("Error")} for status in statuses}


def _getting(what: str, *errors: str) -> dict[str, Any]:
    return {"responses": {"200": {"description": what, "content": _json("Answer")}, **_errors(*errors)}}


def _model(named: dict[str, Any]) -> dict[str, Any]:
    return {"name": "model", "in": "path", "required": True, "schema": named}


def _ready() -> dict[str, Any]:
    reasons = {"description": "Not ready, with reasons", "content": _json("Answer")}
    return {"responses": {"200": {"description": "Ready", "content": _json("Answer")}, "503": reasons}}


def _metrics() -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {"responses": {"200": {"description": "Prometheus' text format", "content": content}}}
