"""A row's figures from its migrations, and what of them is a fault."""

import dataclasses
from typing import Any, Final

import pytest

from handover_lab.bench.outage import figures
from handover_lab.bench.outage.figures import Flows, Sample, Source
from handover_lab.bench.outage.moments import Moments
from handover_lab.bench.outage.rows import Row
from handover_lab.network.measure import Packet, Switchover

MS: Final = 1_000_000
SWITCHOVER: Final = Switchover(0, 100 * MS, 140 * MS)
ROW: Final = Row("segment", "bird", redirect=True)
PLAIN: Final = dataclasses.replace(ROW, redirect=False)
RESEND: Final = dataclasses.replace(ROW, resend=True)
SAMPLE: Final = Sample(
    *(40.0, 30, 0, 60.0, 90.0, Moments(0, 300_000, 900_000, 400_000, 950_000)),
    request_gap_ms=130.0,
    wakeup_ms=60.0,
    answer_ms=80.0,
    source=Source(70.0, 20.0),
)


def packets(every_ms: int, lost: range) -> list[Packet]:
    """Send for a second; what was sent in *lost* has no answer, all else one after 1 ms."""
    return [
        Packet(at * MS, None if at in lost else (at + 1) * MS) for at in range(0, 1000, every_ms)
    ]


def test_a_migration_is_measured_by_its_pings_and_its_session() -> None:
    flows = Flows([packets(1, range(100, 143))], packets(20, range(100, 200)))
    sample = Sample.of(flows, SWITCHOVER, None, {})
    assert (sample.pause_ms, sample.lost, sample.lost_after_switch) == (40.0, 43, 3)
    assert (sample.silence_ms, sample.tcp_gap_ms) == (44.0, 120.0)
    assert sample.beyond_pause(sample.tcp_gap_ms) == 80.0


def test_the_switch_is_when_the_agents_have_done_their_part() -> None:
    flows = Flows([packets(1, range(100, 143))], packets(20, range(0)))
    for moments, after in (
        (None, 3),
        (Moments(140 * MS), 3),
        (Moments(140 * MS, routed_ns=141 * MS), 2),
        (Moments(140 * MS, routed_ns=141 * MS, redirected_ns=142 * MS), 1),
        (Moments(140 * MS, routed_ns=141 * MS, redirected_ns=143 * MS), 0),
    ):
        sample = Sample.of(flows, SWITCHOVER, moments, {})
        assert (sample.lost_after_switch, sample.lost_after_resume) == (after, 3)


def test_whoever_lost_most_after_the_switch_counts() -> None:
    flows = Flows([packets(1, range(0)), packets(4, range(100, 160))], packets(20, range(0)))
    sample = Sample.of(flows, SWITCHOVER, None, {})
    assert (sample.lost, sample.lost_after_switch) == (0, 5)


def test_what_a_guest_loses_before_it_moves_is_no_networks() -> None:
    late = Switchover(0, 900 * MS, 940 * MS)
    pings = [packets(1, range(100, 103)), packets(1, range(845, 860))]
    session = packets(20, range(0))
    sample = Sample.of(Flows(pings, session), late, None, {})
    # Five of the second flow were sent before any could have been on its way at the stop.
    assert sample.lost_before == 5
    assert Sample.of(Flows(pings[:1], session), late, None, {}).lost_before == 3
    assert figures.lost_before(packets(1, range(900, 940)), late) == 0


def test_a_flow_that_never_came_back_has_no_silence() -> None:
    flows = Flows([packets(1, range(100, 1000))], packets(20, range(0)))
    sample = Sample.of(flows, SWITCHOVER, None, {})
    assert sample.silence_ms is None
    assert sample.beyond_pause(sample.silence_ms) is None


@pytest.mark.parametrize(
    ("moments", "wakeup", "answer", "beyond"),
    [
        (None, None, None, None),
        (Moments(140 * MS), None, None, None),
        (Moments(140 * MS, asked_ns=142 * MS), None, None, None),
        # It lay there when the guest woke up, or came only then: that is not the guest's.
        (Moments(140 * MS, answered_ns=242 * MS), None, 102.0, 8.0),
        (Moments(140 * MS, waiting_ns=97 * MS, answered_ns=242 * MS), None, 105.0, 5.0),
        (Moments(140 * MS, waiting_ns=120 * MS, answered_ns=242 * MS), None, 102.0, 8.0),
        (Moments(140 * MS, asked_ns=144 * MS, answered_ns=242 * MS), None, 98.0, 12.0),
        (Moments(140 * MS, asked_ns=240 * MS, answered_ns=242 * MS), None, 2.0, 108.0),
        (Moments(140 * MS, awake_ns=200 * MS), 60.0, None, None),
    ],
)
def test_a_client_waits_for_the_pause_the_guests_answer_and_what_is_the_networks(
    moments: Moments | None, wakeup: float | None, answer: float | None, beyond: float | None
) -> None:
    flows = Flows([packets(1, range(0))], packets(20, range(0)), packets(5, range(100, 245)))
    sample = Sample.of(flows, SWITCHOVER, moments, {})
    assert (sample.request_gap_ms, sample.wakeup_ms, sample.answer_ms) == (150.0, wakeup, answer)
    assert sample.gap_beyond(sample.answer_ms) == beyond


def test_what_was_counted_of_a_migration_is_taken_over() -> None:
    flows = Flows([packets(1, range(0))], (), (), [1, 2, 3], 2, 1)
    sample = Sample.of(flows, SWITCHOVER, None, {}, Source(70.0, 20.0))
    assert (sample.lost_total, sample.duplicates, sample.dropped) == (3, 2, 1)
    assert sample.source == Source(70.0, 20.0)


