"""Where a config says that data come from: `model_cache`, `weights`, `bdn`, `external_data`, `training_checkpoints`."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from hermetic.llm.truss.base import HF_SECRET, Auth, Model, Text, Upper, check_auth, wrong

__all__ = ["Bdn", "CheckpointList", "ExternalData", "InternalRepo", "ModelRepo", "WeightsSource"]


class RepoKind(str, Enum):
    HF = "hf"
    GCS = "gcs"
    S3 = "s3"
    AZURE = "azure"


class ModelRepo(Model):
    """An entry of `model_cache`."""

    repo_id: Text
    revision: str = ""
    allow_patterns: list[str] | None = None
    ignore_patterns: list[str] | None = None
    volume_folder: Text | None = None
    use_volume: bool
    kind: RepoKind = RepoKind.HF
    runtime_secret_name: str = HF_SECRET

    @model_validator(mode="after")
    def _check_volume(self) -> ModelRepo:
        if len(self.revision) == 1:
            raise wrong("bad-revision", "a revision has at least two characters", "revision")
        if self.use_volume and self.kind is RepoKind.HF and not self.revision:
            raise wrong("revision-missing", "use_volume needs the commit of a Hub's repository", "revision")
        if self.use_volume and not self.volume_folder:
            raise wrong("volume-folder-missing", "use_volume needs a volume_folder", "volume_folder")
        return self


class InternalRepo(ModelRepo):
    """An entry of `cache_internal`."""

    use_volume: bool = False


class WeightsMethod(str, Enum):
    CUSTOM_SECRET = "CUSTOM_SECRET"  # noqa: S105
    AWS_OIDC = "AWS_OIDC"
    GCP_OIDC = "GCP_OIDC"
    AWS_ASSUME_ROLE = "AWS_ASSUME_ROLE"


class WeightsAuth(Auth):
    auth_method: Annotated[WeightsMethod, Upper]
    auth_secret_name: str | None = None

    @model_validator(mode="after")
    def _check(self) -> WeightsAuth:
        check_auth(self, self.auth_method.value, "auth_secret_name", "CUSTOM_SECRET")
        return self


_SCHEMES: Final = ("hf", "s3", "gs", "azure", "r2", "cw", "https")


def _address(value: str) -> str:
    scheme, mark, rest = value.partition("://")
    if not mark or scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise wrong("bad-address", f"{value!r} has no scheme that weights can come by: {known}")
    if not rest or rest.startswith("/"):
        raise wrong("bad-address", f"{value!r} names nothing behind {scheme}://")
    if "@" in rest and scheme not in {"hf", "https"}:
        raise wrong("bad-address", f"{value!r}: only hf:// has revisions behind an @")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise wrong("not-absolute", f"{value!r} is no absolute path")
    return value


class WeightsSource(Model):
    """An entry of `weights`: an address, and the folder where a server finds it."""

    source: Annotated[Text, AfterValidator(_address)]
    mount_location: Annotated[Text, AfterValidator(_absolute)]
    auth: WeightsAuth | None = None
    auth_secret_name: str | None = None
    allow_patterns: list[str] | None = None
    ignore_patterns: list[str] | None = None

    @model_validator(mode="after")
    def _check_secret(self) -> WeightsSource:
        if self.auth_secret_name and self.auth is not None and self.auth.auth_secret_name:
            raise wrong("secret-twice", "the secret is named here and in auth", "auth_secret_name")
        return self


def unique(values: list[str], what: str, field: str) -> None:
    """Raise at the first entry whose `field` an earlier one has too."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise wrong("not-unique", f"two entries have the {what} {value!r}", f"{index}.{field}")


_NAME: Final = r"([^/:@\0]{1,256})"
_VOLUME: Final = re.compile(rf"bdn:{_NAME}/{_NAME}(?::{_NAME}|@(?:b3:)?([0-9a-fA-F]{{12,64}}))?")


def _volume(value: str) -> str:
    match = _VOLUME.fullmatch(value)
    if match is None or any(".." in (part or "") for part in match.groups()):
        raise wrong("bad-address", f"{value!r} is no bdn:NAMESPACE/VOLUME[:TAG|@DIGEST]")
    return value


def _mount(value: str) -> str:
    path = PurePosixPath(value)
    if "\0" in value or not path.is_absolute() or path == PurePosixPath("/") or ".." in path.parts:
        raise wrong("not-absolute", f"{value!r} is no absolute path below /")
    return str(path)


def _glob(value: str) -> str:
    parts = value.removesuffix("/").split("/")
    if value != value.strip() or "\\" in value or "\0" in value or not {"", ".", ".."}.isdisjoint(parts):
        raise wrong("bad-pattern", f"{value!r} is no relative pattern")
    return value


_Globs = list[Annotated[str, AfterValidator(_glob)]]


class BdnMount(Model):
    source: Annotated[Text, AfterValidator(_volume)]
    path: Annotated[Text, AfterValidator(_mount)]
    include: _Globs = Field(default_factory=list)
    exclude: _Globs = Field(default_factory=list)


def _namespace(value: str) -> str:
    if len(value) > 256 or "/" in value or ".." in value or "\0" in value:
        raise wrong("bad-address", f"{value!r} is no namespace")
    return value


class BdnAccess(Model):
    namespace: Annotated[Text, AfterValidator(_namespace)]
    grants: Annotated[list[Literal["pull", "push", "tag", "inspect", "delete"]], Field(min_length=1)]

    @field_validator("grants")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if len(value) != len(set(value)):
            raise wrong("not-unique", "a grant stands twice")
        return value


class BdnHotload(Model):
    enabled: bool = False


class Bdn(Model):
    """`bdn`: volumes of Baseten's delivery network."""

    mounts: list[BdnMount] = Field(default_factory=list)
    access: list[BdnAccess] = Field(default_factory=list)
    hotload: BdnHotload = Field(default_factory=BdnHotload)

    @field_validator("mounts", "access")
    @classmethod
    def _once(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        field = "path" if info.field_name == "mounts" else "namespace"
        unique([getattr(item, field) for item in value], field, field)
        return value


class ExternalData(Model):
    """An entry of `external_data`."""

    url: Text
    local_data_path: Text
    backend: str = "http_public"
    name: str | None = None


class Artefacts(Model):
    training_job_id: str
    paths: list[str] = Field(default_factory=list)


class CheckpointList(Model):
    """`training_checkpoints`."""

    download_folder: str = "/tmp/training_checkpoints"  # noqa: S108  # a path on the server
    artifact_references: list[Artefacts] = Field(default_factory=list)
    loops_checkpoint_ids: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> CheckpointList:
        if self.artifact_references and self.loops_checkpoint_ids:
            raise wrong("either-or", "either artifact_references or loops_checkpoint_ids", "loops_checkpoint_ids")
        return self
