"""The rules of the roles, as short stories of a few endpoints."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from handover_api.assignment import Assignment
from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, State
from handover_operator.roles import rules
from handover_operator.roles.model import Endpoint
from handover_operator.roles.rules import Reason

Migration = Callable[..., LiveMigration]
Build = Callable[..., Endpoint]

WEB = {"selector": {"matchLabels": {"app": "web"}}}


def named(name: str) -> dict[str, Any]:
    """Name an endpoint."""
    return {"endpoint": {"name": name}}


def test_source_and_target_get_their_roles(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(migration(source="a", target="b"), endpoint("a"), endpoint("b"), endpoint("c"))
    assert world.roles() == {"a": "source of m1", "b": "target of m1", "c": "-"}


def test_target_beats_source_of_another_migration(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("a"), migration(source="a", age=9), migration("m2", target="a"))
    assert world.roles() == {"a": "target of m2"}


def test_what_a_migration_names_as_source_is_no_target_of_it(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    labels = {"app": "web"}
    world.apply(
        migration(source="a", target=WEB),
        endpoint("a", labels=labels),
        endpoint("b", labels=labels),
    )
    assert world.roles() == {"a": "source of m1", "b": "target of m1"}
    assert world.condition("Conflicted") == ("True", "SelectorMatchesSource")


def test_workload_marks_every_endpoint_of_it_and_endpoint_just_the_one(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(
        *(endpoint(f"a-{nic}", workload="a") for nic in range(2)),
        *(endpoint(f"b-{nic}", workload="b") for nic in range(2)),
        migration(source="a", target=named("b-1")),
    )
    assert world.roles() == {
        "a-0": "source of m1",
        "a-1": "source of m1",
        "b-0": "-",
        "b-1": "target of m1",
    }


def test_names_are_resolved_in_the_own_namespace_only(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("a", namespace="other"), migration(source="a", target="b"))
    assert world.roles() == {"a": "-"}


def test_losing_one_of_two_reasons_keeps_the_role(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(
        endpoint("b", labels={"app": "web", "vm": "x"}),
        migration(target=WEB),
        migration("m2", target={"selector": {"matchLabels": {"vm": "x"}}}, age=1),
    )
    assert world.roles() == {"b": "target of m2"}
    world.delete("m2")
    assert world.roles() == {"b": "target of m1"}
    world.delete("m1")
    assert world.roles() == {"b": "target of m1 Aborted"}


@pytest.mark.parametrize("order", [("m1", "m2"), ("m2", "m1")])
def test_the_newest_migration_gives_the_uid(
    world: Any, migration: Migration, endpoint: Build, order: tuple[str, str]
) -> None:
    migrations = {"m1": migration(target="b", age=5), "m2": migration("m2", target=WEB, age=4)}
    world.apply(endpoint("b", labels={"app": "web"}), *(migrations[name] for name in order))
    assert world.endpoint("b").assignment.migration_uid == "uid-m1"


def test_at_the_same_second_the_greater_uid_is_the_newer(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("b"), migration("m2", target="b"), migration("m1", target="b"))
    assert world.roles() == {"b": "target of m2"}


def test_spec_id_is_the_uid_that_is_written(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("b"), migration(target="b", id="vmim-7"))
    assert world.endpoint("b").assignment.migration_uid == "vmim-7"


def test_armed_follows_the_spec(world: Any, migration: Migration, endpoint: Build) -> None:
    world.apply(endpoint("b"), migration(target="b", armed=False))
    assert world.endpoint("b").assignment.armed is False
    world.apply(migration(target="b", armed=True))
    assert world.endpoint("b").assignment.armed is True


def test_a_changed_source_withdraws_the_old_and_leaves_the_target_alone(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(*map(endpoint, "abc"), migration(source="a", target="b"))
    world.writes.clear()
    world.apply(migration(source="c", target="b"))
    assert world.roles() == {
        "a": "source of m1 Aborted",
        "b": "target of m1",
        "c": "source of m1",
    }
    assert not [write for write in world.writes if write.startswith("b:")]


def test_a_target_whose_label_goes_is_told_aborted(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("b", labels={"app": "web"}), migration(target=WEB))
    said = world.endpoint("b").assignment
    world.apply(endpoint("b", assignment=said))
    assert world.roles() == {"b": "target of m1 Aborted"}


def test_a_deleted_endpoint_that_comes_back_gets_its_role_anew(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("a"), migration(source="a"))
    world.writes.clear()
    world.delete("a")
    assert not [write for write in world.writes if write.startswith("a:")]
    world.apply(endpoint("a", uid="another"))
    assert world.roles() == {"a": "source of m1"}


def test_an_unchanged_object_writes_nothing(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("a"), migration(source="a", target="b"), endpoint("b"))
    world.writes.clear()
    world.apply(world.endpoint("a"), world.migration("m1"), world.endpoint("b"))
    assert world.writes == []


def test_a_role_without_a_uid_is_ended_as_aborted(world: Any, endpoint: Build) -> None:
    world.apply(endpoint("b", assignment=Assignment(role=Role.TARGET)))
    said = world.endpoint("b").assignment
    assert (said.role, said.outcome, said.ended_role) == (None, "Aborted", "target")


class TestTheGuestMovesOn:
    """A→B has cut over and is not decided yet when B→C begins."""

    @pytest.fixture
    def moving(self, world: Any, migration: Migration, endpoint: Build) -> Any:
        """B is live for m1, a still has routes, m2 is about to take the guest to c."""
        world.apply(*map(endpoint, "abc"), migration(source="a", target="b", owners=DRIVEN))
        world.report("a", State.BASE).report("b", State.TARGET).report("b", State.LIVE)
        return world.apply(migration("m2", source="b", target="c", age=9))

    def test_it_stays_target_while_the_old_source_has_routes(self, moving: Any) -> None:
        assert moving.roles()["b"] == "target of m1"

    def test_it_is_source_when_the_old_source_has_no_routes(self, moving: Any) -> None:
        moving.report("a", State.WITHDRAWN)
        assert moving.roles()["b"] == "source of m2"

    def test_it_is_source_when_the_old_source_is_gone(self, moving: Any) -> None:
        moving.delete("a")
        assert moving.roles()["b"] == "source of m2"

    def test_it_is_source_when_the_new_target_is_live(self, moving: Any) -> None:
        moving.report("c", State.LIVE)
        assert moving.roles()["b"] == "source of m2"

    def test_it_stays_source_after_its_agent_followed(self, moving: Any) -> None:
        moving.delete("a").report("b", State.BASE)
        assert moving.roles()["b"] == "source of m2"

    def test_a_decided_first_migration_holds_it_until_its_source_is_done(
        self, moving: Any, migration: Migration
    ) -> None:
        moving.apply(
            moving.migration("m1").model_copy(
                update={"spec": migration(source="a", target="b", outcome="Succeeded").spec}
            )
        )
        assert moving.roles()["a"] == "source of m1 Succeeded"
        assert moving.roles()["b"] == "target of m1"
        moving.report("a", State.WITHDRAWN)
        assert moving.roles()["b"] == "source of m2"

    def test_a_deleted_first_migration_holds_it_too(self, moving: Any) -> None:
        moving.delete("m1")
        assert moving.roles()["b"] == "target of m1"
        moving.report("c", State.LIVE)
        assert moving.roles()["b"] == "source of m2"


DRIVEN = [{"kind": "VMIM", "name": "vmim", "uid": "u", "controller": True}]


def test_an_older_migration_does_not_make_a_live_target_its_source(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(*map(endpoint, "ab"), migration(source="a", target="b", age=9))
    world.report("b", State.LIVE)
    world.apply(migration("m0", source="b"))
    assert world.roles()["b"] == "target of m1"


def test_a_target_that_was_never_live_stays_target(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(*map(endpoint, "ab"), migration(target="b"), migration("m2", source="b", age=9))
    world.report("b", State.TARGET)
    assert world.roles()["b"] == "target of m1"


def test_moving_back_makes_the_old_source_target_at_once(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(*map(endpoint, "ab"), migration(source="a", target="b"))
    world.report("a", State.BASE).report("b", State.LIVE)
    world.apply(migration("m2", source="b", target="a", age=9))
    assert world.roles() == {"a": "target of m2", "b": "target of m1"}
    world.report("a", State.TARGET)
    assert world.roles() == {"a": "target of m2", "b": "source of m2"}


class TestTheOlderMigrationIsToldLast:
    """A→B and B→A are over; of the second one the outcome was told first."""

    @pytest.fixture
    def returned(self, world: Any, migration: Migration, endpoint: Build) -> Any:
        """The guest is on A again, and A→B has no outcome yet."""
        world.apply(*map(endpoint, "ab"), migration(source="a", target="b", owners=DRIVEN))
        world.report("a", State.BASE).report("b", State.LIVE)
        world.apply(migration("m2", source="b", target="a", age=9, owners=DRIVEN))
        world.report("a", State.LIVE)
        world.apply(
            migration("m2", source="b", target="a", age=9, owners=DRIVEN, outcome="Succeeded")
        )
        world.report("b", State.WITHDRAWN)
        return world

    def test_it_makes_no_target_of_where_the_guest_has_been(self, returned: Any) -> None:
        """Guards: the node would take the traffic of a guest that left it."""
        assert returned.roles() == {"a": "target of m2 Succeeded", "b": "source of m2 Succeeded"}

    def test_its_outcome_changes_nothing_any_more(
        self, returned: Any, migration: Migration
    ) -> None:
        status = returned.migration("m1").status.to_object()
        done = migration(source="a", target="b", owners=DRIVEN, outcome="Succeeded", status=status)
        returned.apply(done).report("a", State.BASE)
        assert returned.roles() == {"a": "target of m2 Succeeded", "b": "source of m2 Succeeded"}
        assert returned.phase() == "Succeeded"

    def test_a_newer_migration_brings_the_guest_back(
        self, returned: Any, migration: Migration
    ) -> None:
        returned.apply(migration("m3", source="a", target="b", age=10, owners=DRIVEN))
        assert returned.roles()["b"] == "target of m3"

    def test_one_of_the_same_second_may_be_the_newer_one(
        self, returned: Any, migration: Migration
    ) -> None:
        returned.apply(migration("m0", source="a", target="b", age=9, owners=DRIVEN))
        assert returned.roles()["b"] == "target of m0"


class TestTheClaimComesTooLate:
    """B→C has moved the guest; an older migration is corrected to name B."""

    @pytest.fixture
    def late(self, world: Any, migration: Migration, endpoint: Build) -> Any:
        """The guest has left b with m2, and m1 of before claims b as its target."""
        world.apply(*map(endpoint, "abc"), migration(source="a", target="x", owners=DRIVEN))
        world.apply(migration("m2", source="b", target="c", age=9, owners=DRIVEN))
        world.report("b", State.BASE).report("c", State.LIVE)
        done = migration("m2", source="b", target="c", age=9, owners=DRIVEN, outcome="Succeeded")
        world.apply(done).report("b", State.WITHDRAWN).report("c", State.BASE)
        return world.apply(migration(source="a", target="b", owners=DRIVEN))

    def test_it_is_refused_openly(self, late: Any) -> None:
        assert late.roles()["b"] == "source of m2 Succeeded"
        assert late.condition("Conflicted") == ("True", "Superseded")
        assert late.condition("TargetReady") == ("False", "NotListening")
        assert "moved since" in message(late, "TargetReady")
        assert message(late, "Conflicted").startswith("endpoint b was moved since by a newer")

    def test_no_agent_is_blamed_for_it(self, late: Any) -> None:
        late.wait(60).apply(late.migration("m1"))
        assert late.condition("TargetReady") == ("False", "NotListening")

    @pytest.mark.parametrize("restarted", [False, True])
    def test_it_does_not_come_alive_when_the_newer_one_is_deleted(
        self, late: Any, *, restarted: bool
    ) -> None:
        if restarted:
            late.restart()
        late.delete("m2")
        if restarted:
            late.restart()
        assert late.roles()["b"] == "source of m2 Succeeded"
        assert late.condition("Conflicted") == ("True", "Superseded")

    def test_a_newer_one_is_not_refused_after_that(self, late: Any, migration: Migration) -> None:
        late.delete("m2").apply(migration("m3", source="c", target="b", age=30, owners=DRIVEN))
        assert late.roles()["b"] == "target of m3"

    def test_an_endpoint_made_anew_was_moved_by_nobody(self, late: Any, endpoint: Build) -> None:
        late.delete("m2").apply(endpoint("b", uid="anew"))
        assert late.roles()["b"] == "target of m1"


def message(world: Any, wanted: str, name: str = "m1") -> str:
    """Return the message of a condition."""
    [found] = [c.message for c in world.migration(name).status.conditions if c.type == wanted]
    return str(found)


class TestArmed:
    """It guards what may give a route, and no answer of a guest whose routes are in."""

    def test_only_a_target_waits_to_be_armed(
        self, world: Any, migration: Migration, endpoint: Build
    ) -> None:
        world.apply(*map(endpoint, "ab"), migration(source="a", target="b", armed=False))
        assert (world.endpoint("a").assignment.armed, world.endpoint("b").assignment.armed) == (
            True,
            False,
        )

    def test_it_goes_with_the_role_of_a_success(
        self, world: Any, migration: Migration, endpoint: Build
    ) -> None:
        world.apply(*map(endpoint, "ab"), migration(source="a", target="b", armed=False))
        world.report("b", State.LIVE)
        world.apply(migration(source="a", target="b", armed=False, outcome="Succeeded"))
        world.report("a", State.WITHDRAWN)
        assert world.roles()["b"] == "target of m1 Succeeded"
        assert world.endpoint("b").assignment.armed

    def test_the_pods_own_kernel_is_not_believed_after_an_abort(
        self, world: Any, migration: Migration, endpoint: Build
    ) -> None:
        """Guards: it answers for the guest's address until KubeVirt has taken that away."""
        world.apply(*map(endpoint, "ab"), migration(source="a", target="b", armed=False))
        world.report("b", State.TARGET)
        world.apply(migration(source="a", target="b", armed=False, outcome="Aborted"))
        assert (world.endpoint("a").assignment.armed, world.endpoint("b").assignment.armed) == (
            True,
            False,
        )

    def test_who_was_armed_once_stays_so(
        self, world: Any, migration: Migration, endpoint: Build
    ) -> None:
        world.apply(*map(endpoint, "ab"), migration(source="a", target="b"))
        world.apply(migration(source="a", target="b", outcome="Aborted"))
        assert world.roles()["b"] == "target of m1 Aborted"
        assert world.endpoint("b").assignment.armed

    def test_a_source_that_an_older_operator_left_unarmed_is_mended(
        self, world: Any, migration: Migration, endpoint: Build, assignment: Any
    ) -> None:
        unarmed = dataclasses.replace(assignment("source of m1"), armed=False)
        world.apply(endpoint("a", assignment=unarmed), migration(source="a", armed=False))
        assert world.endpoint("a").assignment.armed

    def test_a_source_is_armed_also_when_it_ends(
        self, world: Any, endpoint: Build, assignment: Any
    ) -> None:
        unarmed = dataclasses.replace(assignment("source of m1"), armed=False)
        world.apply(endpoint("a", assignment=unarmed))
        assert world.roles() == {"a": "source of m1 Aborted"}
        assert world.endpoint("a").assignment.armed


