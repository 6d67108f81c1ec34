"""The system-call filter of every stage, as the BPF program that ``bwrap --seccomp`` loads.

Namespaces leave a few doors that this closes: socket families that no network namespace holds (``AF_VSOCK`` reaches
the hypervisor), kernel keyrings, the kernel log, tracing of the whole machine, and the second way to all of them
through ``io_uring`` or another architecture's calls. Refused calls fail with an error, never with a signal, so that
programs take their fall-backs.

Numbers are those of the kernel's ``unistd_64.h`` and ``asm-generic/unistd.h``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hermetic.errors import Domain, HermeticError

__all__ = ["program"]

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_X32 = 0x40000000

_AUDIT_ARCHITECTURE: Final[Mapping[str, int]] = MappingProxyType({"x86_64": 0xC000003E, "aarch64": 0xC00000B7})
_SOCKET: Final[Mapping[str, int]] = MappingProxyType({"x86_64": 41, "aarch64": 198})
_FAMILIES: Final = tuple(int(family) for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK))
_REFUSED: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {
        # syslog, add_key, request_key, keyctl, perf_event_open, open_by_handle_at, bpf, userfaultfd,
        # io_uring_setup, io_uring_enter, io_uring_register, quotactl, acct, swapon, swapoff, kexec_load
        "x86_64": (103, 248, 249, 250, 298, 304, 321, 323, 425, 426, 427, 179, 163, 167, 168, 246),
        "aarch64": (116, 217, 218, 219, 241, 265, 280, 282, 425, 426, 427, 60, 89, 224, 225, 104),
    }
)


def program(machine: str) -> bytes:
    """The filter for `machine` (as `os.uname` spells it) in the form that ``--seccomp`` reads.

    Raises `HermeticError` (environment/unsupported-machine) for a machine whose call numbers are not known here.
    """
    if machine not in _AUDIT_ARCHITECTURE:
        message = f"stages run on x86_64 and aarch64; this is {machine}"
        raise HermeticError(Domain.ENVIRONMENT, "unsupported-machine", message)
    absent = _ERROR | errno.ENOSYS
    code = [(_LOAD, 0, 0, _ARCHITECTURE), *_unless(_AUDIT_ARCHITECTURE[machine], absent), (_LOAD, 0, 0, _NUMBER)]
    code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, absent)]
    for number in _REFUSED[machine]:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    code += [(_EQUAL, 1, 0, _SOCKET[machine]), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    for family in _FAMILIES:
        code += [(_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    code += [(_RETURN, 0, 0, _ERROR | errno.EAFNOSUPPORT)]
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def _unless(wanted: int, otherwise: int) -> list[tuple[int, int, int, int]]:
    return [(_EQUAL, 1, 0, wanted), (_RETURN, 0, 0, otherwise)]
