"""Succeeded is said only where it was seen; else what stood in the way."""

import datetime as dt
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from handover_api import names
from handover_api.livemigration import LiveMigration, LiveMigrationStatus
from handover_api.workloadendpoint import Role, State
from handover_operator.observability import metrics
from handover_operator.roles.model import Endpoint
from handover_operator.status import following, kubernetes_events, livemigration

Migration = Callable[..., LiveMigration]
Build = Callable[..., Endpoint]
A, B = (ip_address("10.0.0.1"),), (ip_address("10.0.0.2"),)


@pytest.fixture
def running(world: Any, migration: Migration, endpoint: Build) -> Any:
    """Both sides are known, and the target's agent has not acted yet."""
    world.apply(endpoint("a", ips=A), endpoint("b", ips=A), migration(source="a", target="b"))
    return world.report("a", State.BASE)


def succeed(world: Any, migration: Migration, **fields: Any) -> Any:
    """Let the driver say so, and the source's agent let go."""
    status = world.migration("m1").status.to_object()
    fields = {"source": "a", "target": "b"} | fields
    world.apply(migration(outcome="Succeeded", status=status, **fields))
    return world.report("a", State.WITHDRAWN)


def finished(world: Any) -> tuple[str | None, tuple[str, str] | None, str]:
    """Return phase and condition Finished of m1, and its message."""
    [found] = [c for c in world.migration("m1").status.conditions if c.type == "Finished"]
    return world.phase(), world.condition("Finished"), found.message


def not_followed(why: str) -> tuple[str, tuple[str, str], str]:
    """Return what :func:`finished` returns then."""
    return "NotFollowed", ("True", "NotFollowed"), why


SUCCEEDED = ("Succeeded", ("True", "Succeeded"), "")


def test_a_target_that_heard_its_guest_is_a_success(running: Any, migration: Migration) -> None:
    running.report("b", State.LIVE)
    succeed(running, migration).report("b", State.BASE)
    assert finished(running) == SUCCEEDED


def test_a_target_that_lost_its_guest_again_is_not_waited_for(
    running: Any, migration: Migration
) -> None:
    running.report("b", State.LIVE).report("b", State.REDIRECTED)
    succeed(running, migration)
    # It has not heard of the end so far, and may find its guest.
    running.report("b", State.REDIRECTED, acted_role=Role.TARGET)
    assert running.phase() == "Converging"
    running.report("b", State.REDIRECTED)
    assert finished(running) == SUCCEEDED


def test_a_target_that_has_the_routes_by_word_alone_is_a_success(
    running: Any, migration: Migration
) -> None:
    running.report("b", State.TARGET)
    succeed(running, migration).report("b", State.BASE, cutover=None)
    assert finished(running) == SUCCEEDED


@pytest.mark.parametrize(
    "report",
    [{"routed": False}, {"acted_role": "target"}],
)
def test_a_target_without_routes_is_none(
    running: Any, migration: Migration, report: dict[str, Any]
) -> None:
    running.report("b", State.TARGET)
    succeed(running, migration).report("b", State.BASE, **{"cutover": None, **report})
    assert running.phase() == "NotFollowed"
    assert finished(running)[2].startswith("no target has heard its guest: b on node-b in state")


def test_routes_of_before_are_not_this_migrations(running: Any, migration: Migration) -> None:
    """Guards: what a dead agent last reported looked like a target back in Base."""
    running.report("b", State.BASE, acted_uid="of-an-earlier-one", cutover=None)
    succeed(running, migration)
    assert running.phase() == "Converging"
    running.wait(10).apply(running.migration("m1"))
    why = "no agent has acted upon the target's role on node-b"
    assert finished(running) == not_followed(why)


