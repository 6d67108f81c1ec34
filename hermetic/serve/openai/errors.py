"""OpenAI's error object, and what becomes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["ApiError", "invalid", "unsupported"]


class ApiError(Exception):
    """A refusal or failure as clients of OpenAI's API know it: ``{"error": {message, type, param, code}}``."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    def encoded(self) -> bytes:
        return json.dumps(self.body()).encode()


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A value that cannot be."""
    return ApiError(400, code, message, param=param)


def unsupported(param: str, message: str) -> ApiError:
    """A parameter that this deployment cannot honour, and so does not ignore."""
    return ApiError(400, "unsupported_parameter", message, param=param)
