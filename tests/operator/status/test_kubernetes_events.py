"""Events are told when something changes, once."""

from collections.abc import Callable
from typing import Any

import pytest

from handover_api.livemigration import LiveMigration, LiveMigrationStatus
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_operator.roles.model import Endpoint
from handover_operator.roles.parse import Unreadable
from handover_operator.status import kubernetes_events

Migration = Callable[..., LiveMigration]
Build = Callable[..., Endpoint]


class Teller:
    """Collects the events of m1 while a world goes on."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.before = LiveMigrationStatus()

    def tell(self) -> list[tuple[str, bool]]:
        """Return what is new since the last call."""
        after = self.world.migration("m1").status
        told = [(e.reason, e.warning) for e in kubernetes_events.describe(self.before, after)]
        self.before = after
        return told


@pytest.fixture
def teller(world: Any, migration: Migration, endpoint: Build) -> Teller:
    """Look at a migration with both endpoints."""
    return Teller(world.apply(*map(endpoint, "ab"), migration(source="a", target="b")))


def test_a_success_is_told_step_by_step(teller: Teller, migration: Migration) -> None:
    world = teller.world
    assert teller.tell() == []
    world.report("a", State.BASE).report("b", State.TARGET)
    assert teller.tell() == [("Ready", False)]
    world.report("b", State.LIVE)
    assert teller.tell() == [("CutOver", False)]
    done = migration(
        source="a",
        target="b",
        outcome="Succeeded",
        status=world.migration("m1").status.to_object(),
    )
    world.apply(done)
    assert teller.tell() == []
    world.wait(6).apply(world.migration("m1"))
    assert teller.tell() == [("SourceLingers", True)]
    world.report("a", State.WITHDRAWN)
    assert teller.tell() == []
    world.report("b", State.BASE)
    assert teller.tell() == [("Succeeded", False)]


def test_a_cutover_tells_what_was_measured(teller: Teller) -> None:
    teller.world.report("b", State.LIVE)
    [told] = kubernetes_events.describe(LiveMigrationStatus(), teller.world.migration("m1").status)
    assert told.message == "b on node-b: RARP to route in 180 µs"


def test_the_end_tells_what_was_measured(teller: Teller, migration: Migration) -> None:
    world = teller.world.report("b", State.LIVE)
    status = world.migration("m1").status.to_object()
    world.apply(migration(source="a", target="b", outcome="Succeeded", status=status))
    teller.tell()
    world.report("a", State.WITHDRAWN).report("b", State.BASE)
    [told] = kubernetes_events.describe(teller.before, world.migration("m1").status)
    assert told.message == (
        "the network follows the guest; all targets are back in Base;"
        " b on node-b: RARP to route in 180 µs"
    )


def test_a_cutover_without_a_measurement_is_told_too(teller: Teller) -> None:
    teller.world.report("b", State.LIVE, cutover=None)
    [told] = kubernetes_events.describe(LiveMigrationStatus(), teller.world.migration("m1").status)
    assert told.message == "every target is live"


def test_an_abort_is_a_warning(teller: Teller, migration: Migration) -> None:
    teller.world.apply(migration(source="a", target="b", outcome="Aborted"))
    assert teller.tell() == [("Aborted", True)]


def test_a_conflict_is_told_when_it_begins_or_changes(teller: Teller, migration: Migration) -> None:
    teller.world.apply(migration("m2", target="b", age=1))
    assert teller.tell() == [("EndpointClaimed", True)]
    teller.world.apply(migration("m3", target="b", age=2))
    assert teller.tell() == [("EndpointClaimed", True)]
    teller.world.delete("m2").delete("m3")
    assert teller.tell()[-1:] == []


def test_a_silent_agent_is_told_once(teller: Teller) -> None:
    world = teller.world
    assert teller.tell() == []
    world.wait(10).apply(world.migration("m1"))
    assert teller.tell() == [("AgentSilent", True)]
    world.wait(10).apply(world.migration("m1"))
    assert teller.tell() == []


def test_a_malformed_object_is_told_by_its_field() -> None:
    told = kubernetes_events.malformed(
        Unreadable(ObjectKey("default", "b"), "spec.node", "Field required")
    )
    assert told.warning
    assert told.message.startswith("spec.node: Field required")
