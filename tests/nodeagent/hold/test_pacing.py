"""How fast what was held is sent again: slower than it came, and soon enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.hold import pacing

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("count", "span_ns", "expected"),
    [
        pytest.param(0, 0, pacing.LEAST_RATE, id="nothing"),
        pytest.param(100, SECOND, pacing.LEAST_RATE, id="little"),
        pytest.param(8000, 0, 10_000, id="all of a moment within the time for all"),
        pytest.param(8000, 10 * SECOND, 10_000, id="what came slowly within the time for all"),
        pytest.param(8000, SECOND // 4, 16_000, id="half as many as came"),
        pytest.param(4000, SECOND // 2, 5000, id="the more of both"),
    ],
)
def test_a_rate_is_that_of(count: int, span_ns: int, expected: float) -> None:
    assert pacing.rate(count, span_ns) == expected


def test_what_a_tap_queues_and_a_guest_takes_bounds_all() -> None:
    """A tap queues 1000 frames; whoever changes a bound says so here, too."""
    assert (pacing.FIRST, pacing.LEAST_RATE) == (256, 4000)
    assert (pacing.TURN, pacing.LINGER) == (0.002, 0.3)


@given(st.integers(0, 60_000), st.integers(0, 20 * SECOND))
def test_all_is_sent_in_time(count: int, span_ns: int) -> None:
    rate = pacing.rate(count, span_ns)
    assert rate >= pacing.LEAST_RATE
    assert count / rate <= pacing.LATEST * 1.001


@pytest.mark.parametrize(("packets", "expected"), [(1, 1), (8, 1), (45, 45 / 8)])
def test_a_frame_costs_what_the_targets_tap_gets_of_it(packets: int, expected: float) -> None:
    assert pacing.cost(packets) == expected
