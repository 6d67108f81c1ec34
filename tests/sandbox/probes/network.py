"""Ways to talk to anything outside."""

from __future__ import annotations

import errno
import os
import socket
import urllib.error
import urllib.request

from probe import FACTS, Leak, probe, read, refused, require, syscall

UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def connect(family: int, address: object, kind: int = socket.SOCK_STREAM) -> object:
    with socket.socket(family, kind) as opened:
        opened.settimeout(2)
        return opened.connect(address)


@probe
def a_listener_on_the_hosts_loopback() -> object:
    return refused(lambda: connect(socket.AF_INET, ("127.0.0.1", FACTS["tcp_port"])), errno.ECONNREFUSED)


@probe
def a_listener_on_the_hosts_ipv6_loopback() -> object:
    address = ("::1", FACTS["tcp_port"])
    return refused(lambda: connect(socket.AF_INET6, address), errno.ECONNREFUSED, *UNREACHABLE)


@probe
def a_tcp_connection_outside() -> object:
    return refused(lambda: connect(socket.AF_INET, ("192.0.2.1", 80)), *UNREACHABLE)


@probe
def a_tcp_connection_outside_by_ipv6() -> object:
    return refused(lambda: connect(socket.AF_INET6, ("2001:db8::1", 80)), *UNREACHABLE)


@probe
def a_datagram_outside() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        return refused(lambda: opened.sendto(b"x", ("192.0.2.1", 53)), *UNREACHABLE)


@probe
def a_broadcast() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return refused(lambda: opened.sendto(b"x", ("255.255.255.255", 9)), *UNREACHABLE)


@probe
def the_cloud_metadata_service() -> object:
    return refused(lambda: connect(socket.AF_INET, ("169.254.169.254", 80)), *UNREACHABLE)


@probe
def a_name_lookup() -> object:
    try:
        found = socket.getaddrinfo("example.com", 443)
    except socket.gaierror as error:
        return str(error)
    raise Leak(f"found {found}")


@probe
def a_download() -> object:
    try:
        urllib.request.urlopen("http://example.com/", timeout=2)
    except urllib.error.URLError as error:
        return str(error)
    raise Leak("downloaded")


@probe
def a_raw_socket() -> object:
    return refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), errno.EPERM)


@probe
def a_packet_socket() -> object:
    return refused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW), errno.EPERM, errno.EAFNOSUPPORT)


@probe
def the_hypervisors_socket() -> object:
    return refused(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), errno.EAFNOSUPPORT)


@probe
def any_other_socket_family() -> object:
    allowed = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    opened = []
    for family in range(1, 46):
        if family not in allowed:
            try:
                socket.socket(family, socket.SOCK_DGRAM).close()
                opened.append(family)
            except OSError:
                continue
    return require(not opened, opened)


@probe
def a_socket_through_io_uring() -> object:
    return refused(lambda: syscall(425, 425, 8, b"\0" * 256), errno.EPERM, errno.ENOSYS)


@probe
def interfaces_but_loopback() -> object:
    names = [name for _, name in socket.if_nameindex()]
    return require(names == ["lo"], names)


@probe
def the_hosts_routes_and_neighbours() -> object:
    lines = [line for name in ("route", "arp") for line in read(f"/proc/net/{name}").splitlines()[1:]]
    return require(not lines, lines)


@probe
def the_hosts_connections() -> object:
    wanted = f":{FACTS['tcp_port']:04X}"
    return require(wanted not in read("/proc/net/tcp"), "the host's listener in /proc/net/tcp")


@probe
def the_hosts_unix_sockets() -> object:
    listed = read("/proc/net/unix")
    return require(FACTS["abstract_socket"] not in listed and FACTS["socket_path"] not in listed, listed[:200])


@probe
def an_abstract_unix_socket() -> object:
    return refused(lambda: connect(socket.AF_UNIX, "\0" + FACTS["abstract_socket"]), errno.ECONNREFUSED)


@probe
def a_unix_socket_by_its_path() -> object:
    return refused(lambda: connect(socket.AF_UNIX, FACTS["socket_path"]), errno.ENOENT)


@probe
def the_ssh_agent() -> object:
    return require("SSH_AUTH_SOCK" not in os.environ, os.environ.get("SSH_AUTH_SOCK"))


@probe
def well_known_sockets() -> object:
    paths = (
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/podman/podman.sock",
        "/run/containerd/containerd.sock",
        "/run/dbus/system_bus_socket",
        "/run/user",
        "/run/systemd/private",
        "/tmp/.X11-unix",
        "/nix/var/nix/daemon-socket/socket",
    )
    there = [path for path in paths if os.path.lexists(path)]
    return require(not there, there)


@probe
def loopback_works() -> object:
    """MPI needs it."""
    with socket.create_server(("localhost", 0)) as server, socket.create_connection(server.getsockname()):
        return "connected"