def reason(world: Any, *objects: LiveMigration | Endpoint) -> Reason:
    """Take all in at once; return by which rule endpoint b has the role that it has."""
    for thing in objects:
        if isinstance(thing, Endpoint):
            world.resolver.put_endpoint(thing)
        else:
            world.resolver.put_migration(thing)
    world.resolver.resolve(world.now)
    found: Reason = world.resolver.verdict(endpoint_key("b")).reason
    return found


def endpoint_key(name: str) -> ObjectKey:
    """Return the key of an endpoint."""
    return ObjectKey("default", name)


class TestTheRuleIsNamed:
    """Metric and log say why an endpoint has its role."""

    @pytest.mark.parametrize(
        ("sides", "expected"),
        [
            ([{"source": "b"}], Reason.SOURCE_BY_NAME),
            ([{"target": "b"}], Reason.TARGET_BY_NAME),
            ([{"target": WEB}], Reason.TARGET_BY_SELECTOR),
            ([{"target": "b"}, {"target": WEB}], Reason.TARGET_BY_SELECTOR),
            ([{"target": "b"}, {"source": "b"}], Reason.TARGET_BY_NAME),
            ([], Reason.NONE),
        ],
    )
    def test_of_a_role_that_is_given(
        self,
        world: Any,
        migration: Migration,
        endpoint: Build,
        sides: list[dict[str, Any]],
        expected: Reason,
    ) -> None:
        given = [migration(f"m{number}", **side) for number, side in enumerate(sides)]
        assert reason(world, endpoint("b", labels={"app": "web"}), *given) is expected

    def test_of_one_that_waits_for_its_source(
        self, world: Any, migration: Migration, endpoint: Build, assignment: Any
    ) -> None:
        a = endpoint("a", assignment=assignment("source of m1"))
        b = endpoint("b", assignment=assignment("target of m1"))
        done = migration(source="a", target="b", outcome="Succeeded")
        assert reason(world, a, b, done) is Reason.HELD

    @pytest.mark.parametrize("said", ["source of m1", "target of m1"])
    def test_of_one_that_ends(
        self, world: Any, endpoint: Build, assignment: Any, said: str
    ) -> None:
        assert reason(world, endpoint("b", assignment=assignment(said))) is Reason.ENDED

    def test_of_one_that_nobody_may_end(
        self, world: Any, migration: Migration, endpoint: Build, assignment: Any
    ) -> None:
        world.resolver.put_unreadable(migration().key, "uid-m1")
        told = endpoint("b", assignment=assignment("target of m1"))
        assert reason(world, told) is Reason.HELD

    def test_of_one_whose_abort_is_contradicted(
        self, world: Any, endpoint: Build, assignment: Any, cutover: Any
    ) -> None:
        told = endpoint(
            "b",
            assignment=assignment("target of m1 Aborted"),
            state=State.TIME_WAIT,
            acted_uid="uid-m1",
            cutover=cutover("uid-m1"),
            routed=True,
        )
        assert reason(world, told) is Reason.CONTRADICTED
        untouched = dataclasses.replace(told, routed=False)
        assert reason(world, untouched) is Reason.NONE


def test_a_migration_without_a_time_is_older_than_every_other(migration: Migration) -> None:
    given = migration("m9")
    timeless = given.model_copy(
        update={"metadata": given.metadata.model_copy(update={"creation_timestamp": None})}
    )
    assert rules.age(timeless) < rules.age(migration("m1"))


def test_of_several_moves_one_that_has_arrived_is_enough(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(*map(endpoint, "abcd"), migration(source="a", target="b", owners=DRIVEN))
    world.report("a", State.BASE).report("b", State.LIVE)
    world.apply(migration("m2", source="b", target="c", age=8, owners=DRIVEN))
    world.apply(migration("m3", source="b", target="d", age=9, owners=DRIVEN))
    assert world.roles()["b"] == "target of m1"
    world.report("c", State.LIVE)
    assert world.roles()["b"] == "source of m3"
