"""What is written on an endpoint: its role and its sharing, in one patch of the version judged."""

import pytest
from structlog.testing import capture_logs
from tests.operator.memory import NAMESPACE, NOW, SOURCE, SPEC, Known

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kube.errors import Outdated
from handover_operator.kube.standby import Standby
from handover_operator.observability import metrics
from handover_operator.reconcile import due
from handover_operator.reconcile.due import Due
from handover_operator.reconcile.endpoints import Endpoints
from handover_operator.reconcile.request import DONE

A, M1 = ObjectKey(NAMESPACE, "a"), ObjectKey(NAMESPACE, "m1")
ROUTE = {"address": "10.0.0.1", "metric": 1024, "table": 254, "protocol": 88}
SERVING = {"state": "Base", "routes": [ROUTE]}
SHARED = "10.0.0.1 is also served by default/b on node-b"


@pytest.fixture
def room(known: Known) -> Endpoints:
    """Return who writes their annotations."""
    return Endpoints(known.cache, known.writer, lambda: known.memory.now)


@pytest.fixture
def standby() -> Standby:
    """Return a replica that does not lead."""
    return Standby("two")


def annotations(known: Known) -> dict[str, str]:
    """Return what is written on the endpoint."""
    raw = known.memory.stored[Kind.ENDPOINT, A]
    return {name.partition("/")[2]: said for name, said in raw["metadata"]["annotations"].items()}


def stood_in() -> float:
    """Count the roles that were given for a leader."""
    found: float = metrics.STOOD_IN.labels(Kind.ENDPOINT.value)._value.get()
    return found


def given() -> float:
    """Count the roles of a source that were given."""
    found = metrics.REGISTRY.collect()
    samples = [one for each in found for one in each.samples if one.name.endswith("roles_total")]
    wanted = [one.value for one in samples if {"given", "source"} <= set(one.labels.values())]
    return sum(wanted)


def share(known: Known) -> None:
    """Let another node serve the endpoint's address, for long enough."""
    known.put(Kind.ENDPOINT, "a", SPEC, status=SERVING)
    spec = {**SPEC, "node": "node-b", "workload": "b"}
    known.put(Kind.ENDPOINT, "b", spec, status=SERVING)
    known.pass_time(10)


async def test_a_role_is_given_once_and_told(known: Known, room: Endpoints) -> None:
    before = given()
    with capture_logs() as lines:
        assert await room.reconcile(A, None) == DONE
        assert await room.reconcile(A, None) == DONE
    assert known.memory.patches == ["a"]
    expected = {"role": "source", "migration": "m1", "migration-uid": "uid-m1"}
    assert annotations(known).items() >= expected.items()
    (line,) = lines
    told = {"endpoint": "default/a", "node": "n", "role": "source", "migration": "m1"}
    told |= {"uid": "uid-m1", "reason": line["reason"], "event": "role", "log_level": "info"}
    assert line == told | {"outcome": None, "ended_role": None}
    assert given() == before + 1


async def test_a_role_is_taken_away_when_its_migration_is_gone(
    known: Known, room: Endpoints
) -> None:
    await room.reconcile(A, None)
    version = int(known.memory.stored[Kind.MIGRATION, M1]["metadata"]["resourceVersion"])
    del known.memory.stored[Kind.MIGRATION, M1]
    known.controller.retain(Kind.MIGRATION, {}, version + 1)
    known.settle()
    await room.reconcile(A, None)
    assert annotations(known)["outcome"] == "Aborted"
    assert "role" not in annotations(known)


async def test_a_verdict_on_an_older_version_is_not_written(known: Known, room: Endpoints) -> None:
    """The agent has reported since, and the verdict rests on what it reports."""
    known.memory.touch(Kind.ENDPOINT, A)
    with pytest.raises(Outdated):
        await room.reconcile(A, None)
    assert known.memory.patches == []
    await room.reconcile(A, None)
    assert annotations(known)["role"] == "source"


async def test_what_is_gone_is_neither_written_nor_told(known: Known, room: Endpoints) -> None:
    assert await room.reconcile(ObjectKey(NAMESPACE, "never"), None) == DONE
    del known.memory.stored[Kind.ENDPOINT, A]
    with capture_logs() as lines:
        assert await room.reconcile(A, None) == DONE
    assert (known.memory.patches, lines) == ([], [])


