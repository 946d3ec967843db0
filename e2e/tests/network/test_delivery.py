"""Which pings the network has lost, by what came to the guest's port on each node."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_lab.network import delivery
from handover_lab.network.delivery import AHEAD, WRAP
from handover_lab.network.measure import Packet, Switchover

MS = 10**6
NOWHERE = frozenset[int]()
HERE = frozenset({0})


@dataclass(frozen=True)
class Moved:
    """A move of the guest, which stopped then and ran again 40 ms later."""

    source: str
    target: str
    stopped_ms: int

    @property
    def switchover(self) -> Switchover:
        """When."""
        return Switchover(0, self.stopped_ms * MS, (self.stopped_ms + 40) * MS)


THERE_AND_BACK = delivery.stays((Moved("a", "b", 1_000), Moved("b", "a", 9_000)))

CASES = {
    "answered": (1_010, 1_100, NOWHERE, NOWHERE, 0),
    "sent in the pause, and came nowhere": (1_010, None, NOWHERE, NOWHERE, 1),
    "sent in the pause, and lies in the source's port": (1_010, None, HERE, NOWHERE, 1),
    "sent in the pause, sent again, and lost by the guest": (1_010, None, HERE, HERE, 0),
    "sent after it, and lost by the guest": (1_100, None, NOWHERE, HERE, 0),
    "sent after it, and lost on the way": (1_100, None, NOWHERE, NOWHERE, 1),
    "sent after it, and came to where the guest no longer is": (1_100, None, HERE, NOWHERE, 1),
    "sent just before the stop, and maybe never taken": (960, None, HERE, NOWHERE, 1),
    "held since long before the stop, and lost by the guest": (100, None, NOWHERE, HERE, 0),
    "sent long before the stop, and lost by the guest": (940, None, HERE, NOWHERE, 0),
    "sent long before the stop, and lost on the way": (940, None, NOWHERE, NOWHERE, 1),
    "sent before anybody looked": (40, None, NOWHERE, NOWHERE, 0),
    "sent before it came back, and too early where it went": (5_000, None, HERE, NOWHERE, 1),
    "sent in the second pause, sent again, and lost by the guest": (9_010, None, HERE, HERE, 0),
    "sent in the second pause, and lies where it was": (9_010, None, NOWHERE, HERE, 1),
    "sent after it came back, and lost by the guest": (20_000, None, HERE, NOWHERE, 0),
}


@pytest.mark.parametrize(
    ("sent_ms", "answered_ms", "a", "b", "expected"), CASES.values(), ids=CASES
)
def test_a_ping_is(
    *, sent_ms: int, answered_ms: int | None, a: frozenset[int], b: frozenset[int], expected: int
) -> None:
    ping = Packet(sent_ms * MS, None if answered_ms is None else answered_ms * MS)
    found = delivery.lost([ping], {"a": a, "b": b}, THERE_AND_BACK, 50 * MS)
    assert found == (sent_ms * MS,) * expected


def test_all_of_a_flow_are_counted() -> None:
    pings = [Packet(at * MS, None) for at in range(1_000, 1_040)]
    delivered = {"a": NOWHERE, "b": frozenset(range(30))}
    found = delivery.lost(pings, delivered, THERE_AND_BACK)
    assert found == tuple(range(1_030 * MS, 1_040 * MS, MS))


@given(st.integers(0, 10 * WRAP), st.integers(1 - AHEAD, WRAP - AHEAD))
def test_a_sequence_number_is_that_of_the_last_ping_which_had_it(sent: int, ago: int) -> None:
    """Also where it is so new that nobody has told yet that it was sent."""
    number = sent - ago
    assert delivery.numbers({number % WRAP}, sent) == {number}
