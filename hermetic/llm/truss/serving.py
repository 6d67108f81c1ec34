"""How a config's model is served and on what: `resources`, `runtime`, `build`, `base_image`, `docker_server`."""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hermetic.llm.truss.base import Auth, Count, Model, Upper, check_auth, wrong

__all__ = ["Accelerator", "AcceleratorName", "BaseImage", "BisLlm", "Build", "DockerServer", "Resources", "Runtime"]


class AcceleratorName(str, Enum):
    """The GPUs that a config may name."""

    B10 = "B10"
    T4 = "T4"
    L4 = "L4"
    A10G = "A10G"
    V100 = "V100"
    A100 = "A100"
    A100_40GB = "A100_40GB"
    H100 = "H100"
    H200 = "H200"
    H100_40GB = "H100_40GB"
    B200 = "B200"
    L40S = "L40S"
    RTX_PRO_6000 = "RTX_PRO_6000"
    B300 = "B300"
    GB300 = "GB300"


class Accelerator(Model):
    """``H100:2``, or the same as a mapping. `count` is the number of GPUs, 1 even where there is no accelerator."""

    accelerator: AcceleratorName | None = None
    count: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if value is None:
            return {}
        if not isinstance(value, str):
            return value
        name, mark, count = value.strip().partition(":")
        if name not in {item.value for item in AcceleratorName}:
            known = ", ".join(item.value for item in AcceleratorName)
            raise wrong("unknown-accelerator", f"there is no accelerator {name!r}", hint=f"one of {known}")
        if mark and (not (count.isascii() and count.isdigit()) or int(count) < 1):
            raise wrong("bad-count", f"{count!r} is no number of GPUs", hint=f"as in {name}:2")
        return {"accelerator": name, "count": int(count or 1)}


class Fabric(Model):
    use_rdma: bool | None = None
    preferences: list[str] | None = None


_UNITS: Final = {unit: 1000**power for power, unit in enumerate(("", "k", "M", "G", "T", "P", "E"))} | {
    f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", start=1)
}
_NUMBER: Final = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_CPU: Final = re.compile(rf"{_NUMBER}([eE][+-]?[0-9]+)?|[0-9.]*m")
_MEMORY: Final = re.compile(rf"({_NUMBER})([A-Za-z]+)|({_NUMBER}(?:[eE][+-]?[0-9]+)?)")


def _cpu(value: str) -> str:
    if _CPU.fullmatch(value) is None:
        raise wrong("bad-cpu", f"{value!r} is no number of cores", hint='as in "4" or "500m"')
    return value


def _memory(value: str) -> str:
    match = _MEMORY.fullmatch(value)
    if match is None or (match[2] or "") not in _UNITS:
        raise wrong("bad-memory", f"{value!r} is no amount of memory", hint='as in "10Gi" or "512Mi"')
    return value


class Resources(Model):
    """`resources`. `use_gpu` is accepted and says nothing: `accelerator` does."""

    cpu: Annotated[str, AfterValidator(_cpu)] = "1"
    memory: Annotated[str, AfterValidator(_memory)] = "2Gi"
    accelerator: Accelerator = Field(default_factory=Accelerator)
    instance_type: str | None = None
    node_count: Count | None = None
    fabric: Fabric | None = None
    use_gpu: Any = None

    @property
    def memory_bytes(self) -> int:
        match = _MEMORY.fullmatch(self.memory)
        assert match is not None
        return int(float(match[1] or match[3]) * _UNITS[match[2] or ""])


class HealthChecks(Model):
    restart_check_delay_seconds: int | None = None
    restart_threshold_seconds: int | None = None
    stop_traffic_threshold_seconds: int | None = None
    startup_threshold_seconds: int | None = None


class Transport(Model):
    """Only websockets have fields of their own; Truss reads over what the others do not know."""

    kind: Literal["http", "websocket", "grpc"]
    ping_interval_seconds: float | None = None
    ping_timeout_seconds: float | None = None


class Oidc(Model):
    enabled: bool | None = None


class RemoteSsh(Model):
    enabled: bool = False


_LABEL: Final = r"[a-zA-Z0-9*]([a-zA-Z0-9*-]{0,61}[a-zA-Z0-9*])?"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def _network(value: str) -> str:
    try:
        ipaddress.IPv4Network(value, strict=False)
    except ValueError as error:
        raise wrong("bad-address", f"{value!r} is no IPv4 address or range") from error
    return value


