"""A LiveMigration brought up to date: its status, when that waits, and its end by age."""

import datetime as dt
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.operator.memory import NAMESPACE, NOW, SOURCE, SPEC, Known, Memory

from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kube.errors import Outdated
from handover_operator.reconcile.migrations import Migrations
from handover_operator.reconcile.request import DONE
from handover_operator.status import coalesce

M1 = ObjectKey(NAMESPACE, "m1")
BOTH = {**SOURCE, "target": {"workload": {"name": "b"}}}
ENDED = {"phase": "Aborted", "completionTime": NOW.isoformat()}


class Nodes(Memory):
    """Knows of nodes, too: True, False, or None where nobody may ask."""

    def __init__(self) -> None:
        super().__init__()
        self.has: bool | None = True
        self.asked: list[str] = []
        self.then: Any = lambda: None

    async def has_node(self, name: str) -> bool | None:
        """Tell whether there is such a node."""
        self.asked.append(name)
        self.then()
        return self.has


@pytest.fixture
def memory() -> Nodes:
    """Return a cluster with one endpoint and its migration."""
    return Nodes.with_migration()


@pytest.fixture
def room(known: Known) -> Migrations:
    """Return who writes their statuses."""
    return Migrations(known.cache, known.memory, known.writer, lambda: known.memory.now)


def stored(known: Known) -> dict[str, Any]:
    """Return the status as the API server has it."""
    found: dict[str, Any] = known.memory.stored[Kind.MIGRATION, M1].get("status", {})
    return found


def reason(known: Known, wanted: str) -> str:
    """Return the reason of a condition as the API server has it."""
    (found,) = [each for each in stored(known)["conditions"] if each["type"] == wanted]
    return str(found["reason"])


async def test_a_status_is_written_once_and_its_phase_told(known: Known, room: Migrations) -> None:
    with capture_logs() as lines:
        before = known.cache.resolver.index.migrations[M1]
        result = await room.reconcile(M1)
        assert (result.uid, result.migration) == ("uid-m1", before)
        again = await room.reconcile(M1)
    assert (known.memory.patches, again.events) == (["m1/status"], ())
    told = {"migration": "default/m1", "uid": "uid-m1", "phase": stored(known)["phase"]}
    assert lines == [told | {"event": "phase", "log_level": "info"}]


async def test_events_tell_what_was_written(known: Known, room: Migrations) -> None:
    known.put(Kind.MIGRATION, "m1", {**SOURCE, "outcome": "Aborted"})
    for _ in range(3):
        result = await room.reconcile(M1)
        if result.events:
            break
        known.settle()
    assert [event.reason for event in result.events] == ["Aborted"]
    assert stored(known)["phase"] == "Aborted"


async def test_an_event_says_nothing_that_no_status_did(known: Known, room: Migrations) -> None:
    known.put(Kind.MIGRATION, "m1", {**SOURCE, "outcome": "Aborted"})
    del known.memory.stored[Kind.MIGRATION, M1]
    with capture_logs() as lines:
        assert (await room.reconcile(M1)).events == ()
    assert (known.memory.patches, lines) == ([], [])


async def test_a_status_of_an_older_version_is_not_written(known: Known, room: Migrations) -> None:
    known.memory.touch(Kind.MIGRATION, M1)
    with pytest.raises(Outdated):
        await room.reconcile(M1)
    assert known.memory.patches == []
    await room.reconcile(M1)
    assert known.memory.patches == ["m1/status"]