def test_a_node_without_an_agent_is_waited_for_ten_seconds(
    running: Any, migration: Migration
) -> None:
    start = running.now
    succeed(running.wait(3), migration)
    assert running.phase() == "Converging"
    wake = livemigration.wake(running.migration("m1"), running.progress(), running.now)
    assert wake == start + following.SILENT_AFTER
    running.wait(7 - 0.001).apply(running.migration("m1"))
    assert running.phase() == "Converging"
    running.wait(0.001).apply(running.migration("m1"))
    assert running.phase() == "NotFollowed"
    wake = livemigration.wake(running.migration("m1"), running.progress(), running.now)
    assert wake is None


def test_an_agent_that_acts_late_is_seen(running: Any, migration: Migration) -> None:
    succeed(running.wait(3), migration).report("b", State.TIME_WAIT, cutover=None)
    running.wait(60).apply(running.migration("m1"))
    assert running.phase() == "Converging"
    running.report("b", State.BASE)
    assert finished(running) == SUCCEEDED


def test_a_target_whose_endpoint_was_deleted_unheard_is_named(
    running: Any, migration: Migration
) -> None:
    running.report("b", State.TARGET).delete("b")
    succeed(running, migration)
    why = "the target's endpoint was deleted before its guest was heard: b"
    assert finished(running) == not_followed(why)


def test_a_target_whose_endpoint_was_deleted_later_is_a_success(
    running: Any, migration: Migration
) -> None:
    running.report("b", State.LIVE).delete("b")
    succeed(running, migration)
    assert finished(running) == SUCCEEDED


def test_a_target_that_the_next_migration_has_taken_was_heard_all_the_same(
    running: Any, migration: Migration
) -> None:
    """The operator was away meanwhile: its status tells nothing of it."""
    running.report("b", State.LIVE).delete("a")
    running.apply(migration("m2", source="b", target="x", age=9))
    assert running.roles() == {"b": "source of m2"}
    running.apply(migration(source="a", target="b", outcome="Succeeded"))
    assert finished(running) == SUCCEEDED


def test_one_of_two_targets_that_was_heard_before_it_went_is_a_success(
    running: Any, migration: Migration, endpoint: Build
) -> None:
    running.apply(endpoint("b-1", workload="b")).report("b", State.LIVE).delete("b")
    running.report("b-1", State.TARGET).delete("b-1")
    succeed(running, migration)
    assert finished(running) == SUCCEEDED


def test_without_any_target_that_is_said(world: Any, migration: Migration, endpoint: Build) -> None:
    world.apply(endpoint("a"), migration(source="a", target="b")).report("a", State.BASE)
    succeed(world, migration)
    assert finished(world) == not_followed("no WorkloadEndpoint of a target was known")


def test_the_sending_half_alone_is_a_success(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("a"), migration(source="a")).report("a", State.BASE)
    succeed(world, migration, target=None)
    assert finished(world) == SUCCEEDED


def test_a_guest_with_other_addresses_is_not_followed_though_it_was_heard(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("a", ips=A), endpoint("b", ips=B), migration(source="a", target="b"))
    world.report("a", State.BASE).report("b", State.LIVE)
    succeed(world, migration).delete("a")
    world.report("b", State.BASE)
    assert world.phase() == "NotFollowed"
    assert finished(world)[2].startswith("the source has 10.0.0.1, the target 10.0.0.2")


@pytest.mark.parametrize("heard", [False, True])
def test_an_interface_that_is_not_followed_matters_where_no_other_was(
    running: Any, migration: Migration, *, heard: bool
) -> None:
    """A VM may have a masquerade interface beside one that follows."""
    running.report("b", State.LIVE if heard else State.TARGET)
    note = {names.NOT_FOLLOWED: "interface default (masquerade) is not followed"}
    found = migration(source="a", target="b", status=running.migration("m1").status.to_object())
    metadata = found.metadata.model_copy(update={"annotations": note})
    running.apply(found.model_copy(update={"metadata": metadata}))
    succeed(running, migration).report("b", State.BASE, routed=heard, cutover=None)
    assert running.phase() == ("Succeeded" if heard else "NotFollowed")
    if not heard:
        assert finished(running)[2] == "interface default (masquerade) is not followed"


