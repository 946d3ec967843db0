"""What the incremental resolver looks at again, case by case; the random worlds stand beside."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from handover_api.assignment import Assignment
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, State
from handover_operator.roles.model import Endpoint
from handover_operator.roles.outcome import Undecided
from handover_operator.roles.resolver import Resolver

Migration = Callable[..., LiveMigration]
Build = Callable[..., Endpoint]
Driven = dict[str, Outcome | Undecided]

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


def key(name: str) -> ObjectKey:
    """Return the key of an object by its name."""
    return ObjectKey("default", name)


def names(keys: Any) -> set[str]:
    """Return the names of these keys."""
    return {each.name for each in keys}


@pytest.fixture
def driven() -> Driven:
    """Return what a driver says of migrations, by their uids: nothing so far."""
    return {}


@pytest.fixture
def resolver(driven: Driven) -> Resolver:
    """Return one that knows nothing."""
    return Resolver(driven.get)


class TestBudget:
    """One turn costs about so many claims, and nobody is overtaken."""

    def test_a_turn_ends_when_its_budget_is_spent(
        self, resolver: Resolver, endpoint: Build
    ) -> None:
        for number in range(5):
            resolver.put_endpoint(endpoint(f"e{number}"))
        told = resolver.resolve(NOW, 2)
        assert (len(told.endpoints), told.behind) == (2, True)
        told = resolver.resolve(NOW, 3)
        assert (len(told.endpoints), told.behind) == (3, False)

    def test_each_claim_counts(
        self, resolver: Resolver, endpoint: Build, migration: Migration
    ) -> None:
        for number in range(4):
            resolver.put_endpoint(endpoint(f"e{number}"))
            resolver.put_migration(migration(f"m{number}", source=f"e{number}"))
        assert len(resolver.resolve(NOW, 4).endpoints) == 2

    def test_whoever_was_marked_first_is_looked_at_first(
        self, resolver: Resolver, endpoint: Build
    ) -> None:
        for name in "cab":
            resolver.put_endpoint(endpoint(name))
        order = [names(resolver.resolve(NOW, 1).endpoints) for _ in range(3)]
        assert order == [{"c"}, {"a"}, {"b"}]

    def test_nothing_is_said_of_who_still_waits(self, resolver: Resolver, endpoint: Build) -> None:
        resolver.put_endpoint(endpoint("a"))
        resolver.resolve(NOW)
        assert resolver.verdict(key("a")) is not None
        resolver.put_endpoint(endpoint("a", uid="anew"))
        resolver.resolve(NOW, 0)
        assert resolver.verdict(key("a")) is None


def test_an_equal_endpoint_is_kept_in_its_newest_version(
    resolver: Resolver, endpoint: Build
) -> None:
    """Guards: a write would name a version that is gone."""
    for version in ("1", "2"):
        resolver.put_endpoint(endpoint("a", resource_version=version))
    assert resolver.index.endpoints[key("a")].resource_version == "2"


def test_a_migration_that_is_gone_is_told_to_nobody(
    resolver: Resolver, endpoint: Build, migration: Migration
) -> None:
    resolver.put_endpoint(endpoint("a"))
    for name in ("m1", "m2"):
        resolver.put_migration(migration(name, source="a"))
    resolver.resolve(NOW)
    resolver.drop_migration(key("m2"))
    assert names(resolver.resolve(NOW).migrations) == {"m1"}


def test_a_written_status_is_looked_at_alone(
    resolver: Resolver, endpoint: Build, migration: Migration
) -> None:
    resolver.put_endpoint(endpoint("b"))
    resolver.put_migration(migration(target="b"))
    resolver.resolve(NOW)
    resolver.put_migration(migration(target="b", status={"phase": "Preparing"}))
    told = resolver.resolve(NOW)
    assert (told.endpoints, names(told.migrations)) == (frozenset(), {"m1"})


def test_whoever_is_claimed_no_more_is_looked_at_too(
    resolver: Resolver, endpoint: Build, migration: Migration
) -> None:
    """Guards: the other migration would complain of a conflict that is over."""
    for name in "bc":
        resolver.put_endpoint(endpoint(name))
    resolver.put_migration(migration(target="b"))
    resolver.put_migration(migration("m2", target="b", age=9))
    resolver.resolve(NOW)
    resolver.put_migration(migration(target="c"))
    told = resolver.resolve(NOW)
    assert (names(told.endpoints), names(told.migrations)) == ({"b", "c"}, {"m1", "m2"})


def test_both_are_told_of_a_conflict_also_a_turn_later(
    resolver: Resolver, endpoint: Build, migration: Migration
) -> None:
    resolver.put_endpoint(endpoint("b"))
    resolver.put_migration(migration(target="b"))
    resolver.resolve(NOW)
    resolver.put_migration(migration("m2", target="b", age=9))
    assert names(resolver.resolve(NOW, 0).migrations) == {"m2"}
    assert names(resolver.resolve(NOW).migrations) == {"m1", "m2"}


@pytest.fixture
def lost(resolver: Resolver, endpoint: Build, migration: Migration, cutover: Any) -> Resolver:
    """Two live guests whose sources have gone, one a second after the other."""
    for number, gone in ((1, 0), (2, 1)):
        uid = f"uid-m{number}"
        resolver.put_migration(migration(f"m{number}", source=f"a{number}", target=f"b{number}"))
        resolver.put_endpoint(endpoint(f"a{number}"))
        live = {"state": State.LIVE, "acted_uid": uid, "cutover": cutover(uid), "routed": True}
        said = Assignment(Role.TARGET, f"m{number}", uid)
        resolver.put_endpoint(endpoint(f"b{number}", assignment=said, **live))
        resolver.resolve(NOW)
        resolver.drop_endpoint(key(f"a{number}"))
        resolver.resolve(NOW + gone * SECOND)
    return resolver


class TestLostSource:
    """An undriven migration whose guest lives and whose source is gone is done after a while."""

    def test_the_first_of_them_is_waited_for(self, lost: Resolver) -> None:
        assert lost.resolve(NOW + SECOND).wake == NOW + 5 * SECOND
        told = lost.resolve(NOW + 5 * SECOND)
        assert (names(told.migrations), told.wake) == ({"m1"}, NOW + 6 * SECOND)
        assert lost.resolve(NOW + 6 * SECOND).wake is None

    def test_a_person_may_still_say_how_it_ended(
        self, lost: Resolver, migration: Migration
    ) -> None:
        lost.resolve(NOW + 5 * SECOND)
        assert lost.decision(key("m1")) is Outcome.SUCCEEDED
        lost.put_migration(migration("m1", source="a1", target="b1", outcome="Aborted"))
        lost.resolve(NOW + 5 * SECOND)
        assert lost.decision(key("m1")) is Outcome.ABORTED

    def test_nothing_is_kept_of_it_when_it_is_gone(self, lost: Resolver) -> None:
        lost.resolve(NOW + 5 * SECOND)
        for name in ("m1", "m2", "b1", "b2"):
            lost.drop_migration(key(name))
            lost.drop_endpoint(key(name))
        # Of the resolver, and of the summaries that it keeps.
        known = vars(lost) | vars(lost._summaries)
        sizes = {name: len(held) for name, held in known.items() if hasattr(held, "__len__")}
        assert sizes == dict.fromkeys(sizes, 0)

    def test_one_that_goes_while_it_is_waited_for_is_never_due(self, lost: Resolver) -> None:
        lost.drop_migration(key("m1"))
        assert lost.resolve(NOW + SECOND).wake == NOW + 6 * SECOND
        assert lost.resolve(NOW + 5 * SECOND).failures == ()

    def test_one_that_is_driven_from_now_on_waits_for_its_driver(
        self, lost: Resolver, migration: Migration
    ) -> None:
        owner = {"kind": "X", "name": "x", "uid": "x", "controller": True}
        lost.put_migration(migration("m1", source="a1", target="b1", owners=[owner]))
        assert lost.resolve(NOW + SECOND).wake == NOW + 6 * SECOND

    def test_made_anew_under_its_name_it_is_undecided(
        self, lost: Resolver, migration: Migration
    ) -> None:
        lost.resolve(NOW + 5 * SECOND)
        lost.put_migration(migration("m1", source="a1", target="b1", object_uid="second"))
        lost.resolve(NOW + 5 * SECOND)
        assert lost.decision(key("m1")) is None
        assert not lost.had_source(key("m1"))

    def test_a_status_of_before_tells_nothing_of_another_source(
        self, resolver: Resolver, endpoint: Build, migration: Migration
    ) -> None:
        found = {"type": "SourceResolved", "status": "True", "reason": "Resolved", "message": ""}
        found["lastTransitionTime"] = NOW.isoformat()
        resolver.put_endpoint(endpoint("a"))
        for source, generation in (("a", 1), ("z", 2), ("z", 3)):
            status = {"conditions": [found]}
            resolver.put_migration(
                migration(source=source, target="b", generation=generation, status=status)
            )
            resolver.resolve(NOW)
        assert not resolver.had_source(key("m1"))

    def test_what_failed_by_its_own_word_is_no_success_after_that(
        self, lost: Resolver, migration: Migration
    ) -> None:
        lost.put_migration(migration("m1", source="a1", target="b1", outcome="Aborted"))
        lost.resolve(NOW + SECOND)
        lost.resolve(NOW + 9 * SECOND)
        assert lost.decision(key("m1")) is Outcome.ABORTED


class TestWithoutAnObject:
    """Roles whose LiveMigration is gone, or cannot be read."""

    @pytest.fixture
    def orphan(self, resolver: Resolver, endpoint: Build, assignment: Any) -> Resolver:
        """A target, and an endpoint that carries nothing."""
        resolver.put_endpoint(endpoint("b", assignment=assignment("target of m1")))
        resolver.put_endpoint(endpoint("c"))
        return resolver

    def roles(self, resolver: Resolver) -> tuple[Role | None, Outcome | None]:
        """Return what must be said of b."""
        resolver.resolve(NOW)
        found = resolver.verdict(key("b"))
        assert found is not None
        return found.assignment.role, found.assignment.outcome

    @pytest.mark.parametrize("said", Outcome)
    def test_the_driver_says_how_it_ended(
        self, orphan: Resolver, driven: Driven, said: Outcome
    ) -> None:
        driven["uid-m1"] = said
        assert self.roles(orphan) == (None, said)

    def test_what_the_driver_says_of_it_anew_is_heard(
        self, orphan: Resolver, driven: Driven
    ) -> None:
        driven["uid-m1"] = Undecided.UNDER_WAY
        assert self.roles(orphan) == (Role.TARGET, None)
        driven["uid-m1"] = Outcome.SUCCEEDED
        orphan.mark_ended(("default", "uid-m1"))
        assert names(orphan.resolve(NOW).endpoints) == {"b"}
        assert self.roles(orphan) == (None, Outcome.SUCCEEDED)

    def test_it_is_told_of_which_migrations_the_driver_was_asked(
        self, orphan: Resolver, driven: Driven
    ) -> None:
        """Guards: who must read something to know the end is to do it once, and for a reason."""
        driven["uid-m1"] = Undecided.UNDER_WAY
        asked = [orphan.resolve(NOW).asked for _ in range(2)]
        assert asked == [{"uid-m1"}, frozenset()]

    def test_a_driver_is_not_asked_while_there_is_an_object(
        self, orphan: Resolver, migration: Migration
    ) -> None:
        orphan.put_migration(migration(target="b"))
        orphan.resolve(NOW)
        orphan.mark_ended(("default", "uid-m1"))
        assert orphan.resolve(NOW).endpoints == frozenset()

    def test_only_who_has_a_role_is_judged_again_for_another_driver(self, orphan: Resolver) -> None:
        orphan.resolve(NOW)
        orphan.mark_all_roles()
        assert names(orphan.resolve(NOW).endpoints) == {"b"}

    def test_one_that_nobody_can_read_keeps_its_roles_until_another_id_is_seen(
        self, orphan: Resolver
    ) -> None:
        orphan.put_unreadable(key("m1"), "uid-m1")
        assert self.roles(orphan) == (Role.TARGET, None)
        orphan.put_unreadable(key("m1"), "another")
        assert self.roles(orphan) == (None, Outcome.ABORTED)

    def test_one_that_can_be_read_again_is_another_one_if_its_id_is(
        self, orphan: Resolver, migration: Migration
    ) -> None:
        orphan.put_unreadable(key("m1"), "uid-m1")
        assert self.roles(orphan) == (Role.TARGET, None)
        orphan.put_migration(migration(source="z", object_uid="another"))
        assert self.roles(orphan) == (None, Outcome.ABORTED)

    def test_of_another_namespace_nothing_is_taken(self, orphan: Resolver) -> None:
        orphan.put_unreadable(ObjectKey("other", "m1"), "uid-m1")
        assert self.roles(orphan) == (None, Outcome.ABORTED)

    def test_life_on_the_target_makes_it_a_success(self, orphan: Resolver, cutover: Any) -> None:
        b = orphan.index.endpoints[key("b")]
        live = dataclasses.replace(
            b, state=State.LIVE, acted_uid="uid-m1", cutover=cutover("uid-m1"), routed=True
        )
        assert self.roles(orphan) == (None, Outcome.ABORTED)
        orphan.put_endpoint(live)
        assert self.roles(orphan) == (None, Outcome.SUCCEEDED)

    def test_who_comes_to_it_lets_the_others_be_judged_again(
        self, orphan: Resolver, endpoint: Build, assignment: Any
    ) -> None:
        orphan.resolve(NOW)
        orphan.put_endpoint(endpoint("a", assignment=assignment("source of m1")))
        assert names(orphan.resolve(NOW).endpoints) == {"a", "b"}

    def test_who_leaves_it_lets_the_others_be_judged_again(
        self, orphan: Resolver, endpoint: Build, assignment: Any
    ) -> None:
        orphan.put_endpoint(endpoint("a", assignment=assignment("source of m1")))
        orphan.resolve(NOW)
        orphan.put_endpoint(endpoint("a", assignment=assignment("source of m2")))
        assert names(orphan.resolve(NOW).endpoints) == {"a", "b"}

    def test_a_change_that_matters_to_nobody_is_looked_at_alone(
        self, orphan: Resolver, endpoint: Build, assignment: Any
    ) -> None:
        orphan.put_endpoint(endpoint("a", assignment=assignment("source of m1")))
        orphan.resolve(NOW)
        orphan.put_endpoint(endpoint("a", assignment=assignment("source of m1"), node="another"))
        assert names(orphan.resolve(NOW).endpoints) == {"a"}


def test_what_leaves_the_sum_of_a_migration_as_it_is_touches_nobody_else(
    resolver: Resolver, endpoint: Build, migration: Migration, assignment: Any
) -> None:
    """One of two sources has routes already: that the other one has some, too, changes nothing."""
    said = assignment("source of m1")
    resolver.put_migration(migration(source="a", target="b"))
    resolver.put_endpoint(endpoint("a0", workload="a", routed=True))
    resolver.put_endpoint(endpoint("a1", workload="a", assignment=said))
    resolver.put_endpoint(endpoint("b", assignment=assignment("target of m1")))
    resolver.resolve(NOW)
    resolver.put_endpoint(endpoint("a1", workload="a", assignment=said, routed=True))
    assert names(resolver.resolve(NOW).endpoints) == {"a1"}


class TestWhoWasTold:
    """What an endpoint was told binds it, also to a migration whose spec does not match it."""

    def said(self, resolver: Resolver, name: str) -> str:
        """Return what must be said of an endpoint, the short way."""
        resolver.resolve(NOW)
        found = resolver.verdict(key(name))
        assert found is not None
        told = found.assignment
        words = (told.role or told.ended_role, told.migration, told.outcome)
        return " ".join(word for word in words if word)

    @pytest.mark.parametrize(
        ("told", "ages", "expected"),
        [
            ("source of x Succeeded", [9], "source x Succeeded"),
            ("source of x Succeeded", [5, 9], "source x Succeeded"),
            ("source of x Succeeded", [5], "target m1"),
            ("target of x Aborted", [9], "target m1"),
        ],
    )
    def test_the_newest_that_succeeded_settles_what_was_before(
        self,
        resolver: Resolver,
        endpoint: Build,
        migration: Migration,
        assignment: Any,
        *,
        told: str,
        ages: list[int],
        expected: str,
    ) -> None:
        """The object was made anew under its id, and has not ended yet by its own word."""
        for age in ages:
            resolver.put_migration(migration(f"x{age}", id="x", source="z", age=age))
        resolver.put_endpoint(endpoint("b", assignment=assignment(told, "x")))
        resolver.put_migration(migration(target="b", age=7))
        assert self.said(resolver, "b") == expected

    def test_a_source_that_matches_no_more_lets_its_target_go_on(
        self, resolver: Resolver, endpoint: Build, migration: Migration, assignment: Any
    ) -> None:
        left = assignment("source of m1 Succeeded")
        resolver.put_migration(migration(source="z", target="b", outcome="Succeeded"))
        resolver.put_endpoint(endpoint("a", assignment=left, routed=True))
        resolver.put_endpoint(endpoint("b", assignment=assignment("target of m1")))
        assert self.said(resolver, "b") == "target m1"
        resolver.put_endpoint(endpoint("a", assignment=left, routed=False))
        assert self.said(resolver, "b") == "target m1 Succeeded"

    def test_whoever_carries_a_role_hears_how_it_ended(
        self, resolver: Resolver, endpoint: Build, migration: Migration, assignment: Any
    ) -> None:
        resolver.put_migration(migration(source="z"))
        resolver.put_endpoint(endpoint("b", assignment=assignment("target of m1")))
        assert self.said(resolver, "b") == "target m1 Aborted"
        resolver.put_migration(migration(source="z", outcome="Succeeded"))
        assert self.said(resolver, "b") == "target m1 Succeeded"
