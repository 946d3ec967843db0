"""Which pings the network has lost, by what came to the guest's port on either side."""

import pytest

from handover_lab.bench.outage import delivery
from handover_lab.bench.outage.delivery import Delivered
from handover_lab.network.measure import Packet, Switchover
from handover_lab.network.ping_record import WRAP

MS = 10**6
SWITCHOVER = Switchover(0, 1000 * MS, 1040 * MS)
NOWHERE = frozenset[int]()
HERE = frozenset({1})

CASES = {
    "answered": (1010, 1100, NOWHERE, NOWHERE, 0),
    "sent in the pause, and came nowhere": (1010, None, NOWHERE, NOWHERE, 1),
    "sent in the pause, and lies in the source's port": (1010, None, HERE, NOWHERE, 1),
    "sent in the pause, sent again, and lost by the guest": (1010, None, HERE, HERE, 0),
    "sent after it, and lost by the guest": (1100, None, NOWHERE, HERE, 0),
    "sent after it, and lost on the way": (1100, None, NOWHERE, NOWHERE, 1),
    "sent just before the stop, and maybe never taken": (960, None, HERE, NOWHERE, 1),
    "sent long before the stop, and lost by the guest": (940, None, HERE, NOWHERE, 0),
    "sent long before the stop, and lost on the way": (940, None, NOWHERE, NOWHERE, 1),
    "sent before the migration began": (490, None, NOWHERE, NOWHERE, 0),
}


@pytest.mark.parametrize("first", [0, WRAP])
@pytest.mark.parametrize(
    ("sent_ms", "answered_ms", "source", "target", "expected"), CASES.values(), ids=CASES
)
def test_a_ping_is(
    *,
    first: int,
    sent_ms: int,
    answered_ms: int | None,
    source: frozenset[int],
    target: frozenset[int],
    expected: int,
) -> None:
    pings = [Packet(0, 1)] * (first + 1)
    pings.append(Packet(sent_ms * MS, None if answered_ms is None else answered_ms * MS))
    delivered = Delivered(source, target)
    assert delivery.lost(pings, delivered, 500 * MS, SWITCHOVER) == (sent_ms * MS,) * expected


def test_all_of_a_flow_are_counted() -> None:
    pings = [Packet(at * MS, None) for at in range(1000, 1040)]
    delivered = Delivered(target=frozenset(range(30)))
    assert delivery.lost(pings, delivered, 0, SWITCHOVER) == tuple(range(1030 * MS, 1040 * MS, MS))
