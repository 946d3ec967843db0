"""The calls to the kernel for which Python has no function, or not all that we need of one.

Numbers and layouts are the kernel's; an unknown machine is told that there is no such call.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from handover_nodeagent.kernel import bpf

_NUMBERS: Final = {
    "x86_64": {"sched_setattr": 314, "sched_getattr": 315, "bpf": 321},
    "aarch64": {"sched_setattr": 274, "sched_getattr": 275, "bpf": 280},
}
"""By machine, as asm/unistd_64.h and asm-generic/unistd.h have them: glibc names none of these."""

# asm-generic/socket.h.
_SO_ATTACH_FILTER: Final = 26
_SOCK_FPROG: Final = struct.Struct("@HP")
"""struct sock_fprog of linux/filter.h: how many instructions, and where they lie."""
_SOCKADDR_LL: Final = struct.Struct("=HHiHBB8x")
"""struct sockaddr_ll of linux/if_packet.h: family, protocol, index; the rest is for sending."""
_SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")
"""struct sched_attr of linux/sched/types.h, as every kernel takes and gives it
(SCHED_ATTR_SIZE_VER0): size, policy, flags, nice, priority; runtime, deadline, period in ns."""
_BPF_PROG_QUERY: Final = 16
_QUERY: Final = struct.Struct("=IIIIQII32x")
"""The part ``query`` of union bpf_attr in linux/bpf.h: target, attach type, flags of the question
and of the answer, where ids would go, how many there are; no links, and no revision."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Scheduling(NamedTuple):
    """The fields of ``struct sched_attr``; times are in ns."""

    size: int
    policy: int
    flags: int
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int


def errno_of(call: Callable[[], object]) -> int:
    """Return the errno with which *call* fails; 0 where it does not."""
    try:
        call()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def attach_filter(sock: socket.socket, program: bpf.Program) -> None:
    """Filter *sock* by *program* from now on: one exchange, what is queued stays."""
    instructions = bpf.pack(program)
    array = ctypes.create_string_buffer(instructions, len(instructions))
    # The kernel copies it during the call; until then *array* keeps it where the pointer says.
    header = _SOCK_FPROG.pack(len(program), ctypes.addressof(array))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def bind_packet(sock: socket.socket, protocol: int, ifindex: int) -> None:
    """Bind by index: socket.bind wants a name, which may be another interface's by now."""
    # The protocol is in network order, and is what switches the socket on.
    address = _SOCKADDR_LL.pack(socket.AF_PACKET, socket.htons(protocol), ifindex, 0, 0, 0)
    if _libc.bind(sock.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sched_getattr() -> Scheduling | None:
    """Return how this thread is scheduled; None where the kernel does not say."""
    attributes = ctypes.create_string_buffer(_SCHED_ATTR.size)
    # Thread 0 is the calling one, in both calls.
    if _call("sched_getattr", 0, attributes, _SCHED_ATTR.size, 0) < 0:
        return None
    return Scheduling(*_SCHED_ATTR.unpack(attributes.raw))


def sched_setattr(scheduling: Scheduling) -> bool:
    """Schedule this thread, and those that it starts, like this; False if refused."""
    return _call("sched_setattr", 0, _SCHED_ATTR.pack(*scheduling), 0) == 0


def count_programs(target: int, attach_type: int) -> int | None:
    """Return how many eBPF programs are attached to the interface *target*; None: nobody may ask.

    A kernel that does not know the place answers EINVAL, and has none there.
    """
    query = ctypes.create_string_buffer(_QUERY.pack(target, attach_type, 0, 0, 0, 0, 0))
    if _call("bpf", _BPF_PROG_QUERY, query, len(query.raw)) < 0:
        return 0 if ctypes.get_errno() in {errno.EINVAL, errno.ENOENT} else None
    return int(_QUERY.unpack_from(query.raw)[5])


def _call(name: str, *arguments: object) -> int:
    number = _NUMBERS.get(platform.machine(), {}).get(name)
    if number is None:
        ctypes.set_errno(errno.ENOSYS)
        return -1
    result: int = _libc.syscall(number, *arguments)
    return result
