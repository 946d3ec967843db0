"""What a person can see of a loop at work: one line per transition, and numbers for Prometheus."""

import datetime as dt
import re

import pytest
from structlog.testing import capture_logs
from tests.nodeagent.world import World, count

from handover_api.workloadendpoint import Cutover, Signal
from handover_nodeagent import metrics

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]

WORDS = {
    "handover_nodeagent_announcement_to_last_node_seconds",
    "handover_nodeagent_announcement_to_redirect_seconds",
    "handover_nodeagent_announcement_to_route_seconds",
    "handover_nodeagent_announcements",
    "handover_nodeagent_build",
    "handover_nodeagent_configuration_generation",
    "handover_nodeagent_configuration_valid",
    "handover_nodeagent_endpoints",
    "handover_nodeagent_guard_drift_repairs",
    "handover_nodeagent_guard_errors",
    "handover_nodeagent_guard_operations",
    "handover_nodeagent_guest_silence_seconds",
    "handover_nodeagent_impossible_inputs",
    "handover_nodeagent_last_cutover_seconds",
    "handover_nodeagent_notification_overflows",
    "handover_nodeagent_parked_routes",
    "handover_nodeagent_probe_to_answer_seconds",
    "handover_nodeagent_rejected_frames",
    "handover_nodeagent_reports",
    "handover_nodeagent_route_errors",
    "handover_nodeagent_route_operations",
    "handover_nodeagent_transitions",
    "handover_nodeagent_unreadable_objects",
    "handover_nodeagent_watch_restarts",
}
"""Others may come; one that goes breaks somebody's alert."""
BROKEN = bytes.fromhex(
    "333300000001 525400650002 86dd 60000000 0020 3aff"
    "fd000065000000000000000000000002 ff020000000000000000000000000001"
    "8800 dead 20000000 fd000065000000000000000000000002 0201 525400650002"
)
"""An unsolicited NA of the guest, but for its checksum, which the kernel's filter cannot see."""


async def migrate(world: World) -> None:
    """Play a whole migration at its target, and then its guest's departure."""
    world.configure(liveMigrationRouteConvergenceTime="1ms")
    world.put(said="target")
    await world.until_listening()
    world.send()
    await world.until_state("Live")
    world.put(said="target Succeeded")
    await world.until_state("Base")
    world.put(said="source", uid="m2")
    world.put(said="source Succeeded", uid="m2")
    await world.until_state("Withdrawn")
    world.loop.flush()


async def test_each_transition_is_one_line_that_says_all(world: World) -> None:
    with capture_logs() as lines:
        await migrate(world)
    told = [
        (line["migration"], line["before"], line["input"], line["after"], line["why"])
        for line in lines
        if line["event"] == "transition"
    ]
    assert told == [
        ("m1", "Target", "Announced", "Live", "the guest was heard: RARP"),
        ("m1", "Live", "NoRole", "TimeWait", "target of a migration that succeeded"),
        ("m1", "TimeWait", "TimerPop", "Base", "target of a migration that succeeded"),
        ("m2", "Base", "Left", "Asking", "the guest is asked because of Left"),
        ("m2", "Asking", "Silence", "Withdrawn", "source of a migration that succeeded"),
    ]
    assert {line["endpoint"] for line in lines if line["event"] == "transition"} == {"default/vm"}


def read() -> dict[str, float]:
    """Return all samples as Prometheus would read them."""
    lines = metrics.render().decode().splitlines()
    split = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in split}


async def test_a_migration_is_counted_wherever_somebody_may_look(world: World) -> None:
    before = read()
    await migrate(world)
    after = read()
    grown = {name for name in after if after[name] > before.get(name, 0)}
    prefix = "handover_nodeagent_"
    assert {
        f'{prefix}transitions_total{{from="Target",input="Announced",to="Live"}}',
        f'{prefix}transitions_total{{from="Asking",input="Silence",to="Withdrawn"}}',
        f'{prefix}announcements_total{{signal="RARP"}}',
        f"{prefix}announcement_to_route_seconds_count",
        f'{prefix}route_operations_total{{operation="add"}}',
        f'{prefix}route_operations_total{{operation="remove"}}',
    } <= grown
    assert after[f'{prefix}last_cutover_seconds{{name="vm",namespace="default"}}'] > 0


def test_every_word_that_an_alert_may_use_is_there() -> None:
    page = metrics.render().decode()
    names = set(re.findall(r"^# TYPE (\w+?)(?:_total|_info)? ", page, re.MULTILINE))
    assert names >= WORDS


async def test_what_others_told_of_a_cutover_is_counted_once(world: World) -> None:
    cutover = Cutover(
        signal=Signal.RARP,
        announcement_to_route_microseconds=300,
        time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )
    redirected = cutover.model_copy(
        update={
            "announcement_to_redirect_microseconds": 700,
            "guest_silence_microseconds": 40_000,
        }
    )
    followed = redirected.model_copy(update={"announcement_to_last_node_microseconds": 2_000})
    histograms = (
        metrics.ANNOUNCEMENT_TO_REDIRECT,
        metrics.ANNOUNCEMENT_TO_LAST_NODE,
        metrics.GUEST_SILENCE,
    )
    before = [histogram._sum.get() for histogram in histograms]
    world.loop.publisher.followed(cutover, redirected)
    world.loop.publisher.followed(redirected, followed)
    world.loop.publisher.followed(followed, followed)
    after = [histogram._sum.get() for histogram in histograms]
    more = [later - earlier for earlier, later in zip(before, after, strict=True)]
    assert more == pytest.approx([0.0007, 0.002, 0.04])


async def test_what_proves_nothing_is_counted_by_its_reason(world: World) -> None:
    world.put(said="target", ips=["10.65.0.2", "fd00:65::2"])
    await world.until_listening()
    irrelevant = count(metrics.REJECTED, "Irrelevant")
    world.send(BROKEN)
    await world.until(lambda: count(metrics.REJECTED, "Irrelevant") == irrelevant + 1)
    assert world.state() == "Target"


async def test_of_too_many_lines_the_newest_are_written_and_the_others_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handover_nodeagent.reconcile.publish.LINES", 3)
    lost = count(metrics.LOST_LINES)
    with capture_logs() as lines:
        for number in range(5):
            world.put(f"vm{number}", ips=[f"10.65.0.{number + 2}"], interface=f"tap{number + 2}")
        world.put("vm4", said="target", ips=["10.65.0.6"], interface="tap6")
        world.loop.flush()
    told = [(line["event"], line["endpoint"]) for line in lines if "endpoint" in line]
    assert told == [
        ("endpoint", "default/vm3"),
        ("endpoint", "default/vm4"),
        ("transition", "default/vm4"),
    ]
    assert count(metrics.LOST_LINES) == lost + 3
    # Nobody's status is a line.
    assert len(world.reports.statuses) == 5
