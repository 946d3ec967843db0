"""A node and its guest, between which only the test's own frames go; and a recorder of the port."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.nodeagent.hold.port import VM, Port, mapped, sockets, until
from tests.nodeagent.sniff.conftest import Wire, wire

from handover_nodeagent.hold.recorder import HoldRecorder

__all__ = ["wire"]

Recorders = Callable[..., HoldRecorder]


@pytest.fixture
def quiet(wire: Wire) -> None:
    """Let neither end's kernel send what only IPv6 sends by itself."""
    Path("/proc/sys/net/ipv6/conf/tap/disable_ipv6").write_text("1", encoding="ascii")
    with wire.inside_guest():
        Path("/proc/sys/net/ipv6/conf/eth/disable_ipv6").write_text("1", encoding="ascii")


@pytest.fixture
def port(quiet: None) -> Iterator[Port]:  # noqa: ARG001 - in its namespace
    """Give the node's end."""
    it = Port()
    yield it
    it.close()


@pytest.fixture
async def recorders(wire: Wire) -> AsyncIterator[Recorders]:
    """Make recorders of the port, of which nothing is left in the end."""
    made: list[HoldRecorder] = []
    before = sockets()

    def make(
        blocks: int = 4,
        taken_until: Callable[[], int] = lambda: 0,
        changed: Callable[[], None] = lambda: None,
        ifindex: int = wire.tap,
    ) -> HoldRecorder:
        made.append(HoldRecorder(ifindex, (VM,), blocks, taken_until, changed))
        return made[-1]

    yield make
    for recorder in made:
        recorder.close()
    # A ring of which somebody still holds octets would stay.
    await until(lambda: mapped() == 0)
    await until(lambda: sockets() <= before + 1)


@pytest.fixture
async def recorder(recorders: Recorders) -> HoldRecorder:
    """Give one that holds."""
    it = recorders()
    await until(lambda: it.is_holding)
    return it
