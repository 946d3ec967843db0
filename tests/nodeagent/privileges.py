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


def without_privileges(work: Callable[[], _T]) -> _T:
    """Do *work* in a thread, of this namespace, that has no capability left.

    Nor has what it starts: programs that root runs get what is left in the bounding set.
    """
    with ThreadPoolExecutor(1, initializer=_drop_capabilities) as thread:
        return thread.submit(work).result()


def _drop_capabilities() -> None:
    for capability in range(40):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", 0x20080522, 0)
    assert _libc.syscall(_CAPSET, header, bytes(24)) == 0, os.strerror(ctypes.get_errno())