def test_without_a_client_that_asks_there_is_no_gap() -> None:
    sample = Sample.of(Flows([packets(1, range(0))], ()), SWITCHOVER, Moments(0, awake_ns=1), {})
    assert sample.gap_beyond(sample.wakeup_ms) is None


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


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            [{"lost_at_ms": []}, {"lost_at_ms": [1.0] * 7}, {}],
            {"lost_total_max": 7, "lost_total_median": 0.0},
        ),
        (
            [{"duplicates": 1}, {"duplicates": 4}, {"duplicates": 1}],
            {"duplicates_max": 4, "duplicates_median": 1.0},
        ),
        ([{}, {"dropped": 5}], {"dropped_at_port_max": 5}),
        ([{"wakeup_ms": 50.0}, {}, {"wakeup_ms": None}], {"wakeup_ms_median": 55.0}),
        (
            [{"wakeup_ms": 50.0}, {}, {"wakeup_ms": None}],
            {"tcp_gap_minus_pause_and_first_frame_ms_median": 35.0},
        ),
        ([{"answer_ms": 70.0}, {}, {"answer_ms": None}], {"answer_ms_median": 75.0}),
        (
            [{}, {"request_gap_ms": 150.0}, {"answer_ms": None}],
            {
                "tcp_gap_minus_pause_and_wakeup_ms_median": 20.0,
                "tcp_gap_minus_pause_and_wakeup_ms_max": 30.0,
            },
        ),
        ([{"request_gap_ms": None}, {}], {"flows_that_never_came_back": 1}),
        (
            [{}, {"source": None}, {"source": Source(74.0, 30.0)}],
            {"source_memory_mib_median": 72.0, "source_cpu_ms_per_s_median": 25.0},
        ),
    ],
)
def test_a_column_sums_up_its_migrations(
    changes: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    samples = [dataclasses.replace(SAMPLE, **each) for each in changes]
    found = figures.line(RESEND, 4, samples, len(samples))
    assert {name: found[name] for name in expected} == expected


def line(*, redirect: bool = True, resend: bool = False, **changes: Any) -> dict[str, Any]:
    row = dataclasses.replace(ROW, redirect=redirect, resend=resend)
    floor = Moments(0, floor_ns=300_000)
    sample = SAMPLE if redirect else dataclasses.replace(SAMPLE, moments=floor)
    return {**figures.line(row, 4, [sample], 1), **changes}


def test_a_row_with_resend_is_compared_with_the_one_without() -> None:
    with_resend = line(
        resend=True,
        source_memory_mib_median=77.0,
        source_cpu_ms_per_s_median=None,
        announcement_to_redirect_us_p50=945.0,
    )
    lines = [line(redirect=False), line(), with_resend, line(resend=True, family=6)]
    plain, redirected, compared, alone = figures.compared(lines)
    assert [compared[name] for name in figures.COMPARED] == [1.1, None, 1.0, 1.05]
    for each in (plain, redirected, alone):
        assert [each[name] for name in figures.COMPARED] == [None] * 4
    assert figures.compared(figures.compared(lines)) == figures.compared(lines)


def test_a_row_of_which_nothing_was_measured_has_a_line_all_the_same() -> None:
    empty = figures.line(ROW, 4, [], 10)
    assert (empty["n"], empty["failed"], empty["lost_after_switch_max"]) == (0, 10, None)
    assert "10 migrations could not be measured" in "".join(figures.faults([empty]))


def test_the_redirect_is_a_multiple_of_the_program_that_ran_without_it() -> None:
    assert figures.ratio([line(), line(redirect=False)]) == 3.0
    assert figures.ratio([line()]) is None
    slow = line(resend=True, announcement_to_redirect_us_p50=5000.0)
    assert figures.ratio([line(), slow, line(redirect=False)]) == 3.0


def test_what_reaches_all_has_no_fault() -> None:
    plain = line(redirect=False, lost_after_switch_max=900, lost_total_max=950)
    lines = [plain, line(lost_total_max=40), line(resend=True)]
    assert list(figures.faults(figures.compared(lines))) == []


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


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lost_total_max": 1}, "1 lost in all"),
        (
            {"tcp_gap_minus_pause_and_wakeup_ms_median": 31.0},
            "a client waited 31 ms beyond pause and answer, not 30",
        ),
        (
            {"tcp_gap_minus_pause_and_wakeup_ms_median": None},
            "nobody saw a client's gap, or the guest's answer",
        ),
        ({"source_memory_mib_median": None}, "the source held nothing"),
    ],
)
def test_what_a_row_with_resend_does_not_reach_is_said(
    changes: dict[str, Any], expected: str
) -> None:
    name = "bird + redirect + resend, segment, IPv4"
    assert list(figures.faults([line(resend=True, **changes)])) == [f"{name}: {expected}"]
    assert list(figures.faults([line(**changes)])) == []


@pytest.mark.parametrize(
    ("ratios", "faults"),
    [
        ([1.0, 1.05], []),
        ([1.5, 1.0, 0.9], []),
        ([1.1, 1.1], ["with resend 1.10 times as long as without, not 1.05"]),
    ],
)
@pytest.mark.parametrize("part", ["route", "redirect"])
def test_a_cutover_is_judged_by_all_lines_together(
    part: str, ratios: list[float], faults: list[str]
) -> None:
    name = f"announcement_to_{part}_ratio"
    lines = [line(resend=True) | {name: each} for each in ratios]
    assert list(figures.faults(lines)) == [f"announcement to {part}: {each}" for each in faults]