async def test_that_an_address_is_shared_is_written_and_told_once_and_taken_off_again(
    known: Known, room: Endpoints
) -> None:
    share(known)
    told = await room.reconcile(A, None)
    assert [(event.reason, event.message) for event in told.events] == [("AddressShared", SHARED)]
    assert told.uid == "uid-a"
    assert annotations(known)["address-shared"] == SHARED
    # The role went with it, in the same patch.
    assert (annotations(known)["role"], known.memory.patches) == ("source", ["a"])
    assert await room.reconcile(A, None) == DONE
    known.put(Kind.ENDPOINT, "b", {**SPEC, "workload": "b"})
    assert await room.reconcile(A, None) == DONE
    assert names.ADDRESS_SHARED.partition("/")[2] not in annotations(known)
    assert known.memory.patches == ["a", "a"]


async def test_that_an_address_is_shared_is_not_told_again_with_another_role(
    known: Known, room: Endpoints
) -> None:
    share(known)
    await room.reconcile(A, None)
    known.put(Kind.MIGRATION, "m1", {**SOURCE, "outcome": "Aborted"})
    assert await room.reconcile(A, None) == DONE
    assert known.memory.patches == ["a", "a"]


async def test_nothing_is_written_while_nothing_is_decided(known: Known, room: Endpoints) -> None:
    known.cache.resolver.mark_all()
    assert known.cache.resolver.verdict(A) is None
    assert await room.reconcile(A, None) == DONE
    assert known.memory.patches == []


async def test_an_address_that_was_just_shared_is_not_said_to_be(
    known: Known, room: Endpoints
) -> None:
    share(known)
    known.memory.now = NOW
    assert await room.reconcile(A, None) == DONE
    assert "address-shared" not in annotations(known)


async def test_who_stands_in_gives_the_role_that_is_missing_and_nothing_else(
    known: Known, room: Endpoints, standby: Standby
) -> None:
    before = stood_in()
    share(known)
    assert await room.reconcile(A, standby) == DONE
    assert (annotations(known)["role"], known.memory.stood_in) == ("source", ["a"])
    assert "address-shared" not in annotations(known)
    # Every migration that has a say was read anew before.
    assert known.memory.asked_for == ["m1"]
    # One write that was missing shows that nobody leads.
    assert (standby.delay, stood_in()) == (0, before + 1)


async def test_who_stands_in_leaves_alone_what_the_leader_has_written(
    known: Known, room: Endpoints, standby: Standby
) -> None:
    await room.reconcile(A, None)
    known.memory.patches.clear()
    assert await room.reconcile(A, standby) == DONE
    assert (known.memory.patches, known.memory.asked_for) == ([], [])
    assert standby.delay > 0


async def test_who_stands_in_takes_no_role_away(
    known: Known, room: Endpoints, standby: Standby
) -> None:
    await room.reconcile(A, None)
    known.put(Kind.MIGRATION, "m1", {**SOURCE, "outcome": "Aborted"})
    assert due.role(known.cache.resolver, A) is Due.TAKE_AWAY
    assert await room.reconcile(A, standby) == DONE
    assert (annotations(known)["role"], known.memory.stood_in) == ("source", [])


async def test_who_stands_in_gives_nothing_by_a_late_watch(
    known: Known, room: Endpoints, standby: Standby
) -> None:
    """The migration is over, which its watch has not told; so the leader, who knows, is right."""
    assert due.role(known.cache.resolver, A) is Due.GIVE
    known.memory.put(Kind.MIGRATION, "m1", {**SOURCE, "outcome": "Aborted"})
    before = stood_in()
    assert await room.reconcile(A, standby) == DONE
    assert (annotations(known), known.memory.asked_for) == ({}, ["m1"])
    assert (standby.delay > 0, stood_in()) == (True, before)


async def test_who_stands_in_gives_nothing_for_a_migration_that_is_gone(
    known: Known, room: Endpoints, standby: Standby
) -> None:
    del known.memory.stored[Kind.MIGRATION, M1]
    assert await room.reconcile(A, standby) == DONE
    assert (annotations(known), standby.delay > 0) == ({}, True)


async def test_who_stands_in_reads_the_migration_whose_role_an_endpoint_carries(
    known: Known, room: Endpoints, standby: Standby
) -> None:
    """It may have ended meanwhile, or still hold the endpoint against the next one."""
    await room.reconcile(A, None)
    known.put(Kind.MIGRATION, "m1", {"source": {"workload": {"name": "other"}}})
    known.put(Kind.MIGRATION, "m2", SOURCE)
    assert due.role(known.cache.resolver, A) is Due.GIVE
    await room.reconcile(A, standby)
    assert sorted(known.memory.asked_for) == ["m1", "m2"]
