"""Work done without any privilege, as in a container whose manifest grants too little."""

import ctypes
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

_libc: Final = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")
_CAPSET: Final = 126
"""The system call's number on x86-64; libc has no function for it."""
_PR_CAPBSET_DROP: Final = 24
_NET_ADMIN: Final = 12
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18


def without_privileges(work: Callable[[], _T]) -> _T:
    """Do *work* in a thread, of this namespace, that has no capability left.

    Nor has what it starts: programs that root runs get what is left in the bounding set.
    """
    with ThreadPoolExecutor(1, initializer=_drop_capabilities) as thread:
        return thread.submit(work).result()


def as_in_the_agents_container(work: Callable[[], _T]) -> _T:
    """Do *work* with CAP_NET_ADMIN alone, in a network of its own whose /proc/sys is read-only."""
    with ThreadPoolExecutor(1, initializer=_enter_container) as thread:
        return thread.submit(work).result()


def _enter_container() -> None:
    _call(_libc.unshare, _CLONE_NEWNS | _CLONE_NEWNET)
    # Nothing of it is to be seen from outside.
    _call(_libc.mount, b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    _call(_libc.mount, b"/proc/sys", b"/proc/sys", None, _MS_BIND, None)
    _call(_libc.mount, b"none", b"/proc/sys", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)
    _drop_capabilities(kept=1 << _NET_ADMIN)


def _drop_capabilities(kept: int = 0) -> None:
    for capability in range(40):
        if not kept & 1 << capability:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", 0x20080522, 0)
    # Twice three words: effective, permitted and inheritable, of which one is for 64 bits.
    capabilities = struct.pack("=IIIIII", kept, kept, 0, 0, 0, 0)
    assert _libc.syscall(_CAPSET, header, capabilities) == 0, os.strerror(ctypes.get_errno())


def _call(function: Callable[..., int], *arguments: object) -> None:
    assert function(*arguments) == 0, os.strerror(ctypes.get_errno())
