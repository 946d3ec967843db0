"""A cutover's figures from the times that the source and the other nodes tell."""

import datetime as dt
from typing import Final

import pytest

from handover_api.workloadendpoint import Cutover, Signal
from handover_nodeagent.peers.clocks import Offset
from handover_nodeagent.peers.messages import NEVER, Times
from handover_nodeagent.peers.sink import Acknowledgment, Done
from handover_nodeagent.reconcile import cutover_figures
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown

MS: Final = 1_000_000
ANNOUNCED: Final = 1_000_000 * MS
CUTOVER: Final = Cutover(
    signal=Signal.RARP,
    announcement_to_route_microseconds=300,
    time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    migration_uid="m1",
)


def told(
    redirected_ms: float,
    last_frame: LastFrame | None,
    *,
    ahead_ms: int = 0,
    error_ms: int = 0,
    is_compared: bool = True,
) -> Cutover:
    """Say what follows from times that are counted from the announcement, by the source's clock."""
    ahead = ahead_ms * MS
    done_ns = ANNOUNCED + int(redirected_ms * MS) + ahead
    times = Times(done_ns, done_ns, *(last_frame or (NEVER, 0)))
    offset = Offset(ahead, error_ms * MS) if is_compared else None
    ack = Acknowledgment(ANNOUNCED, ANNOUNCED + MS, times, offset, is_bystanders=False)
    return cutover_figures.with_source(CUTOVER, ANNOUNCED, ack)


@pytest.mark.parametrize("ahead_ms", [-3_600_000, -1, 0, 1, 3_600_000])
def test_the_sources_clock_is_brought_to_ours(ahead_ms: int) -> None:
    last = LastFrame(ANNOUNCED - 40 * MS + ahead_ms * MS, 2 * MS)
    cutover = told(0.7, last, ahead_ms=ahead_ms, error_ms=1)
    assert cutover.announcement_to_redirect_microseconds == 700
    assert cutover.guest_silence_microseconds == 40_000
    assert cutover.clock_error_microseconds == 3_000


def test_what_was_known_before_stays() -> None:
    cutover = told(0.7, None)
    assert cutover.announcement_to_route_microseconds == 300
    assert cutover.migration_uid == "m1"


def test_an_unknown_last_frame_leaves_the_silence_out() -> None:
    cutover = told(0.7, None)
    assert cutover.guest_silence_microseconds is None
    assert cutover.clock_error_microseconds is None


@pytest.mark.parametrize(
    ("redirected_ms", "expected"),
    [
        pytest.param(0.0, 0, id="at once"),
        pytest.param(-5, 0, id="not before the announcement"),
        pytest.param(7, 1_000, id="not after its news"),
    ],
)
def test_a_redirect_is_where_it_can_be(redirected_ms: float, expected: int) -> None:
    assert told(redirected_ms, None).announcement_to_redirect_microseconds == expected


def test_where_no_clocks_were_compared_the_news_is_all_that_is_known() -> None:
    cutover = told(0.7, LastFrame(ANNOUNCED), ahead_ms=50, is_compared=False)
    assert cutover.announcement_to_redirect_microseconds == 1_000
    assert cutover.guest_silence_microseconds is None


def test_the_source_answers_with_what_it_knows() -> None:
    assert cutover_figures.done(7, LastFrame(5, 2)) == Done(7, 5, 2)
    assert cutover_figures.done(7, Unknown("there is no ring")) == Done(7)


def test_a_last_frame_after_the_announcement_is_no_silence() -> None:
    assert told(0.7, LastFrame(ANNOUNCED + MS)).guest_silence_microseconds == 0


def test_an_error_is_rounded_up() -> None:
    assert told(0.7, LastFrame(ANNOUNCED, 1)).clock_error_microseconds == 1


def test_the_last_of_the_nodes_counts_and_the_silent_ones_too() -> None:
    arrivals = [ANNOUNCED + 2 * MS, ANNOUNCED + MS]
    cutover = cutover_figures.with_nodes(CUTOVER, ANNOUNCED, 3, arrivals)
    assert cutover.announcement_to_last_node_microseconds == 2_000
    assert (cutover.nodes_followed, cutover.nodes_silent) == (2, 1)


def test_where_nobody_followed_there_is_no_last_one() -> None:
    cutover = cutover_figures.with_nodes(CUTOVER, ANNOUNCED, 2, [])
    assert cutover.announcement_to_last_node_microseconds is None
    assert (cutover.nodes_followed, cutover.nodes_silent) == (0, 2)


def test_a_node_that_left_meanwhile_is_not_silent() -> None:
    cutover = cutover_figures.with_nodes(CUTOVER, ANNOUNCED, 1, [ANNOUNCED, ANNOUNCED])
    assert (cutover.nodes_followed, cutover.nodes_silent) == (2, 0)
