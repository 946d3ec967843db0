"""A replica that does not lead writes what a migration waits for and nobody has written."""

import copy
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handover_operator.kinds import Foreign, Kind
from handover_operator.kube import standby
from handover_operator.kube.standby import Standby

A: Final = ("10.0.0.1",)
LONG_ENOUGH: Final = standby.HEAD_START + standby.JITTER
Build = Callable[..., dict[str, Any]]


@pytest.fixture
def second(world: Any, vmi: Build, pod: Build) -> Any:
    """A guest that runs on node a, as a replica sees it that does not lead."""
    world.apply(vmi(node="a"), pod("p1", "a", A))
    world.operator.stand_by(Standby("two"))
    world.log.clear()
    return world


def written(world: Any) -> list[str]:
    """Return what was written since the last look."""
    found = [line for line in world.log if not line.startswith(("get ", "uid "))]
    world.log.clear()
    return found


def begin(world: Any, vmim: Build, pod: Build) -> None:
    """Let KubeVirt begin to move the guest to node b."""
    world.apply(
        vmim(phase="Scheduling", sourcePod="p1"),
        pod("p2", "b", migration="m"),
    )


def test_it_waits_first_and_then_makes_all_that_the_agents_wait_for(
    second: Any, pod: Build, vmim: Build
) -> None:
    begin(second, vmim, pod)
    second.operator.pass_time(standby.HEAD_START - 0.001)
    assert written(second.settle()) == []
    second.operator.pass_time(standby.JITTER + 0.001)
    second.settle()
    assert second.said() == {"p1": "source of m", "p2": "target of m (not armed)"}
    assert sorted(written(second)) == ["create m", "create p2", "patch p1"]
    second.apply(vmim(phase="TargetReady", sourcePod="p1"))
    assert second.said() == {"p1": "source of m", "p2": "target of m"}
    assert sorted(written(second)) == ["patch m", "patch p2"]


def test_one_write_that_was_missing_shows_that_nobody_leads() -> None:
    waiting = Standby("two")
    assert standby.HEAD_START <= waiting.delay <= LONG_ENOUGH
    assert waiting.delay != Standby("three").delay
    waiting.note_missed()
    assert waiting.delay == 0
    waiting.note_renewal()
    assert waiting.delay >= standby.HEAD_START


def test_it_writes_nothing_that_the_leader_writes(second: Any, vmim: Build, pod: Build) -> None:
    first = second.operator
    leader = type(first)(second)
    leader.load(copy.deepcopy(second.stored))
    tell = second.deliver

    def deliver_to_both(kind: Any) -> None:
        if second.watches[kind]:
            told, raw = second.watches[kind][0]
            (leader.forget if told == "DELETED" else leader.observe)(kind, copy.deepcopy(raw))
        tell(kind)

    second.deliver = deliver_to_both
    for step in ("Scheduling", "TargetReady", "Running", "Succeeded"):
        second.put(vmim(phase=step, sourcePod="p1"))
        if step == "Scheduling":
            second.put(pod("p2", "b", migration="m"))
        for _ in range(20):
            for kind in second.watches:
                while second.watches[kind]:
                    second.deliver(kind)
            while choices := leader.choices():
                choices[0]()
        written(second)
        first.pass_time(LONG_ENOUGH)
        second.settle()
        assert written(second) == []
    assert second.said() == {"p1": "source of m Succeeded", "p2": "target of m Succeeded"}


@pytest.mark.parametrize("ended", ["Succeeded", "Failed"])
def test_how_a_migration_ended_is_the_leaders_to_tell(
    second: Any, vmim: Build, pod: Build, ended: str
) -> None:
    begin(second, vmim, pod)
    second.operator.pass_time(LONG_ENOUGH)
    second.settle()
    written(second)
    second.apply(vmim(phase=ended, sourcePod="p1"))
    second.operator.pass_time(60)
    assert written(second.settle()) == []
    second.operator.stand_by(None)
    told = "Succeeded" if ended == "Succeeded" else "Aborted"
    wanted = {"p1": f"source of m {told}", "p2": f"target of m {told}"}
    assert second.settle().said() == wanted
    assert "/status" in "".join(written(second))


def test_it_makes_nothing_for_a_migration_that_has_ended_though_its_watch_is_late(
    second: Any, vmim: Build, pod: Build
) -> None:
    begin(second, vmim, pod)
    second.put(vmim(phase="Failed", sourcePod="p1"))
    second.watches[Foreign.VMIM].clear()
    second.operator.pass_time(LONG_ENOUGH)
    assert written(second.settle()) == []


def test_it_gives_no_role_back_that_the_leader_has_ended(
    second: Any, vmim: Build, pod: Build
) -> None:
    """Its watch of LiveMigrations is late, that of endpoints is not."""
    begin(second, vmim, pod)
    second.operator.stand_by(None)
    second.settle()
    leader = second.operator
    behind = type(leader)(second)
    behind.load(copy.deepcopy(second.stored))
    second.apply(vmim(phase="Failed", sourcePod="p1"))
    told = second.said()
    assert told == {"p1": "source of m Aborted", "p2": "target of m Aborted"}
    behind.stand_by(Standby("two"))
    second.operator = behind
    for name in ("p1", "p2"):
        behind.observe(Kind.ENDPOINT, copy.deepcopy(second.endpoint(name)))
    written(second)
    behind.pass_time(LONG_ENOUGH)
    assert second.settle().said() == told
    assert written(second) == []


@settings(
    max_examples=settings().max_examples * 3 // 10,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), cut=st.integers(min_value=0, max_value=30))
def test_whoever_leads_and_when_changes_nothing_in_the_end(
    new_world: Any, vmi: Build, pod: Build, vmim: Build, data: Any, cut: int
) -> None:
    """Nobody leads at first; what a migration waits for is there all the same."""
    world = new_world()
    world.apply(vmi(node="a"), pod("p1", "a", A))
    alone = Standby("two")
    alone.note_missed()
    world.operator.stand_by(alone)
    script = [
        vmim(phase="Scheduling", sourcePod="p1"),
        pod("p2", migration="m"),
        pod("p2", "b", migration="m"),
        pod("p2", "b", A, migration="m"),
        vmim(phase="TargetReady", sourcePod="p1"),
    ]
    for number in range(200):
        if number == cut:
            world.operator.stand_by(None)
        told = [
            (lambda kind=kind: world.deliver(kind))
            for kind, queue in world.watches.items()
            if queue
        ]
        choices = [*([lambda: world.put(script.pop(0))] if script else []), *told]
        choices += world.operator.choices()
        if not choices:
            break
        data.draw(st.sampled_from(choices), label="next")()
        assert world.said().get("p2", "target").startswith("target")
    assert world.settle().said() == {"p1": "source of m", "p2": "target of m"}
