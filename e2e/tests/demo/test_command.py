"""The demonstration's words and files; what it shows is in the tests of the lab."""

import dataclasses
import io
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from handover_lab import paths
from handover_lab.demo import builds, command, demonstration, kubevirt
from handover_lab.demo.picture import Scene
from handover_lab.demo.report import Report
from handover_lab.guest import initramfs
from handover_lab.guest.vm import Move
from handover_lab.lab import Cutover, Migrated
from handover_lab.network.measure import Switchover
from handover_lab.network.traffic import Recording
from handover_lab.sandbox import sandbox
from handover_lab.terminal.screen import Screen

MS = 10**6
RESUMED = 1_000 * MS
MOVE = Move("node-a", "node-b", 0, Switchover(1 * MS, RESUMED - 6 * MS, RESUMED), 2_500 * MS)
CUTOVER = Cutover("RARP", 424.0, RESUMED + MS)


@pytest.fixture
def output() -> io.StringIO:
    """What a person reads."""
    return io.StringIO()


@pytest.fixture
def screen(output: io.StringIO) -> Screen:
    """A screen that is no terminal."""
    return Screen(Console(file=output, width=100, highlight=False))


def recording(lost: range, *, late: range = range(0), broken: bool = False) -> Recording:
    """Record 2000 packets, one per millisecond.

    Those in *lost* had no answer, those in *late* theirs 10 ms after the guest ran again.
    """
    seen = Recording(Path("none"), [number * MS for number in range(2000)], broken=broken)
    seen.answered = {n: n * MS + MS // 2 for n in range(2000) if n not in lost}
    seen.answered |= dict.fromkeys(late, RESUMED + 10 * MS)
    return seen


def flows(*, broken: bool = False) -> dict[str, Recording]:
    """Record a bad migration: two pings in the guest's pause and three after it are lost."""
    pings = recording(range(998, 1003), late=range(994, 998))
    return {"ping": pings, "TCP session": recording(range(0), broken=broken)}


def test_a_migration_is_measured_from_its_flows() -> None:
    row = demonstration.row(MOVE, flows(), Migrated(MOVE, CUTOVER))

    assert (row.source, row.target) == ("node-a", "node-b")
    assert (row.guest_pause_ms, row.lost, row.lost_after_resume) == (6.0, 5, 3)
    assert (row.late, row.longest_late_ms) == (4, 16.0)
    assert (row.signal, row.announcement_to_route_us) == ("RARP", 424.0)
    assert row.tcp_survived
    # The route was in 1 ms after the guest ran again; nobody has sent on anything.
    assert (row.lost_after_switch, row.announcement_to_redirect_us) == (2, None)
    assert row.lost_by_guest is None


def test_what_came_to_the_guest_is_no_loss_of_the_network() -> None:
    """Of the five, one came to the target; another one still lay in the source's port."""
    recordings = flows()
    delivered = {"ping": {"node-a": {998}, "node-b": {1002}}}

    lost_ns = demonstration.lost_on_the_way(recordings, delivered, [MOVE])
    assert lost_ns == {"ping": tuple(number * MS for number in range(998, 1002))}

    outside = (MOVE.ended_ns, *lost_ns["ping"])
    row = demonstration.row(MOVE, recordings, Migrated(MOVE, CUTOVER), outside)
    assert (row.lost, row.lost_by_guest) == (5, 1)


def test_the_timeline_says_when_late_pings_came_and_what_was_lost() -> None:
    pings = MOVE.packets(flows()["ping"])

    assert demonstration.arrivals(pings, MOVE.switchover).what == (
        "5 of 2,000 lost, 4 late: 10 to 10 ms after the guest ran again"
    )
    whole = MOVE.packets(recording(range(0)))
    assert demonstration.arrivals(whole, MOVE.switchover).what == "0 of 2,000 lost"


def test_the_switch_is_over_when_the_source_sends_on() -> None:
    told = demonstration.told(dataclasses.replace(CUTOVER, redirect_us=1424.0))
    assert told.switched_ns == RESUMED + 2 * MS
    # One that came before the route waited for it.
    told = demonstration.told(dataclasses.replace(CUTOVER, redirect_us=400.0))
    assert told.switched_ns == RESUMED + MS


def test_without_handover_nobody_reports_a_signal() -> None:
    row = demonstration.row(MOVE, flows(), None)

    assert (row.signal, row.announcement_to_route_us) == (None, None)


def test_a_broken_session_did_not_survive() -> None:
    assert not demonstration.row(MOVE, flows(broken=True), None).tcp_survived


def test_report_and_picture_are_written_and_named(
    screen: Screen, output: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demonstration, "BUILD", tmp_path / "demo")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    row = demonstration.row(MOVE, flows(), Migrated(MOVE, CUTOVER))
    scene = Scene(flows()["ping"].packets(), MOVE.switchover, CUTOVER.at_ns)

    report = Report((row,), demonstration.row(MOVE, flows(), None))
    demonstration.publish(screen, report, [scene, scene])

    written = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert written["migrations"][0]["lost_after_resume"] == 3
    assert written["baseline"]["signal"] is None
    for name in ("migration.png", "migration.svg", "report.json"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
        assert f"demo/{name}" in output.getvalue()
    assert "✗" not in output.getvalue()


@pytest.mark.parametrize(
    ("bgp", "values"),
    [
        ("none", ()),
        ("bird", ("configuration.advertise=bgp",)),
        (
            "frr",
            (
                "configuration.advertise=bgp",
                "configuration.ipv4ElevatedRoutePriority=16",
                "configuration.ipv6ElevatedRoutePriority=16",
            ),
        ),
    ],
)
def test_helm_is_told_what_the_carrier_needs(bgp: str, values: tuple[str, ...]) -> None:
    assert demonstration.values_for(command.CARRIERS[bgp]) == values


def test_a_fault_is_named(screen: Screen, output: io.StringIO) -> None:
    screen.fault("node-a → node-b: the TCP session broke")

    assert output.getvalue() == "✗ node-a → node-b: the TCP session broke\n"


def test_a_step_that_fails_is_named_and_its_error_goes_on(
    screen: Screen, output: io.StringIO
) -> None:
    def fail() -> None:
        with screen.step("doing it", "it is done"):
            screen.say("half of it")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert output.getvalue() == "  doing it …\n  half of it\n✗ doing it\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no more room"), "no more room"),
        (TimeoutError(), "TimeoutError"),
        (subprocess.CalledProcessError(2, ["ip", "link"], stderr=b"busy\n"), "ip link: busy"),
        (subprocess.CalledProcessError(2, ["ip", "link"]), "ip link: 2"),
    ],
)
def test_an_error_is_one_sentence(error: BaseException, said: str) -> None:
    assert command.sentence(error) == said