def _host(value: str) -> str:
    if _HOST.fullmatch(value) is None:
        raise wrong("bad-address", f"{value!r} is no name of a host")
    return value


class Egress(Model):
    ip_allow_list: list[Annotated[str, AfterValidator(_network)]] | None = None
    fqdn_allow_list: list[Annotated[str, AfterValidator(_host)]] | None = None


def _version(value: str) -> str:
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415  # few configs have one

    try:
        Version(value)
    except InvalidVersion as error:
        raise wrong("bad-version", f"{value!r} is no version") from error
    return value


class Runtime(Model):
    """The config's own `runtime`, which is Truss's server and not the engine's."""

    predict_concurrency: int = 1
    streaming_read_timeout: int = 60
    enable_tracing_data: bool = False
    enable_debug_logs: bool = False
    transport: Transport = Field(default_factory=lambda: Transport(kind="http"))
    is_websocket_endpoint: bool | None = None
    health_checks: HealthChecks = Field(default_factory=HealthChecks)
    oidc: Oidc = Field(default_factory=Oidc)
    remote_ssh: RemoteSsh = Field(default_factory=RemoteSsh)
    egress_restrictions: Egress | None = None
    truss_server_version_override: Annotated[str, AfterValidator(_version)] | None = None

    @field_validator("transport", mode="before")
    @classmethod
    def _kind(cls, value: object) -> object:
        return {"kind": "http"} if value == {} else value


_SECRET: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")


class Build(Model):
    """The config's own `build`, which is the server image's and not the engine's."""

    model_server: Literal["TrussServer", "TRT_LLM"] = "TrussServer"
    arguments: dict[str, Any] = Field(default_factory=dict)
    secret_to_path_mapping: dict[str, str] = Field(default_factory=dict)
    no_cache: bool = False

    @field_validator("secret_to_path_mapping")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            plain = _SECRET.fullmatch(name) is not None or (name.startswith("DOCKER_REGISTRY_") and len(name) <= 253)
            if not plain or name in {".", ".."}:
                raise wrong("bad-secret-name", f"{name!r} is no name of a secret", name)
        return value


class DockerMethod(str, Enum):
    GCP_SERVICE_ACCOUNT_JSON = "GCP_SERVICE_ACCOUNT_JSON"
    AWS_IAM = "AWS_IAM"
    AWS_OIDC = "AWS_OIDC"
    GCP_OIDC = "GCP_OIDC"
    REGISTRY_SECRET = "REGISTRY_SECRET"  # noqa: S105
    AWS_ASSUME_ROLE = "AWS_ASSUME_ROLE"


class DockerAuth(Auth):
    auth_method: Annotated[DockerMethod, Upper]
    registry: str | None = ""
    secret_name: str | None = None
    aws_access_key_id_secret_name: str = "aws_access_key_id"  # noqa: S105
    aws_secret_access_key_secret_name: str = "aws_secret_access_key"  # noqa: S105

    @model_validator(mode="after")
    def _check(self) -> DockerAuth:
        check_auth(self, self.auth_method.value, "secret_name", "GCP_SERVICE_ACCOUNT_JSON")
        return self


class BaseImage(Model):
    image: str = ""
    python_executable_path: str = ""
    docker_auth: DockerAuth | None = None

    @field_validator("python_executable_path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise wrong("not-absolute", f"{value!r} is no absolute path")
        return value


class DockerServer(Model):
    start_command: str | None = None
    server_port: int
    predict_endpoint: str
    readiness_endpoint: str
    liveness_endpoint: str
    run_as_user_id: int | None = None
    no_build: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> DockerServer:
        if not self.no_build and self.start_command is None:
            raise wrong("start-command-missing", "it needs a start_command unless no_build is set", "start_command")
        if self.run_as_user_id in {0, 60000}:  # root, and the user that Truss's own server runs as
            raise wrong("bad-user", f"the server cannot run as user {self.run_as_user_id}", "run_as_user_id")
        return self


class Metric(Model):
    name: str
    target: float


class Autoscaling(Model):
    metrics: list[Metric]


class BisLlm(Model):
    config: dict[str, Any] | None = None
    version: str = ""
    additional_autoscaling_config: Autoscaling | None = None
