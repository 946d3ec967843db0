"""How migrations end, and who is told when."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from handover_api.livemigration import LiveMigration, Outcome, Phase
from handover_api.workloadendpoint import State
from handover_operator.roles import outcome
from handover_operator.roles.counts import Trait, Traits
from handover_operator.roles.model import Endpoint
from handover_operator.roles.outcome import Summary, Undecided

Migration = Callable[..., LiveMigration]
Build = Callable[..., Endpoint]

DRIVEN = [{"kind": "VMIM", "name": "vmim", "uid": "u", "controller": True}]


@pytest.fixture
def running(world: Any, migration: Migration, endpoint: Build) -> Any:
    """A migration whose target is live; the source still has its routes."""
    world.apply(*map(endpoint, "ab"), migration(source="a", target="b"))
    return world.report("a", State.BASE).report("b", State.TARGET).report("b", State.LIVE)


def test_success_is_told_to_the_source_first(running: Any, migration: Migration) -> None:
    running.apply(migration(source="a", target="b", outcome="Succeeded"))
    assert running.roles() == {"a": "source of m1 Succeeded", "b": "target of m1"}
    assert running.phase() == "Converging"
    assert running.condition("SourceLingers") == ("True", "Withdrawing")
    running.report("a", State.ASKING, routed=True)
    assert running.roles()["b"] == "target of m1"
    running.report("a", State.WITHDRAWN)
    assert running.roles()["b"] == "target of m1 Succeeded"
    assert running.condition("SourceLingers") == ("False", "Withdrawn")
    running.report("b", State.TIME_WAIT)
    assert running.phase() == "Converging"
    running.report("b", State.BASE)
    assert running.phase() == "Succeeded"
    assert running.condition("Finished") == ("True", "Succeeded")


def test_a_source_that_is_gone_keeps_no_target_waiting(running: Any, migration: Migration) -> None:
    running.apply(migration(source="a", target="b", outcome="Succeeded")).delete("a")
    assert running.roles() == {"b": "target of m1 Succeeded"}


def test_a_source_that_stops_matching_keeps_no_target_waiting(
    running: Any, migration: Migration
) -> None:
    running.apply(migration("m2", target={"endpoint": {"name": "a"}}, age=9))
    running.apply(migration(source="a", target="b", outcome="Succeeded"))
    assert running.roles() == {"a": "target of m2", "b": "target of m1"}
    running.apply(dataclasses.replace(running.endpoint("a"), workload="another"))
    assert running.roles() == {"a": "target of m2", "b": "target of m1 Succeeded"}


def test_a_source_that_lingers_is_named_by_another_reason_after_a_while(
    running: Any, migration: Migration
) -> None:
    running.apply(migration(source="a", target="b", outcome="Succeeded"))
    running.wait(6).apply(running.migration("m1"))
    assert running.condition("SourceLingers") == ("True", "StillRouted")


def test_failure_is_told_to_all_at_once_also_after_live(running: Any, migration: Migration) -> None:
    running.apply(migration(source="a", target="b", outcome="Aborted"))
    assert running.roles() == {"a": "source of m1 Aborted", "b": "target of m1 Aborted"}
    assert running.phase() == "Aborted"


def test_a_decided_migration_gives_no_new_role(
    running: Any, migration: Migration, endpoint: Build
) -> None:
    running.apply(migration(source="a", target="b", outcome="Aborted"))
    running.apply(endpoint("b-1", workload="b"), endpoint("a", uid="anew"))
    assert running.roles()["b-1"] == "-"
    assert running.roles()["a"] == "-"


def test_targets_that_are_not_live_are_told_aborted(
    running: Any, migration: Migration, endpoint: Build
) -> None:
    running.apply(endpoint("b-1", workload="b"))
    running.apply(migration(source="a", target="b", outcome="Succeeded"))
    running.report("a", State.WITHDRAWN)
    assert running.roles()["b"] == "target of m1 Succeeded"
    assert running.roles()["b-1"] == "target of m1 Aborted"
    running.report("b", State.BASE)
    assert running.phase() == "Succeeded"


def test_where_no_target_is_live_all_are_told_of_the_success(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(*map(endpoint, "ab"), migration(source="a", target="b")).report("b", State.TARGET)
    world.apply(migration(source="a", target="b", outcome="Succeeded"))
    assert world.roles() == {"a": "source of m1 Succeeded", "b": "target of m1 Succeeded"}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (4, {"b": "target of m1"}),
        (5, {"b": "target of m1 Succeeded"}),
    ],
)
def test_a_lost_source_decides_an_undriven_migration_after_5_s(
    running: Any, after: float, expected: dict[str, str]
) -> None:
    running.delete("a")
    assert running.wake is not None
    assert (running.wake - running.now).total_seconds() == 5
    running.wait(after)
    assert running.roles() == expected


def test_a_source_that_comes_back_in_time_decides_nothing(running: Any, endpoint: Build) -> None:
    running.delete("a").wait(4).apply(endpoint("a")).wait(9)
    assert running.roles() == {"a": "source of m1", "b": "target of m1"}
    assert running.wake is None


def test_a_driven_migration_waits_for_its_driver(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(*map(endpoint, "ab"), migration(source="a", target="b", owners=DRIVEN))
    world.report("b", State.LIVE).delete("a").wait(60)
    assert world.roles() == {"b": "target of m1"}


def test_a_source_that_was_never_there_decides_nothing(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("b"), migration(source="a", target="b"))
    world.report("b", State.LIVE).wait(60)
    assert world.roles() == {"b": "target of m1"}


def test_naming_another_source_forgets_that_the_first_was_there(
    running: Any, migration: Migration
) -> None:
    running.apply(migration(source="nobody", target="b")).delete("a").wait(60)
    assert running.roles() == {"b": "target of m1"}


def test_the_loss_is_remembered_over_a_restart(running: Any) -> None:
    running.delete("a").restart().wait(5)
    assert running.roles() == {"b": "target of m1 Succeeded"}


def test_a_decision_by_time_stands_before_the_status_tells_it(
    running: Any, endpoint: Build
) -> None:
    running.delete("a")
    running.resolver.resolve(running.now + dt.timedelta(seconds=5))
    running.apply(endpoint("a"))
    assert running.roles() == {"a": "-", "b": "target of m1 Succeeded"}


def test_a_decision_by_time_is_remembered_over_a_restart(running: Any, endpoint: Build) -> None:
    running.delete("a").wait(5).apply(endpoint("a")).restart()
    assert running.roles() == {"a": "-", "b": "target of m1 Succeeded"}


class TestTheMigrationIsDeleted:
    """No finalizer: the endpoints' annotations and status tell the rest."""

    def test_before_any_life_it_is_aborted(
        self, world: Any, migration: Migration, endpoint: Build
    ) -> None:
        world.apply(*map(endpoint, "ab"), migration(source="a", target="b"))
        world.report("a", State.BASE).report("b", State.TARGET).delete("m1")
        assert world.roles() == {"a": "source of m1 Aborted", "b": "target of m1 Aborted"}

    def test_after_live_it_succeeded_and_keeps_the_order(self, running: Any) -> None:
        running.delete("m1")
        assert running.roles() == {"a": "source of m1 Succeeded", "b": "target of m1"}
        running.report("a", State.WITHDRAWN)
        assert running.roles() == {
            "a": "source of m1 Succeeded",
            "b": "target of m1 Succeeded",
        }

    def test_a_restart_in_the_middle_changes_nothing(self, running: Any) -> None:
        running.delete("m1").report("b", State.ASKING, acted_uid="uid-m1").restart()
        assert running.writes == []
        assert running.roles() == {"a": "source of m1 Succeeded", "b": "target of m1"}

    def test_what_the_source_was_told_stands(
        self, world: Any, endpoint: Build, assignment: Any, cutover: Any
    ) -> None:
        world.apply(
            endpoint("a", assignment=assignment("source of m1 Aborted")),
            endpoint(
                "b",
                assignment=assignment("target of m1"),
                state=State.LIVE,
                acted_uid="uid-m1",
                cutover=cutover("uid-m1"),
            ),
        )
        assert world.roles()["b"] == "target of m1 Aborted"

    def test_made_anew_with_the_same_id_it_goes_on(
        self, world: Any, migration: Migration, endpoint: Build
    ) -> None:
        world.apply(*map(endpoint, "ab"), migration(source="a", target="b", id="x"))
        world.report("b", State.LIVE).delete("m1")
        world.apply(migration(source="a", target="b", id="x", object_uid="second"))
        assert world.roles() == {"a": "source of m1", "b": "target of m1"}

    def test_replaced_under_its_name_between_two_looks_it_is_another_one(
        self, running: Any, migration: Migration
    ) -> None:
        running.apply(migration(source="a", target="b", object_uid="second"))
        assert running.endpoint("b").assignment.migration_uid == "second"


