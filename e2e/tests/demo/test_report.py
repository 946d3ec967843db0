"""The report says what was measured, and what of it is too bad."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from handover_api.workloadendpoint import Hold, HoldReason
from handover_lab.demo import report
from handover_lab.demo.report import Counted, Migration, Report, Told
from handover_lab.network.measure import Packet, Switchover

MS = 10**6
GOOD = Migration(
    source="node-a",
    target="node-b",
    guest_pause_ms=6.0,
    announcement_to_route_us=412.5,
    announcement_to_redirect_us=980.0,
    outage_ms=35.0,
    sent=2_000,
    lost=0,
    lost_after_resume=0,
    lost_after_switch=0,
    lost_by_guest=0,
    late=12,
    longest_late_ms=34.6,
    doubled=2,
    hold={"held": 14, "resent": 14, "doubled": 2, "dropped": 0, "reason": None},
    signal="RARP",
    tcp_survived=True,
)
BASELINE = replace(
    GOOD,
    announcement_to_route_us=None,
    announcement_to_redirect_us=None,
    outage_ms=1014.0,
    lost=1012,
    lost_after_resume=1003,
    lost_after_switch=1003,
    lost_by_guest=None,
    late=0,
    longest_late_ms=None,
    doubled=0,
    hold=None,
    signal=None,
)


@pytest.mark.parametrize(
    ("migration", "faults"),
    [
        (GOOD, ()),
        (replace(GOOD, signal=None), ("node-a → node-b: the agent reported no cutover",)),
        (replace(GOOD, outage_ms=None), ("node-a → node-b: the pings never came back",)),
        (replace(GOOD, tcp_survived=False), ("node-a → node-b: the TCP session broke",)),
    ],
    ids=["good", "no cutover", "silent", "broken"],
)
def test_faults_of(migration: Migration, faults: tuple[str, ...]) -> None:
    assert faults == Report((GOOD, migration), BASELINE).faults


def test_one_packet_that_is_lost_on_its_way_is_a_fault_and_none_that_the_guest_had() -> None:
    flows = {
        "ping": Counted(12_345, 3, 2),
        "ping v6": Counted(1_234, 2, 2),
        "UDP echo": Counted(1_234, 2),
    }

    assert Report((GOOD,), flows=flows).faults == (
        "ping: 1 of 12,345 lost on their way to the guest",
    )


def test_a_fault_on_a_busy_machine_comes_with_what_to_do() -> None:
    found = Report((GOOD,))
    assert "busy (load 9.3 on 2 processors)" in found.advice(9.3, 2)
    assert "timeline.txt" in found.advice(3.9, 2)


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    console = Console(width=80)
    long = replace(
        GOOD,
        outage_ms=9999,
        lost=10_234,
        lost_after_switch=10_234,
        lost_by_guest=10_234,
        late=10_234,
        longest_late_ms=9999,
        hold={"held": 10_234, "resent": 10_234, "reason": "TooMuch"},
        signal="GratuitousARP",
    )
    with console.capture() as shown:
        console.print(Report((GOOD, long), BASELINE).table())

    assert max(map(len, shown.get().splitlines())) <= 80
    assert "…" not in shown.get()
    assert shown.get().count("node-a → node-b") == 3
    assert "9,999" in shown.get()


def test_a_report_of_nothing_is_no_success() -> None:
    assert Report(()).faults == ("no migration took place",)


SWITCHOVER = Switchover(-300 * MS, 0, 6 * MS)
HOLD = Hold(held=14, resent=14, doubled=2, dropped=0)


def measured(
    pings: list[Packet], hold: Hold | None = HOLD, lost_ns: tuple[int, ...] = ()
) -> Migration:
    """Sum up a migration of these pings, whose switch was over 9 ms after the stop.

    At *lost_ns* those were sent that came to no guest.
    """
    told = Told("RARP", 412.5, 980.0, 9 * MS, hold)
    way = ("node-a", "node-b")
    return Migration.measured(way, SWITCHOVER, pings, lost_ns=lost_ns, told=told, tcp_survived=True)


def test_a_migration_is_summed_up_from_its_pings() -> None:
    pings = [
        Packet(-1 * MS, 0),
        Packet(0, 34_600_000, is_doubled=True),
        *(Packet(at * MS, 35 * MS) for at in (1, 2, 3, 4, 5)),
        Packet(6 * MS, 35 * MS),
    ]

    expected = replace(GOOD, sent=8, late=6, longest_late_ms=34.6, doubled=1)
    assert replace(expected, outage_ms=34.6) == measured(pings)


@pytest.mark.parametrize("hold", [HOLD, None], ids=["all sent again, they say", "nothing is said"])
def test_what_had_no_answer_is_lost_whatever_is_said_of_it(hold: Hold | None) -> None:
    sent = (-200 * MS, 2 * MS, 7 * MS, 9 * MS - 1, 9 * MS)
    pings = [Packet(-1 * MS, 0), *(Packet(at, None) for at in sent), Packet(10 * MS, 35 * MS)]

    found = measured(pings, hold, sent[1:])

    assert (found.lost, found.lost_after_resume, found.lost_after_switch) == (5, 3, 1)
    assert found.lost_by_guest == 1
    assert (found.late, found.longest_late_ms, found.doubled) == (0, None, 0)


@given(
    st.lists(
        st.tuples(st.integers(-99, 99), st.none() | st.integers(0, 99), st.booleans()), max_size=50
    )
)
def test_each_ping_is_lost_or_answered_and_only_answered_ones_are_late(
    pings: list[tuple[int, int | None, bool]],
) -> None:
    packets = [
        Packet(sent * MS, None if trip is None else (sent + trip) * MS, is_doubled)
        for sent, trip, is_doubled in pings
    ]

    found = measured(packets)

    answered = sum(trip is not None for _, trip, _ in pings)
    assert found.sent == found.lost + answered == len(pings)
    assert found.late <= answered
    assert found.lost_after_switch <= found.lost_after_resume <= found.lost
    assert Counted.of(packets)[:2] == (found.sent, found.lost)


def test_what_was_not_sent_again_says_why() -> None:
    hold = Hold(held=40, resent=30, doubled=0, dropped=10, reason=HoldReason.TOO_MUCH)

    shown = report.values(measured([], hold))

    assert (shown["held by the source"], shown["  sent again"]) == ("40", "30 TooMuch")


def test_each_lost_packet_of_a_flow_is_named_by_when_it_was_sent() -> None:
    packets = [Packet(1_250 * MS, None), Packet(2_000 * MS, 2_001 * MS)]

    assert Counted.of(packets, began_ns=1_000 * MS) == Counted(2, 1, None, (0.25,))
    assert Counted.of(packets, (), 1_000 * MS).lost_by_guest == 1
    assert Counted.of(packets, (1_250 * MS,), 1_000 * MS).lost_by_guest == 0


def test_all_flows_are_counted_from_begin_to_end() -> None:
    flows = {"ping": Counted(12_345, 0, 0), "v6": Counted(99, 3, 2), "UDP": Counted(1_234, 2)}

    assert Report((GOOD,), flows=flows).in_all() == (
        "Lost with Handover, from begin to end:\n"
        "ping 0 of 12,345, v6 3 of 99 (2 by the guest), UDP 2 of 1,234"
    )
    assert Report((GOOD,)).in_all() == ""


def test_the_file_has_the_promised_fields() -> None:
    written = json.loads(json.dumps(Report((GOOD,), BASELINE, {"bird": "2.0.12"}).to_object()))

    assert {"migrations", "baseline", "carrier", "versions", "flows"} == written.keys()
    for row in (*written["migrations"], written["baseline"]):
        assert row.keys() >= {
            "guest_pause_ms",
            "announcement_to_route_us",
            "announcement_to_redirect_us",
            "outage_ms",
            "lost",
            "lost_after_resume",
            "lost_after_switch",
            "lost_by_guest",
            "late",
            "longest_late_ms",
            "doubled",
            "hold",
            "signal",
            "tcp_survived",
        }


def test_the_table_names_the_run_without_handover() -> None:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(Report((GOOD,), BASELINE).table())

    assert "without Handover" in shown.get()
    assert "0.41 ms" in shown.get()
    assert "0.98 ms" in shown.get()
    assert re.search(r"pings lost in all +0 +1,012\n", shown.get())
    assert re.search(r"the longest took +35 ms +-\n", shown.get())


def test_a_version_is_read_and_a_missing_part_is_left_out() -> None:
    more = {"shell": ("sh", "-c", "echo shell v1.2.3-rc1 of 2026"), "none": ("/no/such/program",)}

    found = report.versions(more)

    assert found["shell"] == "1.2.3-rc1"
    assert "none" not in found
    assert "linux" in found