def test_it_is_a_warning_and_has_its_own_label(running: Any, migration: Migration) -> None:
    running.report("b", State.TARGET).delete("b")
    before = running.migration("m1").status
    succeed(running, migration)
    after = running.migration("m1").status
    [told] = [
        each for each in kubernetes_events.describe(before, after) if each.reason == "NotFollowed"
    ]
    assert told.warning
    assert "was deleted before its guest was heard" in told.message
    assert not [
        each for each in kubernetes_events.describe(before, after) if each.reason == "Succeeded"
    ]
    count = "handover_operator_start_to_end_seconds_count"
    known = metrics.REGISTRY.get_sample_value(count, {"outcome": "NotFollowed"}) or 0
    metrics.count_progress(before, after)
    assert metrics.REGISTRY.get_sample_value(count, {"outcome": "NotFollowed"}) == known + 1


def test_it_is_told_once_and_stays(running: Any, migration: Migration) -> None:
    running.report("b", State.TARGET).delete("b")
    succeed(running, migration)
    told = running.migration("m1").status
    assert isinstance(told, LiveMigrationStatus)
    assert told.completion_time == running.now
    running.restart().wait(60)
    assert running.writes == []
    assert running.migration("m1").status == told
    assert livemigration.expiry(
        migration(source="a", ttlSecondsAfterFinished=1, status=told.to_object())
    ) == running.now - dt.timedelta(seconds=59)


def ips(text: str) -> tuple[Any, ...]:
    return tuple(ip_address(word) for word in text.split())


@pytest.mark.parametrize(
    ("sources", "targets", "wanted"),
    [
        (["10.0.0.1"], ["10.0.0.1"], None),
        (["10.0.0.1 fd00::1"], ["fd00::1 10.0.0.1"], None),
        ([], ["10.0.0.1"], None),
        (["10.0.0.1"], [], None),
        (["10.0.0.1", "192.0.2.1"], ["10.0.0.1"], None),
        (["10.0.0.1"], ["10.0.0.2"], "the source has 10.0.0.1, the target 10.0.0.2"),
        (["10.0.0.1 fd00::1"], ["10.0.0.1"], "the source has 10.0.0.1, fd00::1, the target"),
        (["10.0.0.1"], ["10.0.0.1 10.0.0.9"], "the source has 10.0.0.1, the target 10.0.0.1,"),
    ],
)
def test_addresses_that_do_not_come_along_are_an_obstacle(
    endpoint: Callable[..., Any],
    migration: Callable[..., Any],
    sources: list[str],
    targets: list[str],
    wanted: str | None,
) -> None:
    found = following.address_obstacle(
        migration(source="a", target="b"),
        [endpoint(f"s{n}", ips=ips(text)) for n, text in enumerate(sources)],
        [endpoint(f"t{n}", ips=ips(text)) for n, text in enumerate(targets)],
    )
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        assert found[0] == "AddressChanged"
        assert found[1].startswith(wanted)


def test_it_is_a_condition_and_an_event_until_it_is_mended(
    world: Any, endpoint: Callable[..., Any], migration: Callable[..., Any]
) -> None:
    world.apply(
        migration(source="a", target="b"),
        endpoint("a", ips=ips("10.0.0.1")),
        endpoint("b", ips=ips("10.0.0.1")),
    )
    assert world.condition("AddressKept") is None
    world.apply(endpoint("b", ips=ips("10.0.0.2")))
    assert world.condition("AddressKept") == ("False", "AddressChanged")
    world.apply(endpoint("b", ips=ips("10.0.0.1")))
    assert world.condition("AddressKept") == ("True", "Kept")


def test_what_is_not_followed_at_all_is_said_as_the_adapter_notes_it(
    migration: Callable[..., Any],
) -> None:
    noted = migration(target="b")
    metadata = noted.metadata.model_copy(
        update={"annotations": {names.NOT_FOLLOWED: "interface default is not followed"}}
    )
    found = following.address_obstacle(noted.model_copy(update={"metadata": metadata}), [], [])
    assert found == ("NotFollowed", "interface default is not followed")