class TestNobodyCanReadTheMigration:
    """A malformed object must not look like a deleted one."""

    def test_its_roles_stay(self, running: Any, migration: Migration) -> None:
        key = migration().key
        endpoints = list(running.resolver.index.endpoints.values())
        fresh = type(running)()
        fresh.resolver.put_unreadable(key, "uid-m1")
        fresh.apply(*endpoints)
        assert fresh.writes == []

    def test_its_last_readable_version_stays_in_force(
        self, running: Any, migration: Migration
    ) -> None:
        running.resolver.put_unreadable(migration().key, "uid-m1")
        running.settle().apply(*running.resolver.index.endpoints.values())
        assert running.roles() == {"a": "source of m1", "b": "target of m1"}

    def test_when_it_is_deleted_its_roles_end(
        self, world: Any, migration: Migration, endpoint: Build, assignment: Any
    ) -> None:
        world.resolver.put_unreadable(migration().key, "uid-m1")
        world.apply(endpoint("b", assignment=assignment("target of m1")))
        assert world.roles() == {"b": "target of m1"}
        world.delete("m1")
        assert world.roles() == {"b": "target of m1 Aborted"}


def test_two_migrations_with_one_id_are_told_apart_by_name(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("b"), migration(target="b", id="x"))
    world.apply(migration("m2", id="x", source="z", outcome="Succeeded", age=9))
    world.apply(migration(target="b", id="x", outcome="Aborted"))
    assert world.roles() == {"b": "target of m1 Aborted"}


