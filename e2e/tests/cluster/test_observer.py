"""What the API says becomes facts, in the order in which they happened."""

import asyncio
import time
from typing import Any

import pytest

from handover_lab.cluster import observer
from handover_lab.demo.fact_order import FactOrder
from handover_lab.facts import Action, Fact, Note, Phase, Role, Signal, State, Traffic

NOW = 1_795_528_486_000_000_000


def endpoint(role: str = "", **status: Any) -> dict[str, Any]:
    """Build a WorkloadEndpoint as the API serves it."""
    annotations = {"handover.dev/role": role} if role else {}
    metadata = {"name": "vm-on-node-b", "annotations": annotations}
    return {
        "kind": "WorkloadEndpoint",
        "metadata": metadata,
        "spec": {"node": "node-b"},
        "status": status,
    }


def migration(**status: Any) -> dict[str, Any]:
    """Build a LiveMigration as the API serves it."""
    return {"kind": "LiveMigration", "metadata": {"name": "move"}, "status": status}


def vmim(phase: str) -> dict[str, Any]:
    """Build a VirtualMachineInstanceMigration as the API serves it."""
    kind = "VirtualMachineInstanceMigration"
    return {"kind": kind, "metadata": {"name": "move"}, "status": {"phase": phase}}


def condition(kind: str, status: str, message: str = "", reason: str = "Why") -> dict[str, str]:
    """Build a condition."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


CUTOVER_AT = "2026-11-24T13:54:46.056424Z"
CUTOVER_NS = 1_795_528_486_056_424_000
CUTOVER = {"signal": "RARP", "announcementToRouteMicroseconds": 424, "time": CUTOVER_AT}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, endpoint(), []),
        ({}, endpoint("target"), [Role(NOW, "node-b", "target")]),
        (endpoint("target"), endpoint(), [Role(NOW, "node-b", "")]),
        (endpoint("target"), {}, [Role(NOW, "node-b", "")]),
        (
            endpoint("target", state="Target"),
            endpoint("target", state="Live", lastCutover=CUTOVER),
            [Signal(CUTOVER_NS - 424_000, "node-b", "RARP", 424), State(NOW, "node-b", "Live")],
        ),
        (
            endpoint(state="Base", lastCutover=CUTOVER),
            endpoint(lastCutover=CUTOVER, state="Base"),
            [],
        ),
        ({}, migration(), []),
        (migration(), migration(phase="Ready"), [Phase(NOW, "Ready")]),
        (migration(phase="Ready"), migration(phase="Ready"), []),
        (migration(phase="Succeeded"), {}, []),
        (vmim("Pending"), vmim("Scheduling"), [Action(NOW, "kubevirt", "vmim", "Scheduling")]),
        (endpoint(state="Base"), {}, [State(NOW, "node-b", "")]),
        (
            migration(),
            migration(conditions=[condition("SourceLingers", "True", "vm-on-node-a still does")]),
            [Note(NOW, "move: SourceLingers: vm-on-node-a still does")],
        ),
        (
            endpoint(conditions=[condition("Programmed", "True")]),
            endpoint(conditions=[condition("Programmed", "False")]),
            [Note(NOW, "vm-on-node-b: Programmed: Why")],
        ),
        ({}, migration(conditions=[condition("TargetReady", "True")]), []),
        (
            {},
            migration(conditions=[condition("SourceLingers", "True", "", "Withdrawing")]),
            [],
        ),
        (
            migration(conditions=[condition("SourceLingers", "True", "", "Withdrawing")]),
            migration(conditions=[condition("SourceLingers", "True", "", "StillRouted")]),
            [Note(NOW, "move: SourceLingers: StillRouted")],
        ),
    ],
)
def test_a_change_of_an_object_tells(
    before: dict[str, Any], after: dict[str, Any], expected: list[Fact]
) -> None:
    assert expected == list(observer.facts(before, after, NOW))


async def test_objects_are_read_wherever_the_stream_was_cut() -> None:
    text = '{"a": "é"}\n{"b": {}}\n'.encode()
    for cut in range(len(text)):
        stream = asyncio.StreamReader()
        reading = aiter(observer.values(stream))
        stream.feed_data(text[:cut])
        first = asyncio.ensure_future(anext(reading))
        await asyncio.sleep(0)
        stream.feed_data(text[cut:])
        stream.feed_eof()

        assert [await first, await anext(reading)] == [{"a": "é"}, {"b": {}}]


async def test_a_fact_that_took_longer_to_arrive_still_goes_first() -> None:
    told: list[Fact | Traffic] = []
    now = time.time_ns()
    early, late = Phase(now, "Ready"), Phase(now + 1_000_000, "Live")
    news = FactOrder(told.append)
    async with news.open():
        news.add(late)
        news.add(early)

        assert told == []
    assert told == [early, late]


def test_traffic_is_passed_on_at_once() -> None:
    told: list[Fact | Traffic] = []
    flow = Traffic("ping", 1, 0, ())

    FactOrder(told.append).add(flow)

    assert told == [flow]


def test_facts_ripen() -> None:
    told: list[Fact | Traffic] = []
    news = FactOrder(told.append)
    for moment in (30, 10, 20):
        news.add(Phase(moment, "Ready"))

    news.pass_on(25)

    assert told == [Phase(10, "Ready"), Phase(20, "Ready")]
