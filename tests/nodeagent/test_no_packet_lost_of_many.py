"""Statement 21 where a node is drained: twenty guests leave it at once."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.nodeagent.agents_net import NODES, AgentsNet
from tests.nodeagent.fleet import GUESTS, INTERFACES, Fleet, taps_made
from tests.nodeagent.tap_guest import TapGuest
from tests.nodeagent.traffic import GUEST, lost

from handover_nodeagent.hold import bounds

pytestmark = [pytest.mark.root, pytest.mark.api]

PAUSES_MS: Final = (80, 200, 40)
EVERY_US: Final = "400"
"""2,500 packets a second of each family, a hundred and more to each interface."""
ENOUGH: Final = 10_000


@pytest.fixture
def fleet(all_moves: AgentsNet, tmp_path: Path) -> Iterator[Fleet]:
    """Let all of them run at a, and be reached there."""
    with taps_made(all_moves) as ports:
        it = Fleet(net=all_moves, machine=TapGuest.start(*ports), directory=tmp_path)
        with contextlib.closing(it):
            it.machine.resume(0)
            it.place()
            yield it


def test_statement_21_twenty_guests_at_once_lose_nothing(fleet: Fleet) -> None:
    """Four have two interfaces: each has a ring of its own."""
    for version, port, anybody in ((4, "7001", "0.0.0.0"), (6, "7002", "::")):
        fleet.begin(f"{version} came", "receive", GUEST, anybody, port)
        addresses = ",".join(each.ips[version] for each in INTERFACES)
        fleet.begin(f"{version} sent", "send", "x", addresses, port, EVERY_US)
    for pause_ms in PAUSES_MS:
        fleet.prepare()
        assert 0 < fleet.net.held_octets(fleet.at) <= bounds.NODE_BLOCKS * bounds.BLOCK_SIZE
        holds = fleet.switch(pause_ms)
        assert [(hold["dropped"], hold.get("reason")) for hold in holds] == [
            (0, None) for _ in INTERFACES
        ]
        assert sum(hold["resent"] for hold in holds) > GUESTS
        fleet.conclude()
    found = fleet.finish()
    for version in (4, 6):
        sent, came = found[f"{version} sent"], found[f"{version} came"]
        assert len(sent) > ENOUGH
        missing = lost(sent, came)
        assert missing == {}, fleet.since_stops(missing.values())
    assert [fleet.net.held_octets(node) for node in NODES[:2]] == [0, 0]