def test_a_name_that_fits_none_falls_back_to_the_newest_with_that_id(
    world: Any, migration: Migration, endpoint: Build, assignment: Any
) -> None:
    world.apply(
        migration("m3", id="x", source="z", outcome="Aborted"),
        migration("m2", id="x", source="z", outcome="Succeeded", age=9),
        endpoint("b", assignment=assignment("target of gone", "x")),
    )
    assert world.roles() == {"b": "target of gone Succeeded"}


def test_roles_without_a_migration_are_judged_again_when_their_driver_goes(running: Any) -> None:
    """Guards: what a driver said to be under way would otherwise stay so for ever."""
    running.driven["uid-m1"] = Undecided.UNDER_WAY
    running.delete("m1")
    assert running.roles() == {"a": "source of m1", "b": "target of m1"}
    running.driven.clear()
    running.resolver.mark_all_roles()
    running.wait(0)
    assert running.roles() == {"a": "source of m1 Succeeded", "b": "target of m1"}


class TestTheGuestContradictsAnAbort:
    """A late cancel: it was told Aborted, and the VM moved all the same."""

    @pytest.fixture(params=["said", "deleted"])
    def aborted(self, request: Any, world: Any, migration: Migration, endpoint: Build) -> Any:
        """Aborted by word or by deletion, before any life; the target's agent has withdrawn."""
        world.apply(*map(endpoint, "ab"), migration(source="a", target="b"))
        world.report("a", State.BASE).report("b", State.TARGET)
        if request.param == "said":
            status = world.migration("m1").status.to_object()
            world.apply(migration(source="a", target="b", outcome="Aborted", status=status))
        else:
            world.delete("m1")
        world.report("a", State.BASE).report("b", State.WITHDRAWN)
        assert world.roles() == {"a": "source of m1 Aborted", "b": "target of m1 Aborted"}
        return world

    @pytest.mark.parametrize("state", [State.TIME_WAIT, State.LIVE])
    def test_the_source_is_told_that_it_left_and_the_target_waits(
        self, aborted: Any, cutover: Any, state: State
    ) -> None:
        aborted.report("b", state, cutover=cutover("uid-m1"))
        expected = {"a": "source of m1 Succeeded", "b": "target of m1 Aborted"}
        assert aborted.roles() == expected
        aborted.report("a", State.ASKING, routed=True)
        assert aborted.roles() == expected
        assert aborted.restart().roles() == expected
        aborted.report("a", State.WITHDRAWN)
        assert aborted.roles() == {"a": "source of m1 Succeeded", "b": "target of m1 Succeeded"}

    def test_a_source_that_is_gone_keeps_it_waiting_no_longer(
        self, aborted: Any, cutover: Any
    ) -> None:
        aborted.report("b", State.TIME_WAIT, cutover=cutover("uid-m1")).delete("a")
        assert aborted.roles() == {"b": "target of m1 Succeeded"}

    def test_a_target_that_fell_back_to_base_is_heard_too(self, aborted: Any, cutover: Any) -> None:
        aborted.report("b", State.BASE, cutover=cutover("uid-m1"))
        assert aborted.roles()["a"] == "source of m1 Succeeded"

    @pytest.mark.parametrize(
        "report",
        [
            {"state": State.TIME_WAIT, "acted_role": "target"},  # it has not acted upon the word
            {"state": State.ASKING, "routed": True},  # it does not know yet
            {"state": State.TIME_WAIT, "routed": False},
            {"state": State.TIME_WAIT, "acted_uid": "another"},
            {"state": State.BASE, "cutover": None},
            {"state": State.WITHDRAWN, "routed": True},
        ],
    )
    def test_nothing_less_than_a_guest_that_was_heard_since_contradicts(
        self, aborted: Any, cutover: Any, report: dict[str, Any]
    ) -> None:
        aborted.report("b", **{"cutover": cutover("uid-m1"), **report})
        assert aborted.roles() == {"a": "source of m1 Aborted", "b": "target of m1 Aborted"}

    def test_an_armed_word_of_the_failure_goes_when_the_guest_is_there(
        self, aborted: Any, cutover: Any
    ) -> None:
        said = dataclasses.replace(aborted.endpoint("b").assignment, armed=False)
        aborted.apply(dataclasses.replace(aborted.endpoint("b"), assignment=said)).delete("a")
        aborted.report("b", State.TIME_WAIT, cutover=cutover("uid-m1"))
        assert aborted.endpoint("b").assignment.armed


