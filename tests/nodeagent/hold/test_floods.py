"""More comes than anybody can take: what is held stays within its bounds, and says so."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest
from tests.nodeagent.hold import flood
from tests.nodeagent.hold.conftest import Recorders
from tests.nodeagent.hold.port import Port, number_of, packet, until
from tests.nodeagent.sniff.conftest import run
from tests.nodeagent.tap_guest import open_tap

from handover_nodeagent.hold import bounds
from handover_nodeagent.hold.recorder import HoldRecorder, Position

pytestmark = pytest.mark.root

SECONDS: Final = "1"
ENOUGH: Final = 20_000
LAST: Final = 77


@pytest.fixture
def tap(port: Port) -> Iterator[int]:  # noqa: ARG001 - in its namespace
    """Give a tap that nobody reads: its guest is paused."""
    descriptor = open_tap(flood.DEVICE)
    run(f"ip link set {flood.DEVICE} up")
    run(f"ip address add 10.65.0.1/24 dev {flood.DEVICE}")
    run(f"ip neigh replace {flood.ADDRESS} lladdr 52:54:00:65:00:02 dev {flood.DEVICE}")
    yield socket.if_nametoindex(flood.DEVICE)
    os.close(descriptor)


async def flooded(recorder: HoldRecorder, kind: str) -> int:
    """Return, once a flood is over, how often it has sent; in it, nothing ends without a word."""
    await until(lambda: recorder.is_holding)
    argv = [sys.executable, flood.__file__, kind, SECONDS]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)  # noqa: ASYNC220

    def is_over() -> bool:
        assert recorder.is_holding or recorder.trouble
        return process.poll() is not None

    await until(is_over)
    return int(process.communicate()[0])


async def test_of_200_000_packets_a_second_the_newest_are_held_and_all_are_counted(
    recorders: Recorders, tap: int
) -> None:
    recorder = recorders(bounds.MOST_BLOCKS, ifindex=tap)
    sent = flood.SEGMENTS * await flooded(recorder, "small")
    assert sent > ENOUGH
    if recorder.is_thinned:
        # A machine that is too busy to look for 50 ms has no room for some, and says so.
        assert recorder.is_holding or recorder.trouble
        return
    held = recorder.count_since(0)
    assert held + recorder.dropped_since(0) == sent
    assert 0 < held * flood.OCTETS < bounds.MOST_BLOCKS * bounds.BLOCK_SIZE


async def test_of_10_gbit_a_second_only_what_fits_a_link_is_held(
    recorders: Recorders, tap: int
) -> None:
    recorder = recorders(bounds.MOST_BLOCKS, ifindex=tap)
    await flooded(recorder, "large")
    assert recorder.is_thinned
    if recorder.is_holding:
        port = Port(flood.DEVICE)
        port.send(packet(LAST))
        port.close()
        held = [number_of(one.frame.octets) for one in recorder.frames(Position())]
        assert held[-1:] == [LAST]
