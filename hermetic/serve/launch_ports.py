"""Ports that a server is about to listen on: whether they are free, and who has them if not."""

from __future__ import annotations

import errno
import glob
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from hermetic.errors import Domain, HermeticError

__all__ = ["Ports", "free_ports", "insist_on_apart", "insist_on_free"]

_ALL: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not listened on


@dataclass(frozen=True)
class Ports:
    """Where Triton listens. The defaults are its own."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def insist_on_free(host: str, ports: dict[str, int]) -> None:
    """Raises `HermeticError`: busy/port-in-use, naming the process that has one if it can be seen;
    environment/bad-address for a host that is not of this machine; usage/ports-equal.
    """
    if len(set(ports.values())) != len(ports):
        raise HermeticError(Domain.USAGE, "ports-equal", f"each port must be another: {ports}")
    for what, port in ports.items():
        _bind(host, what, port)


def free_ports(host: str) -> Ports:
    """Three that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket(family, socket.SOCK_STREAM)) for _ in range(3)]
        for probe in probes:
            probe.bind((host, 0))
        return Ports(*(int(probe.getsockname()[1]) for probe in probes))


def insist_on_apart(*servers: tuple[str, dict[str, int]]) -> None:
    """As `insist_on_free`, of servers on hosts of their own, which cannot have the same port of one host either."""
    for at, (host, ports) in enumerate(servers):
        for other, taken in servers[:at]:
            shared = {*ports.values()} & {*taken.values()}
            if shared and (host == other or {host, other} & _ALL):
                message = f"port {min(shared)} of {host} is given twice: {taken | ports}"
                raise HermeticError(Domain.USAGE, "ports-equal", message)
        insist_on_free(host, ports)


def _bind(host: str, what: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: past connections do not count
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise _refused(error, host, what, port) from error


def _refused(error: OSError, host: str, what: str, port: int) -> HermeticError:
    if error.errno == errno.EADDRINUSE:
        owners = ", ".join(sorted(set(_owners(port)))) or "another process"
        message = f"port {port} ({what}) of {host} is taken by {owners}"
        option = "--port" if what == "API" else f"--{what}-port"
        return HermeticError(Domain.BUSY, "port-in-use", message, hint=f"stop it, or give another {option}")
    message = f"cannot listen on {host}, port {port} ({what}): {error.strerror or error}"
    return HermeticError(Domain.ENVIRONMENT, "bad-address", message)


def _owners(port: int) -> Iterator[str]:
    """Processes that listen on `port`, as far as we may look."""
    wanted = {f"socket:[{inode}]" for inode in _listening(port)}
    for link in glob.iglob("/proc/[0-9]*/fd/*") if wanted else ():
        try:
            if os.readlink(link) in wanted:
                process = link.split("/")[2]
                with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as stream:
                    yield f"{stream.read().strip()} (process {process})"
        except OSError:
            continue  # it has gone, or is somebody else's


def _listening(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as stream:
                rows = [line.split() for line in stream][1:]
        except OSError:
            continue
        yield from (row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port)
