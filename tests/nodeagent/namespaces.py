"""Network namespaces that the thread of a test makes and enters itself."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def enter(namespace: int) -> None:
    """Let this thread live in the *namespace* of an open descriptor."""
    assert _libc.setns(namespace, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def enter_new() -> None:
    """Let this thread live in a new namespace, where an IPv6 address counts at once."""
    assert _libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0", encoding="ascii")


def open_own() -> int:
    """Return a descriptor of this thread's namespace, to be closed."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Bring this thread back to where it was."""
    own = open_own()
    try:
        yield
    finally:
        enter(own)
        os.close(own)


def needs_root() -> None:
    """Skip the test of a person who may make no namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