def test_a_contradiction_is_a_condition_of_the_finished_migration(
    world: Any, migration: Migration, endpoint: Build, cutover: Any
) -> None:
    world.apply(*map(endpoint, "ab"), migration(source="a", target="b"))
    world.report("a", State.BASE).report("b", State.TARGET)
    status = world.migration("m1").status.to_object()
    world.apply(migration(source="a", target="b", outcome="Aborted", status=status))
    assert (world.phase(), world.condition("Contradicted")) == ("Aborted", None)
    world.report("b", State.TIME_WAIT, cutover=cutover("uid-m1"))
    assert world.condition("Contradicted") == ("True", "GuestMoved")
    [told] = [c for c in world.migration("m1").status.conditions if c.type == "Contradicted"]
    assert told.message == (
        "the guest runs where the migration was aborted: b on node-b;"
        " told to ask and let go: a on node-a"
    )
    world.report("a", State.WITHDRAWN).report("b", State.BASE, cutover=cutover("uid-m1"))
    assert world.condition("Contradicted") == ("False", "Followed")
    assert (world.phase(), world.condition("Finished")) == ("Aborted", ("True", "Aborted"))


def test_a_source_that_its_agent_serves_anew_keeps_the_target_waiting(
    world: Any, migration: Migration, endpoint: Build, cutover: Any
) -> None:
    """Its endpoint was made anew: no annotation tells it anything, but the spec names it."""
    world.apply(*map(endpoint, "ab"), migration(source="a", target="b"))
    world.report("a", State.BASE).report("b", State.TARGET)
    world.apply(migration(source="a", target="b", outcome="Aborted")).delete("a")
    world.apply(endpoint("a", uid="anew", state=State.BASE, routed=True))
    world.report("b", State.TIME_WAIT, cutover=cutover("uid-m1"))
    assert world.roles() == {"a": "-", "b": "target of m1 Aborted"}
    world.report("a", State.BASE, routed=False)
    assert world.roles()["b"] == "target of m1 Succeeded"


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (None, None),
        (Phase.PENDING, None),
        (Phase.PREPARING, None),
        (Phase.READY, None),
        (Phase.LIVE, None),
        (Phase.CONVERGING, Outcome.SUCCEEDED),
        (Phase.SUCCEEDED, Outcome.SUCCEEDED),
        (Phase.NOT_FOLLOWED, Outcome.SUCCEEDED),
        (Phase.ABORTED, Outcome.ABORTED),
    ],
)
def test_the_phase_that_was_given_is_a_decision(
    migration: Migration, phase: Phase | None, expected: Outcome | None
) -> None:
    status = {} if phase is None else {"phase": phase}
    assert outcome.decision(migration(status=status)) is expected
    for said in Outcome:
        assert outcome.decision(migration(status=status, outcome=said)) is said


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (set(), Outcome.ABORTED),
        ({Trait.SOURCE, Trait.ROUTED, Trait.UNTOLD}, Outcome.ABORTED),
        ({Trait.ARRIVED}, Outcome.SUCCEEDED),
        ({Trait.SOURCE_TOLD_OF_ABORT, Trait.ARRIVED}, Outcome.ABORTED),
        ({Trait.SOURCE_TOLD_OF_ABORT, Trait.UNTOLD, Trait.ARRIVED}, Outcome.SUCCEEDED),
        ({Trait.SOURCE_TOLD_OF_ABORT, Trait.TOLD_OF_SUCCESS}, Outcome.SUCCEEDED),
        ({Trait.TOLD_OF_SUCCESS}, Outcome.SUCCEEDED),
    ],
)
def test_without_an_object_what_was_told_decides_and_then_life(
    seen: set[Trait], expected: Outcome
) -> None:
    assert outcome.orphaned(frozenset(seen)) is expected


