"""A row's figures from its migrations, and what of them is a fault."""

import dataclasses
from typing import Any, Final

import pytest

from handover_lab.bench.outage import figures
from handover_lab.bench.outage.figures import Sample
from handover_lab.bench.outage.moments import Moments
from handover_lab.bench.outage.rows import Row
from handover_lab.network.measure import Packet, Switchover

MS: Final = 1_000_000
SWITCHOVER: Final = Switchover(0, 100 * MS, 140 * MS)
ROW: Final = Row("segment", "bird", redirect=True)
PLAIN: Final = dataclasses.replace(ROW, redirect=False)
SAMPLE: Final = Sample(40.0, 30, 0, 60.0, 90.0, Moments(0, 300_000, 900_000, 400_000, 950_000))


def packets(every_ms: int, lost: range) -> list[Packet]:
    """Send for a second; what was sent in *lost* has no answer, all else one after 1 ms."""
    return [
        Packet(at * MS, None if at in lost else (at + 1) * MS) for at in range(0, 1000, every_ms)
    ]


def test_a_migration_is_measured_by_its_pings_and_its_session() -> None:
    sample = Sample.of(
        [packets(1, range(100, 143))], packets(20, range(100, 200)), SWITCHOVER, None, {}
    )
    assert (sample.pause_ms, sample.lost, sample.lost_after_switch) == (40.0, 43, 3)
    assert (sample.silence_ms, sample.tcp_gap_ms) == (44.0, 120.0)
    assert sample.beyond_pause(sample.tcp_gap_ms) == 80.0


def test_the_switch_is_when_the_agents_have_done_their_part() -> None:
    flows = [packets(1, range(100, 143))]
    for moments, after in (
        (None, 3),
        (Moments(140 * MS), 3),
        (Moments(140 * MS, routed_ns=141 * MS), 2),
        (Moments(140 * MS, routed_ns=141 * MS, redirected_ns=142 * MS), 1),
        (Moments(140 * MS, routed_ns=141 * MS, redirected_ns=143 * MS), 0),
    ):
        sample = Sample.of(flows, packets(20, range(0)), SWITCHOVER, moments, {})
        assert (sample.lost_after_switch, sample.lost_after_resume) == (after, 3)


def test_whoever_lost_most_after_the_switch_counts() -> None:
    flows = [packets(1, range(0)), packets(4, range(100, 160))]
    sample = Sample.of(flows, packets(20, range(0)), SWITCHOVER, None, {})
    assert (sample.lost, sample.lost_after_switch) == (0, 5)


def test_what_a_guest_loses_before_it_moves_is_no_networks() -> None:
    late = Switchover(0, 900 * MS, 940 * MS)
    flows = [packets(1, range(100, 103)), packets(1, range(845, 860))]
    sample = Sample.of(flows, packets(20, range(0)), late, None, {})
    # Five of the second flow were sent before any could have been on its way at the stop.
    assert sample.lost_before == 5
    assert Sample.of(flows[:1], packets(20, range(0)), late, None, {}).lost_before == 3
    assert figures.lost_before(packets(1, range(900, 940)), late) == 0


def test_a_flow_that_never_came_back_has_no_silence() -> None:
    sample = Sample.of([packets(1, range(100, 1000))], packets(20, range(0)), SWITCHOVER, None, {})
    assert sample.silence_ms is None
    assert sample.beyond_pause(sample.silence_ms) is None


def test_a_line_has_what_others_read_of_it() -> None:
    others = dataclasses.replace(SAMPLE, lost_after_switch=4, silence_ms=None, moments=None)
    told = {"announcementToRedirectMicroseconds": 880, "signal": "RARP"}
    line = figures.line(ROW, 6, [SAMPLE, others, dataclasses.replace(SAMPLE, reported=told)], 3)
    assert line["reported_redirect_us_p50"] == 880.0
    assert line["reported_guest_silence_us_p50"] is None
    assert line["n"] == 3
    assert (line["carrier"], line["redirect"]) == ("bird", True)
    assert (line["topology"], line["family"]) == ("segment", 6)
    assert (line["lost_after_switch_max"], line["lost_after_switch_median"]) == (4, 0.0)
    assert line["silence_minus_pause_ms_median"] == 20.0
    assert line["tcp_gap_minus_pause_ms_median"] == 50.0
    assert line["announcement_to_redirect_us_p50"] == 900.0
    assert line["announcement_to_last_node_us_p50"] is None
    assert line["have_to_ack_us_p50"] == 550.0
    assert line["flows_that_never_came_back"] == 1


def line(*, redirect: bool = True, **changes: Any) -> dict[str, Any]:
    row = ROW if redirect else PLAIN
    floor = Moments(0, floor_ns=300_000)
    sample = SAMPLE if redirect else dataclasses.replace(SAMPLE, moments=floor)
    return {**figures.line(row, 4, [sample], 1), **changes}


def test_a_row_of_which_nothing_was_measured_has_a_line_all_the_same() -> None:
    empty = figures.line(ROW, 4, [], 10)
    assert (empty["n"], empty["failed"], empty["lost_after_switch_max"]) == (0, 10, None)
    assert "10 migrations could not be measured" in "".join(figures.faults([empty]))


def test_the_redirect_is_a_multiple_of_the_program_that_ran_without_it() -> None:
    assert figures.ratio([line(), line(redirect=False)]) == 3.0
    assert figures.ratio([line()]) is None


def test_what_reaches_all_has_no_fault() -> None:
    assert list(figures.faults([line(), line(redirect=False, lost_after_switch_max=900)])) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"failed": 2},
            "bird + redirect, segment, IPv4: 2 migrations could not be measured (a busy machine?)",
        ),
        ({"lost_after_switch_max": 2}, "bird + redirect, segment, IPv4: 2 lost after the switch"),
        (
            {"announcement_to_redirect_us_p50": None},
            "bird + redirect, segment, IPv4: nobody saw a redirect",
        ),
        (
            {"flows_that_never_came_back": 1},
            "bird + redirect, segment, IPv4: 1 flows never came back",
        ),
        (
            {"announcement_to_redirect_us_p50": 1000.0},
            "the redirect took 3.3 times as long as the C program, not 3",
        ),
    ],
)
def test_what_is_not_reached_is_said(changes: dict[str, Any], expected: str) -> None:
    assert list(figures.faults([line(**changes), line(redirect=False)])) == [expected]