async def test_what_can_wait_is_written_with_what_follows_within_a_moment(
    known: Known, room: Migrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.reconcile(M1)
    known.put(Kind.ENDPOINT, "a", SPEC, status={"state": "Base"})
    result = await room.reconcile(M1)
    assert result.requeue_after == pytest.approx(coalesce.COALESCE_FOR, abs=0.1)
    assert (result.events, known.memory.patches, len(room.coalescer)) == ((), ["m1/status"], 1)
    monkeypatch.setattr(coalesce, "COALESCE_FOR", 0.0)
    await room.reconcile(M1)
    assert stored(known)["source"][0]["state"] == "Base"
    assert len(room.coalescer) == 0


async def test_what_has_become_as_it_was_waits_no_more(known: Known, room: Migrations) -> None:
    await room.reconcile(M1)
    known.put(Kind.ENDPOINT, "a", SPEC, status={"state": "Base"})
    await room.reconcile(M1)
    known.put(Kind.ENDPOINT, "a", SPEC)
    assert (await room.reconcile(M1)).requeue_after is None
    assert (known.memory.patches, len(room.coalescer)) == (["m1/status"], 0)


async def test_a_status_that_changes_by_itself_is_looked_at_again_just_after_that(
    known: Known, room: Migrations
) -> None:
    """The target's agent has ten seconds until it counts as silent."""
    known.put(Kind.ENDPOINT, "b", {**SPEC, "node": "node-b", "workload": "b"})
    known.put(Kind.MIGRATION, "m1", BOTH)
    result = await room.reconcile(M1)
    assert reason(known, "TargetReady") == "AwaitingAgent"
    assert result.requeue_after == pytest.approx(10.01)


@pytest.mark.parametrize(
    ("has", "expected"), [(False, "NodeAbsent"), (True, "AgentSilent"), (None, "AgentSilent")]
)
async def test_the_node_of_a_silent_agent_is_asked_for(
    known: Known,
    memory: Nodes,
    room: Migrations,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has: bool | None,
) -> None:
    monkeypatch.setattr(coalesce, "COALESCE_FOR", 0.0)
    known.put(Kind.ENDPOINT, "b", {**SPEC, "node": "node-b", "workload": "b"})
    known.put(Kind.MIGRATION, "m1", BOTH)
    await room.reconcile(M1)
    assert memory.asked == []
    memory.has = has
    known.pass_time(10)
    result = await room.reconcile(M1)
    assert (memory.asked, reason(known, "TargetReady")) == (["node-b"], expected)
    assert [event.reason for event in result.events] == [expected]


async def test_an_agent_that_answers_while_its_node_is_asked_for_is_not_absent(
    known: Known, memory: Nodes, room: Migrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalesce, "COALESCE_FOR", 0.0)
    target = {**SPEC, "node": "node-b", "workload": "b"}
    known.put(Kind.ENDPOINT, "b", target)
    known.put(Kind.MIGRATION, "m1", BOTH)
    await room.reconcile(M1)
    memory.has = False
    acted = {"state": "Target", "role": "target", "migrationUID": "uid-m1"}
    memory.then = lambda: known.put(Kind.ENDPOINT, "b", target, status=acted)
    known.pass_time(10)
    await room.reconcile(M1)
    assert memory.asked == ["node-b"]
    assert reason(known, "TargetReady") != "NodeAbsent"


async def test_a_finished_one_is_deleted_when_its_time_has_come(
    known: Known, room: Migrations
) -> None:
    spec = {**SOURCE, "ttlSecondsAfterFinished": 60}
    known.put(Kind.MIGRATION, "m1", spec, status=ENDED)
    await room.reconcile(M1)
    known.pass_time(20)
    assert (await room.reconcile(M1)).requeue_after == 40
    known.pass_time(39.5)
    assert (await room.reconcile(M1)).requeue_after == 0.5
    known.pass_time(0.5)
    with capture_logs() as lines:
        assert await room.reconcile(M1) == DONE
    assert (Kind.MIGRATION, M1) not in known.memory.stored
    (line,) = lines
    assert (line["event"], line["migration"]) == ("expired", "default/m1")


async def test_one_without_a_time_to_live_stays(known: Known, room: Migrations) -> None:
    known.put(Kind.MIGRATION, "m1", SOURCE, status=ENDED)
    known.pass_time(dt.timedelta(days=365).total_seconds())
    assert (await room.reconcile(M1)).requeue_after is None
    assert (Kind.MIGRATION, M1) in known.memory.stored


async def test_of_one_that_is_gone_nothing_waits(known: Known, room: Migrations) -> None:
    await room.reconcile(M1)
    known.put(Kind.ENDPOINT, "a", SPEC, status={"state": "Base"})
    await room.reconcile(M1)
    assert len(room.coalescer) == 1
    version = int(known.memory.stored[Kind.MIGRATION, M1]["metadata"]["resourceVersion"])
    known.controller.retain(Kind.MIGRATION, {}, version + 9)
    assert await room.reconcile(M1) == DONE
    assert len(room.coalescer) == 0
