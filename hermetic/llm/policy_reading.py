"""From a policy file to a `Policy`: every mistake at once, each by its dotted path."""

from __future__ import annotations

import hashlib
import tomllib
from decimal import Decimal
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.llm.policy import Policy, PolicyFile
from hermetic.llm.truss.document import MOST_BYTES, Document, Path, dotted, read

__all__ = ["read_policy"]

_MESSAGES: Final = {"extra_forbidden": "there is no such field", "missing": "it must be set"}


def read_policy(file: str) -> PolicyFile:
    """The policy in `file`, a name that ends in .toml, .yaml or .yml.

    Raises `HermeticError`: usage/no-policy where it cannot be read, and `HermeticErrors` of recipe/policy-invalid,
    one for each mistake, whose data has the dotted path as `field`.
    """
    try:
        with open(file, "rb") as stream:
            text = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise HermeticError(Domain.USAGE, "no-policy", f"{file} cannot be read: {error.strerror}") from error
    document = _toml(file, text) if file.endswith(".toml") else read(file, text)
    problems = [(finding.line, finding.where, finding.message) for finding in document.findings]
    if not problems:
        try:
            return PolicyFile(file, hashlib.sha256(text).hexdigest(), Policy.model_validate(document.data or {}))
        except ValidationError as error:
            details = error.errors(include_url=False)
            problems = [_problem(document, detail) for detail in details]
    raise HermeticErrors(_error(file, *problem) for problem in problems)


def _toml(file: str, text: bytes) -> Document:
    document = Document(file)
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        document.data = tomllib.loads(text.decode("utf-8"), parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        document.report("toml-syntax", (), str(error))
    return document


def _problem(document: Document, detail: ErrorDetails) -> tuple[int, str, str]:
    path = _path(detail, document.data)
    message = _MESSAGES.get(detail["type"], detail["msg"][:1].lower() + detail["msg"][1:])
    return document.line(path), dotted(path), message


def _path(detail: ErrorDetails, data: Any) -> Path:
    """The path in the file: without the names that unions add to it, and with the field that a check of ours names."""
    found: list[str | int] = []
    for part in detail["loc"]:
        if isinstance(data, dict | list):
            if not isinstance(data, dict) or part in data or detail["type"] == "missing":
                found.append(part)
            data = _inside(data, part)
    ours = str(detail.get("ctx", {}).get("field", ""))
    return (*found, *(ours.split(".") if ours else ()))


def _inside(data: Any, part: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(part, data)
    return data[part] if isinstance(part, int) and part < len(data) else data


def _error(file: str, line: int, where: str, message: str) -> HermeticError:
    place = f"{file}:{line}" if line else file
    text = ": ".join(part for part in (place, where, message) if part)
    hint = "docs/policies.md has every field"
    return HermeticError(Domain.RECIPE, "policy-invalid", text, hint=hint, data={"field": where, "line": line})
