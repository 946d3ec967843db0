"""A node of its own for each test: a fresh network namespace that is gone afterwards."""

import ctypes
import dataclasses
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.kernel.node import MAIN, OURS, Node
from tests.nodeagent.kernel.world import World

from handover_nodeagent.kernel import netlink
from handover_nodeagent.network import IPAddress, Route

_libc: Final = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def node() -> Iterator[Node]:
    """Enter a namespace with tap0 and tap1; both go with it."""
    namespaces.needs_root()
    with namespaces.restored():
        namespaces.enter_new()
        guest = namespaces.open_own()
        namespaces.enter_new()
        it = Node(guest)
        it.run("ip link set lo up")
        it.make_tap0()
        it.run("ip link add tap1 type veth peer name far1")
        it.run("ip link set far1 up")
        it.run("ip link set tap1 up")
        it.await_shown("ip link show tap1", "qdisc noqueue state UP")
        it.await_shown("ip link show tap0", "qdisc noqueue state UP")
        yield it
        # A namespace dies in the background: its links, at once.
        for name in {"tap0", "tap1"} & {name for _, name in socket.if_nameindex()}:
            it.run(f"ip link delete {name}")
        os.close(guest)


@pytest.fixture
def channel(node: Node) -> Iterator[netlink.Channel]:  # noqa: ARG001 - made in its namespace
    """Give a channel of the node."""
    with netlink.Channel() as it:
        yield it


@pytest.fixture
def route(node: Node) -> Callable[..., Route]:
    """Make our route to an address by tap0, elevated, unless told otherwise."""

    def make(address: IPAddress, **changes: int) -> Route:
        plain = Route(address, node.tap0, 512, MAIN, OURS)
        return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
async def world(node: Node, tmp_path: Path) -> AsyncIterator[World]:
    """Start an agent's loop on the node of this test."""
    it = await World(node, tmp_path).start()
    yield it
    await it.kill()


@pytest.fixture
def mute(node: Node) -> None:
    """Let the guest's kernel answer nothing: no guest is there."""
    node.guest_runs("ip link set eth arp off")


@pytest.fixture
def alive(node: Node) -> None:
    """Let the guest's kernel answer for the VM's address."""
    node.guest_runs("ip address add 10.65.0.2/32 dev eth")


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
