"""The status of a configuration: written on the version that was judged, and told once."""

import pytest
from tests.operator.memory import Known

from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kube.errors import Outdated
from handover_operator.reconcile.configurations import Configurations
from handover_operator.reconcile.request import DONE
from handover_operator.status.configuration import Application

DEFAULT, NODE = ObjectKey("", "default"), ObjectKey("", "node.x")


@pytest.fixture
def room(known: Known) -> Configurations:
    """Return who writes their statuses."""
    return Configurations(known.cache, known.writer, lambda: known.memory.now)


def conditions(known: Known, key: ObjectKey) -> dict[str, str]:
    """Return what the API server has of a configuration's conditions."""
    status = known.memory.stored[Kind.CONFIGURATION, key].get("status", {})
    return {each["type"]: f"{each['status']} {each['reason']}" for each in status["conditions"]}


async def test_a_status_is_written_once(known: Known, room: Configurations) -> None:
    known.put(Kind.CONFIGURATION, "default", {"mode": "observe"})
    assert (await room.reconcile(DEFAULT)).events == ()
    assert conditions(known, DEFAULT) == {"Accepted": "True Valid"}
    assert known.memory.stored[Kind.CONFIGURATION, DEFAULT]["status"]["mode"] == "observe"
    known.memory.now = known.memory.now.replace(year=2027)
    assert await room.reconcile(DEFAULT) == DONE
    assert known.memory.patches == ["default/status"]


async def test_a_nodes_is_judged_with_the_default_that_it_overrides(
    known: Known, room: Configurations
) -> None:
    known.put(Kind.CONFIGURATION, "default", {"mode": "observe"})
    known.put(Kind.CONFIGURATION, "node.x", {"ipv4NormalRoutePriority": 600})
    await room.reconcile(NODE)
    assert conditions(known, NODE) == {"Accepted": "False DefaultOnly"}
    assert known.memory.stored[Kind.CONFIGURATION, NODE]["status"]["mode"] == "observe"


async def test_what_is_wrong_is_told_once_and_when_it_is_wrong_otherwise(
    known: Known, room: Configurations
) -> None:
    known.put(Kind.CONFIGURATION, "default", {"probeInterval": "1ms"})
    told = await room.reconcile(DEFAULT)
    (event,) = told.events
    assert (event.reason, event.warning, told.uid) == ("Invalid", True, "uid-default")
    assert "probeInterval" in event.message
    assert await room.reconcile(DEFAULT) == DONE
    status = known.memory.stored[Kind.CONFIGURATION, DEFAULT]["status"]
    known.put(Kind.CONFIGURATION, "default", {"mode": "wrong"}, status=status)
    (event,) = (await room.reconcile(DEFAULT)).events
    assert "mode" in event.message


async def test_of_a_spec_that_has_changed_since_nothing_is_said_unseen(
    known: Known, room: Configurations
) -> None:
    known.put(Kind.CONFIGURATION, "default", {"probeInterval": "1ms"})
    known.memory.put(Kind.CONFIGURATION, "default", {"probeInterval": "1s"})
    with pytest.raises(Outdated):
        await room.reconcile(DEFAULT)
    assert known.memory.patches == []
    # The newest version was read with the conflict.
    assert (await room.reconcile(DEFAULT)).events == ()
    assert conditions(known, DEFAULT) == {"Accepted": "True Valid"}


async def test_what_is_gone_is_neither_written_nor_told(known: Known, room: Configurations) -> None:
    assert await room.reconcile(DEFAULT) == DONE
    known.put(Kind.CONFIGURATION, "default", {"probeInterval": "1ms"})
    del known.memory.stored[Kind.CONFIGURATION, DEFAULT]
    assert await room.reconcile(DEFAULT) == DONE
    assert known.memory.patches == []


async def test_default_says_how_its_apply_went_and_what_is_paused(
    known: Known, room: Configurations
) -> None:
    known.put(Kind.CONFIGURATION, "default", {})
    known.cache.take_application(Application(refusal="a webhook said no"))
    known.cache.take_paused(frozenset({"b", "a"}))
    told = await room.reconcile(DEFAULT)
    assert [(event.reason, event.message) for event in told.events] == [
        ("Refused", "a webhook said no")
    ]
    assert conditions(known, DEFAULT)["Applied"] == "False Refused"
    status = known.memory.stored[Kind.CONFIGURATION, DEFAULT]["status"]
    assert status["pausedNamespaces"] == ["a", "b"]
