"""Files that keep a deployment running elsewhere: Docker Compose, Kubernetes, systemd. Pure data, no template.

Compose and Kubernetes start Triton of an image, which is named by its digest; systemd starts hermetic itself, which
verifies the engine each time. Whatever starts Triton mounts engine, tokenizer and repository where the repository says.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from hermetic.errors import Domain, HermeticError
from hermetic.serve.launch_command import Settings, command, pinned

__all__ = ["FORMATS", "Deployed", "files"]

_IN: Final = "/build/in"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123, which Kubernetes insists on
_START_S: Final = 1800  # a 70 GB engine from a slow disk


@dataclass(frozen=True)
class Deployed:
    """What is deployed: folders as they are called where it will run, the image's name with its digest, the number of
    processes of Triton (`world`) and of GPUs (0: none), and the settings of the server. `program` and `target` are what
    systemd starts, with OpenAI's API if `api`, and with the words of `more` behind them.
    """

    name: str
    engine: str
    tokenizer: str
    repository: str
    world: int
    gpus: int
    settings: Settings
    image: str = ""
    program: str = "hermetic"
    target: str = ""
    api: bool = False
    more: tuple[str, ...] = ()

    def mounts(self) -> dict[str, str]:
        """Folder by the place inside."""
        roles = {"engine": self.engine, "tokenizer": self.tokenizer, "repository": self.repository}
        return {f"{_IN}/{role}": path for role, path in roles.items()}


def files(kind: str, deployed: Deployed) -> dict[str, str]:
    """Text by file name. Raises `HermeticError`: usage/bad-name, usage/image-not-pinned."""
    if _NAME.fullmatch(deployed.name) is None:
        message = (
            f"{deployed.name!r} is no name for a service: lower-case letters, digits and - between them, 63 at most"
        )
        raise HermeticError(Domain.USAGE, "bad-name", message, hint="give another with --name")
    return FORMATS[kind](deployed)


def _compose(deployed: Deployed) -> dict[str, str]:
    settings, ports = deployed.settings, deployed.settings.ports
    service: dict[str, Any] = {
        "image": pinned(deployed.image),
        "command": command(deployed.world, settings, "0.0.0.0"),  # noqa: S104  # published below, on one address
        "ports": [f"{settings.host}:{port}:{port}" for port in vars(ports).values()],
        "volumes": [
            {"type": "bind", "source": source, "target": target, "read_only": True, "bind": {"create_host_path": False}}
            for target, source in deployed.mounts().items()
        ],
        "shm_size": f"{settings.shm_mb}m",
        "ulimits": {"memlock": -1, "stack": 67108864},
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": f"{settings.drain_s + 10}s",
        "healthcheck": {
            "test": ["CMD", "curl", "--fail", "--silent", f"http://127.0.0.1:{ports.http}/v2/health/ready"],
            "interval": "5s",
            "timeout": "3s",
            "retries": 3,
            "start_period": f"{_START_S}s",
        },
    }
    if deployed.gpus:
        device = {"driver": "nvidia", "count": deployed.gpus, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return {"compose.yaml": _yaml({"name": deployed.name, "services": {"triton": service}})}


def _kubernetes(deployed: Deployed) -> dict[str, str]:
    labels = {"app.kubernetes.io/name": "triton", "app.kubernetes.io/instance": deployed.name}
    ports = vars(deployed.settings.ports)
    pod = {"metadata": {"labels": labels}, "spec": _pod(deployed)}
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployed.name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "Recreate"},  # two would want the same GPUs
            "template": pod,
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": deployed.name, "labels": labels},
        "spec": {
            "selector": labels,
            "ports": [{"name": name, "port": port, "targetPort": name} for name, port in ports.items()],
        },
    }
    return {"kubernetes.yaml": "---\n".join(_yaml(one) for one in (workload, service))}


def _pod(deployed: Deployed) -> dict[str, Any]:
    settings = deployed.settings
    roles = {target.rpartition("/")[2]: (target, source) for target, source in deployed.mounts().items()}
    mounts: list[dict[str, Any]] = [
        {"name": role, "mountPath": target, "readOnly": True} for role, (target, _) in roles.items()
    ]
    volumes: list[dict[str, Any]] = [
        {"name": role, "hostPath": {"path": source, "type": "Directory"}} for role, (_, source) in roles.items()
    ]
    container: dict[str, Any] = {
        "name": "triton",
        "image": pinned(deployed.image),
        "command": command(deployed.world, settings, "0.0.0.0"),  # noqa: S104  # of the pod
        "ports": [{"name": name, "containerPort": port} for name, port in vars(settings.ports).items()],
        "startupProbe": _probe("ready", 5, _START_S // 5),
        "readinessProbe": _probe("ready", 5, 1),
        "livenessProbe": _probe("live", 10, 3),
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [*mounts, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108  # sized below
    }
    if deployed.gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": deployed.gpus}}
    memory = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{settings.shm_mb}Mi"}}
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": settings.drain_s + 10,
        "containers": [container],
        "volumes": [*volumes, memory],
    }


def _probe(what: str, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": f"/v2/health/{what}", "port": "http"},
        "periodSeconds": period,
        "failureThreshold": failures,
    }


def _systemd(deployed: Deployed) -> dict[str, str]:
    """A unit of a user or of the system: hermetic says when it is ready, reads again on SIGHUP, drains on SIGTERM."""
    settings, ports = deployed.settings, vars(deployed.settings.ports)
    way = ["serve"] if deployed.api else ["serve", "triton"]
    words = [deployed.program, *way, deployed.target, "--host", settings.host]
    words += [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    words += ["--drain", str(settings.drain_s), *deployed.more]
    sections: dict[str, list[tuple[str, str]]] = {
        "Unit": [
            ("Description", f"Triton with the engine {deployed.name}"),
            ("Wants", "network-online.target"),
            ("After", "network-online.target"),
        ],
        "Service": [
            ("Type", "notify"),
            ("NotifyAccess", "main"),
            ("ExecStart", " ".join(map(_word, words))),
            ("ExecReload", "/bin/kill -HUP $MAINPID"),  # policy and keys are read again
            ("TimeoutStartSec", "infinity"),  # hermetic knows better: it counts from when Triton is started
            ("Restart", "on-failure"),
            ("RestartPreventExitStatus", "2 3 5"),  # what does not mend itself: usage, recipe, trust
            ("KillMode", "mixed"),
            ("TimeoutStopSec", str(settings.drain_s + 10)),
            ("UMask", "0077"),
        ],
        "Install": [("WantedBy", "default.target")],
    }
    lines = (
        "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in entries)]) for name, entries in sections.items()
    )
    return {f"hermetic-{deployed.name}.service": "\n\n".join(lines) + "\n"}


def _word(word: str) -> str:
    """Quoted as systemd reads it, which also has % and $ for itself."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return escaped if shlex.quote(word) == word else f'"{escaped}"'


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=1000)


FORMATS: Final[Mapping[str, Callable[[Deployed], dict[str, str]]]] = {
    "compose": _compose,
    "kubernetes": _kubernetes,
    "systemd": _systemd,
}
