"""The report says what was measured, and what of it is too bad."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from handover_lab.demo import report
from handover_lab.demo.report import Migration, Report, Told
from handover_lab.network.measure import Packet, Switchover

MS = 10**6
GOOD = Migration(
    source="node-a",
    target="node-b",
    guest_pause_ms=6.0,
    announcement_to_route_us=412.5,
    announcement_to_redirect_us=980.0,
    outage_ms=35.0,
    lost=9,
    lost_after_resume=5,
    lost_after_switch=3,
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
    signal=None,
)


@pytest.mark.parametrize(
    ("migration", "faults"),
    [
        (GOOD, ()),
        (replace(GOOD, lost_after_switch=10), ()),
        (
            replace(GOOD, lost_after_switch=11),
            ("node-a → node-b: 11 pings lost after the switch, 10 allowed",),
        ),
        (replace(GOOD, signal=None), ("node-a → node-b: the agent reported no cutover",)),
        (replace(GOOD, outage_ms=None), ("node-a → node-b: the pings never came back",)),
        (replace(GOOD, tcp_survived=False), ("node-a → node-b: the TCP session broke",)),
    ],
    ids=["good", "at the limit", "above it", "no cutover", "silent", "broken"],
)
def test_faults_of(migration: Migration, faults: tuple[str, ...]) -> None:
    assert faults == Report((GOOD, migration), BASELINE).faults


def test_a_fault_on_a_busy_machine_comes_with_what_to_do() -> None:
    found = Report((GOOD,))
    assert "busy (load 9.3 on 2 processors)" in found.advice(9.3, 2)
    assert "timeline.txt" in found.advice(3.9, 2)


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    console = Console(width=80)
    long = replace(
        GOOD, outage_ms=9999, lost=10_234, lost_after_switch=10_234, signal="GratuitousARP"
    )
    with console.capture() as shown:
        console.print(Report((GOOD, long), BASELINE).table())

    assert max(map(len, shown.get().splitlines())) <= 80
    assert "…" not in shown.get()
    assert sum("node-a → node-b" in line for line in shown.get().splitlines()) == 3
    assert "9,999" in shown.get()


def test_a_report_of_nothing_is_no_success() -> None:
    assert Report(()).faults == ("no migration took place",)


def test_a_migration_is_summed_up_from_its_pings() -> None:
    sent = (7 * MS, 8 * MS, 9 * MS - 1, 9 * MS)
    pings = [Packet(-1 * MS, 0), *(Packet(at, None) for at in sent), Packet(10 * MS, 35 * MS)]

    measured = Migration.measured(
        ("node-a", "node-b"),
        Switchover(-300 * MS, 0, 6 * MS),
        pings,
        told=Told("RARP", 412.5, 980.0, 9 * MS),
        tcp_survived=True,
    )

    assert replace(GOOD, lost=4, lost_after_resume=4, lost_after_switch=1) == measured


def test_the_file_has_the_promised_fields() -> None:
    written = json.loads(json.dumps(Report((GOOD,), BASELINE, {"bird": "2.0.12"}).to_object()))

    assert {"migrations", "baseline", "carrier", "versions"} == written.keys()
    for row in (*written["migrations"], written["baseline"]):
        assert row.keys() >= {
            "guest_pause_ms",
            "announcement_to_route_us",
            "announcement_to_redirect_us",
            "outage_ms",
            "lost",
            "lost_after_resume",
            "lost_after_switch",
            "signal",
            "tcp_survived",
        }


def test_the_table_names_the_run_without_handover() -> None:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(Report((GOOD,), BASELINE).table())

    assert "without Handover" in shown.get()
    assert "0.41" in shown.get()
    assert "0.98" in shown.get()
    assert "after the" in shown.get()


def test_a_version_is_read_and_a_missing_part_is_left_out() -> None:
    more = {"shell": ("sh", "-c", "echo shell v1.2.3-rc1 of 2026"), "none": ("/no/such/program",)}

    found = report.versions(more)

    assert found["shell"] == "1.2.3-rc1"
    assert "none" not in found
    assert "linux" in found
