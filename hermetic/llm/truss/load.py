"""From a file to a checked config: every mistake at once, each with its field and line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hermetic.errors import Domain, HermeticError
from hermetic.llm.findings import Finding, Severity
from hermetic.llm.truss.base import Model
from hermetic.llm.truss.config import Config
from hermetic.llm.truss.document import Document, Path, dotted, read
from hermetic.llm.truss.hints import hint_for
from hermetic.llm.truss.section import SectionV1, SectionV2

__all__ = ["Truss", "load"]

M = TypeVar("M", bound=Model)

#: Where Truss reads over unknown fields: it refuses none there, and nothing would be built from them.
LENIENT: Final = (("runtime", "transport"), ("bis_llm", "additional_autoscaling_config"))
_CODES: Final = {
    "extra_forbidden": "unknown-field",
    "missing": "missing-field",
    "enum": "bad-value",
    "literal_error": "bad-value",
    "string_pattern_mismatch": "bad-value",
    "string_too_short": "bad-value",
    "too_short": "bad-value",
    "invalid_key": "bad-key",
}
_RANGES: Final = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


@dataclass
class Truss:
    """A config as far as it could be read.

    `file` is how it is named to people, `path` where it is. `config` and `section` have defaults in the place of what
    is wrong, so that the checks can go on; `broken` are the paths where that was done. `section` is None without a
    `trt_llm`, or where its outline is not to be had.
    """

    file: str
    path: str
    document: Document
    config: Config = field(default_factory=Config)
    section: SectionV1 | SectionV2 | None = None
    broken: set[Path] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def finding(
        self, code: str, severity: Severity, where: str, message: str, hint: str = "", source: str = ""
    ) -> Finding:
        """One about the field `where`, with its line."""
        line = self.document.line(path_of(where))
        return Finding(code, severity, where, message, hint, source, self.file, line)

    def is_broken(self, where: str) -> bool:
        """Whether the value of `where` is not what the file says, because that was wrong."""
        path = path_of(where)
        return any(item[: len(path)] == path or path[: len(item)] == item for item in self.broken)

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)


def path_of(where: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in where.split(".")) if where else ()


def load(file: str, shown: str = "") -> Truss:
    """The config in `file`; `shown` is how findings name it. Raises `HermeticError` (usage/no-recipe) without one."""
    try:
        with open(file, "rb") as stream:
            text = stream.read()
    except OSError as error:
        message = f"{shown or file} cannot be read: {error.strerror}"
        raise HermeticError(Domain.USAGE, "no-recipe", message) from error
    document = read(shown or file, text)
    truss = Truss(shown or file, os.path.abspath(file), document, findings=document.findings)
    data = {} if document.data is None else document.data
    if document.data is None and document.findings:
        truss.broken.add(())
    elif isinstance(data, dict):
        _fill(truss, _prepared(truss, data))
    else:
        _report(truss, "not-a-mapping", (), "a config is a mapping of fields to values")
    return truss


def _prepared(truss: Truss, data: Mapping[Any, Any]) -> dict[Any, Any]:
    """`data` with old names as new ones, and without what a config may not say."""
    prepared = dict(data)
    if "hf_cache" in prepared and "model_cache" not in prepared:
        prepared["model_cache"] = prepared.pop("hf_cache") or []
    build = prepared.get("build")
    if isinstance(build, dict) and build.get("no_cache") is True:
        message = "whether a build may use a cache is no property of the model"
        _report(truss, "no-cache", ("build", "no_cache"), message, "truss push --no-cache")
    return prepared


def _fill(truss: Truss, data: dict[Any, Any]) -> None:
    section = data.pop("trt_llm", None)
    truss.config = _validated(truss, Config, data, ()) or Config()
    if section is None:
        return
    if not isinstance(section, dict):
        _report(truss, "wrong-type", ("trt_llm",), "trt_llm is a mapping")
        return
    stack = section.get("inference_stack", "v1")
    if stack not in {"v1", "v2"}:
        _report(truss, "bad-value", ("trt_llm", "inference_stack"), f"{stack!r} is no inference stack", "v1 or v2")
        return
    kind: type[SectionV1 | SectionV2] = SectionV2 if stack == "v2" else SectionV1
    truss.section = _validated(truss, kind, section, ("trt_llm",))


def _validated(truss: Truss, kind: type[M], data: Any, prefix: Path) -> M | None:
    """`data` as a `kind`. What is wrong is reported and left out, until the rest is right; None if nothing is."""
    seen: set[tuple[Path, str]] = set()
    for _ in range(len(Config.model_fields)):
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                path = _path(detail, data)
                code = _code(detail)
                if (path, code) not in seen and not any(other == path for other, _ in seen):
                    _report_detail(truss, kind, detail, code, path, prefix)
                seen.add((path, code))
            details = error.errors(include_url=False)
            paths = {_removable(_path(detail, data), detail) for detail in details}
            unknown = {_path(detail, data) for detail in details if detail["type"] == "extra_forbidden"}
            truss.broken |= {(*prefix, *path) for path in paths - unknown}
            if () in paths:
                return None
            data = _without(data, paths)
    return None


def _code(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if "text" in detail.get("ctx", {}):
        return kind
    if kind in _RANGES:
        return "out-of-range"
    return _CODES.get(kind, "wrong-type")


def _path(detail: ErrorDetails, data: Any) -> Path:
    """The path of an error in the file: without the names that unions and keys add to it."""
    field_name = detail.get("ctx", {}).get("field", "")
    wanted = (*detail["loc"], *(path_of(field_name) if field_name else ()))
    found: list[str | int] = []
    for part in wanted:
        inside = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int))
        if not inside:
            named = detail["type"] == "missing" or bool(field_name)
            return (*found, part) if named and isinstance(data, dict) else tuple(found)
        found.append(part)
        data = data[part]
    return tuple(found)


def _removable(path: Path, detail: ErrorDetails) -> Path:
    """What to leave out so that the error goes: what lacks a field, and never one entry of a list alone."""
    if detail["type"] == "missing" or detail["type"].endswith("-missing"):
        path = path[:-1]
    if path and isinstance(path[-1], int):
        path = path[: path.index(next(part for part in path if isinstance(part, int)))]
    return path


def _without(data: Any, paths: set[Path]) -> Any:
    """`data` without what is at `paths`. The lists keep their entries, so that no index shifts."""
    inner = {part: {path[1:] for path in paths if len(path) > 1 and path[0] == part} for part, *_ in paths}
    if isinstance(data, list):
        return [_without(item, inner.get(index, set())) for index, item in enumerate(data)]
    if not isinstance(data, dict):
        return data
    heads = {path[0] for path in paths if len(path) == 1}
    return {key: _without(value, inner.get(key, set())) for key, value in data.items() if key not in heads}


def _report_detail(truss: Truss, kind: type[Model], detail: ErrorDetails, code: str, path: Path, prefix: Path) -> None:
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    if code == "unknown-field":
        message = "there is no such field"
    elif code == "missing-field":
        message = "it must be set"
    lenient = code == "unknown-field" and any((*prefix, *path)[: len(item)] == item for item in LENIENT)
    severity = Severity.WARNING if lenient else Severity.ERROR
    _report(truss, code, (*prefix, *path), message, hint_for(kind, detail, path, dotted(prefix)), severity)


def _report(
    truss: Truss, code: str, path: Path, message: str, hint: str = "", severity: Severity = Severity.ERROR
) -> None:
    if code != "unknown-field":  # what nobody reads spoils nothing
        truss.broken.add(path)
    truss.findings.append(
        Finding(code, severity, dotted(path), message, hint, file=truss.file, line=truss.document.line(path))
    )