def test_who_is_not_root_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["demo"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sandbox, "current", lambda: None)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]

    status = command.main()

    for number, handler in zip((signal.SIGTERM, signal.SIGHUP), handlers, strict=True):
        signal.signal(number, handler)
    assert status == 1
    assert capsys.readouterr().out == (
        "✗ The demo ended early: only root can make namespaces and start nodes in them:"
        " sudo make demo\n"
    )


@pytest.mark.parametrize("program", [command, kubevirt])
def test_each_demonstration_goes_into_the_sandbox_as_itself(
    monkeypatch: pytest.MonkeyPatch, screen: Screen, tmp_path: Path, program: ModuleType
) -> None:
    entered: list[tuple[str, ...]] = []

    def enter(argv: tuple[str, ...]) -> int:
        entered.append(argv)
        return 7

    monkeypatch.setattr("sys.argv", ["demo", "--keep"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(command, "BUILDS", tmp_path)
    monkeypatch.setattr(builds, "COMMANDS", {})
    monkeypatch.setattr(initramfs, "build", lambda: None)
    monkeypatch.setattr(sandbox, "run", enter)

    assert command.outside(screen, program.PROGRAM) == 7
    assert entered == [(*command.PATIENT, sys.executable, "-m", program.PROGRAM, "--keep")]


@pytest.mark.parametrize("program", [command, kubevirt])
def test_each_demonstration_is_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: ModuleType
) -> None:
    monkeypatch.setattr("sys.argv", ["demo", "--help"])
    # Python warns of a program that is there as a module already.
    monkeypatch.delitem(sys.modules, program.__name__)

    with pytest.raises(SystemExit) as ended:
        runpy.run_module(program.PROGRAM, run_name="__main__")

    assert ended.value.code == 0
    assert "--keep" in capsys.readouterr().out