@pytest.mark.parametrize(
    ("seen", "alive", "routed", "lingering"),
    [
        ({Trait.ALIVE}, True, False, False),
        ({Trait.ROUTED}, False, True, True),
        ({Trait.UNTOLD}, False, False, True),
        (set(Trait) - {Trait.ALIVE, Trait.ROUTED, Trait.UNTOLD}, False, False, False),
    ],
)
def test_what_a_view_says(seen: set[Trait], *, alive: bool, routed: bool, lingering: bool) -> None:
    summary = Summary(traits=frozenset(seen))
    assert (summary.alive, summary.routed, summary.is_lingering) == (alive, routed, lingering)
    assert summary.decision is None


LOST: Traits = frozenset({Trait.ALIVE})


@pytest.mark.parametrize(
    ("summary", "owners", "had_source", "expected"),
    [
        (Summary(None, LOST), [], True, True),
        (Summary(Outcome.ABORTED, LOST), [], True, False),
        (Summary(None), [], True, False),
        (Summary(None, LOST | {Trait.SOURCE}), [], True, False),
        (Summary(None, LOST), DRIVEN, True, False),
        (Summary(None, LOST), [], False, False),
    ],
)
def test_a_source_is_lost_only_where_all_says_so(
    migration: Migration,
    summary: Summary,
    owners: Any,
    *,
    had_source: bool,
    expected: bool,
) -> None:
    found = outcome.has_lost_source(migration(owners=owners), summary, had_source=had_source)
    assert found is expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], False),
        ([("SourceResolved", "True", "Resolved")], True),
        ([("SourceResolved", "False", "Gone")], True),
        ([("SourceResolved", "False", "NotFound")], False),
        ([("TargetResolved", "True", "Resolved")], False),
    ],
)
def test_a_status_says_whether_there_was_a_source(
    migration: Migration, conditions: list[tuple[str, str, str]], *, expected: bool
) -> None:
    said = [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, status, reason in conditions
    ]
    assert outcome.had_source(migration(status={"conditions": said})) is expected


CONTRADICTED: Traits = frozenset({Trait.CONTRADICTING, Trait.SERVING})


@pytest.mark.parametrize(
    ("said", "seen", "expected"),
    [
        ("source of m1 Aborted", CONTRADICTED, "Succeeded"),
        ("source of m1 Aborted", frozenset({Trait.SERVING}), "Aborted"),
        ("target of m1 Aborted", CONTRADICTED, "Aborted"),
        ("target of m1 Aborted", frozenset({Trait.CONTRADICTING}), "Aborted"),
        ("source of m1 Succeeded", CONTRADICTED, "Succeeded"),
        ("source of m1", CONTRADICTED, None),
    ],
)
def test_a_contradicted_abort_is_corrected_for_the_source_first(
    endpoint: Build, assignment: Any, said: str, seen: Traits, expected: str | None
) -> None:
    """The target here has no guest: another one of the same migration has it."""
    before = dataclasses.replace(assignment(said), armed=False)
    found = outcome.corrected(endpoint("a", assignment=before), seen)
    assert found.outcome == expected
    assert found.armed == (found.outcome != before.outcome)


def test_the_sources_are_those_of_the_spec_and_those_that_were_told(
    world: Any, migration: Migration, endpoint: Build, assignment: Any
) -> None:
    spoken = {
        "carries": "source of m1",
        "succeeded": "source of m1 Succeeded",
        "aborted": "source of m1 Aborted",
        "target": "target of m1",
        "another": "source of m2",
    }
    for name, said in spoken.items():
        world.resolver.put_endpoint(endpoint(name, assignment=assignment(said)))
    for name in "ab":
        world.resolver.put_endpoint(endpoint(name))
    given = migration(source="a", target="b")
    world.resolver.put_migration(given)
    found = outcome.sources(world.resolver.index, given)
    assert [each.key.name for each in found] == ["a", "carries", "succeeded"]
