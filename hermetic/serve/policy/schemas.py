"""The schema registry: a folder of JSON schemas in files ``name_version.json``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from hermetic.digest import hash_bytes
from hermetic.errors import Domain, HermeticError

__all__ = ["Schema", "SchemaRegistry", "schema_digest"]

_NAME: Final = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_-]*)_(?P<version>[0-9]+(?:\.[0-9]+)*)\.json")


@dataclass(frozen=True)
class Schema:
    """One version of one. `digest` is of what it says, whatever its spaces and the order of its keys."""

    name: str
    version: str
    digest: str
    schema: Mapping[str, Any]

    @property
    def schema_id(self) -> str:
        """What is logged: ``name_version``."""
        return f"{self.name}_{self.version}"


def schema_digest(schema: Any) -> str:
    """``blake3:…`` of a JSON value with sorted keys."""
    text = json.dumps(schema, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"blake3:{hash_bytes(text.encode()).hex}"


class SchemaRegistry:
    """The schemas of a folder as they were when it was read. Empty without a folder."""

    def __init__(self, schemas: tuple[Schema, ...] = ()) -> None:
        self._by_id = {one.schema_id: one for one in schemas}
        self._by_digest = {one.digest: one for one in reversed(schemas)}

    @classmethod
    def read(cls, folder: str) -> SchemaRegistry:
        """Raises `HermeticError`: recipe/no-schemas for a folder that is not there, recipe/schema-invalid for a file
        whose name or content is none of a schema's.
        """
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            message = f"the schemas' folder {folder} cannot be read: {error.strerror}"
            raise HermeticError(Domain.RECIPE, "no-schemas", message) from error
        return cls(tuple(_read(folder, name) for name in names if name.endswith(".json")))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._by_id)

    def get(self, schema_id: str) -> Schema | None:
        return self._by_id.get(schema_id)

    def of(self, schema: Any) -> Schema | None:
        """The registered schema that says the same as `schema`."""
        return self._by_digest.get(schema_digest(schema))


def _read(folder: str, name: str) -> Schema:
    matched = _NAME.fullmatch(name)
    if matched is None:
        message = f"{name!r} in {folder} is no name_version.json"
        raise HermeticError(Domain.RECIPE, "schema-invalid", message, hint="such as answer_1.json")
    try:
        with open(os.path.join(folder, name), "rb") as stream:
            schema = json.load(stream)
        if not isinstance(schema, dict):
            raise ValueError("a schema is a JSON object")  # noqa: TRY004
        Draft202012Validator.check_schema(schema)
    except (OSError, ValueError, RecursionError, SchemaError) as error:
        message = f"{os.path.join(folder, name)} is no JSON schema: {getattr(error, 'message', error)}"
        raise HermeticError(Domain.RECIPE, "schema-invalid", message) from error
    return Schema(matched["name"], matched["version"], schema_digest(schema), schema)
