"""The incremental resolver agrees with a naive one, in any order, and touches few objects."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handover_api.assignment import Assignment
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, Role, Signal, State
from handover_operator.roles import labels, rules
from handover_operator.roles.model import Endpoint
from handover_operator.roles.resolver import Resolver
from handover_operator.status import progress

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
NAMES = ("a", "b", "c")
UIDS = ("x", "y")


# The reference: every rule of the design, written down without any index or memory.


def matched(migration: LiveMigration, endpoint: Endpoint) -> Role | None:
    """Return what the spec alone makes of an endpoint."""
    for role, side in ((Role.SOURCE, migration.spec.source), (Role.TARGET, migration.spec.target)):
        if side is None:
            continue
        if side.workload is not None and side.workload.name == endpoint.workload:
            return role
        if side.endpoint is not None and side.endpoint.name == endpoint.key.name:
            return role
    target = migration.spec.target
    if target is not None and target.selector is not None:
        return Role.TARGET if labels.is_match(target.selector, endpoint.labels) else None
    return None


class Reference:
    """Looks at all objects for each endpoint."""

    def __init__(self, objects: Iterable[LiveMigration | Endpoint]) -> None:
        objects = list(objects)
        self.migrations = [thing for thing in objects if isinstance(thing, LiveMigration)]
        self.endpoints = [thing for thing in objects if isinstance(thing, Endpoint)]

    def side(self, role: Role, uid: str, migration: LiveMigration | None) -> list[Endpoint]:
        """Return one side of a migration."""
        return [
            endpoint
            for endpoint in self.endpoints
            if (migration is not None and matched(migration, endpoint) is role)
            or (
                endpoint.assignment.migration_uid == uid
                and (
                    endpoint.assignment.role is role
                    or (
                        endpoint.assignment.role is None
                        and endpoint.assignment.ended_role is role
                        and endpoint.assignment.outcome is Outcome.SUCCEEDED
                    )
                )
            )
        ]

    def is_alive(self, uid: str, migration: LiveMigration | None) -> bool:
        """Return whether a target has shown life."""
        return any(e.is_alive_for(uid) for e in self.side(Role.TARGET, uid, migration))

    def is_routed(self, uid: str, migration: LiveMigration | None) -> bool:
        """Return whether a source has routes."""
        return any(e.routed for e in self.side(Role.SOURCE, uid, migration))

    def is_untold(self, uid: str, migration: LiveMigration | None) -> bool:
        """Return whether a source still carries its role."""
        return any(
            e.assignment.role is Role.SOURCE and e.assignment.migration_uid == uid
            for e in self.side(Role.SOURCE, uid, migration)
        )

    def orphaned(self, uid: str) -> Outcome:
        """Decide without a LiveMigration."""
        said = [e.assignment for e in self.endpoints if e.assignment.migration_uid == uid]
        ended = [one for one in said if one.role is None and one.ended_role is not None]
        if any(one.outcome is Outcome.SUCCEEDED for one in ended):
            return Outcome.SUCCEEDED
        told = any(
            one.ended_role is Role.SOURCE and one.outcome is Outcome.ABORTED for one in ended
        )
        if told and not any(one.role is Role.SOURCE for one in said):
            return Outcome.ABORTED
        return Outcome.SUCCEEDED if self.is_alive(uid, None) else Outcome.ABORTED

    def ended(self, endpoint: Endpoint) -> tuple[LiveMigration | None, Assignment]:
        """Return who ends the role that is there, and what is said then."""
        said = endpoint.assignment
        uid = said.migration_uid or ""
        named = [m for m in self.migrations if m.migration_uid == uid]
        named.sort(key=lambda m: (m.metadata.name == said.migration, m.metadata.creation_timestamp))
        migration = named[-1] if named else None
        outcome = migration.spec.outcome if migration is not None else self.orphaned(uid)
        if outcome is Outcome.SUCCEEDED and said.role is Role.TARGET:
            if self.is_untold(uid, migration) or self.is_routed(uid, migration):
                return migration, said
            if self.is_alive(uid, migration) and not endpoint.is_alive_for(uid):
                outcome = Outcome.ABORTED
        return migration, Assignment(
            migration=said.migration,
            migration_uid=said.migration_uid,
            armed=said.armed
            or said.role is not Role.TARGET
            or (outcome or Outcome.ABORTED) is Outcome.SUCCEEDED,
            outcome=outcome or Outcome.ABORTED,
            ended_role=said.role,
        )

    def assign(self, endpoint: Endpoint) -> Assignment:
        """Return what must be said of one endpoint."""
        said = endpoint.assignment
        undecided = [m for m in self.migrations if m.spec.outcome is None]
        for other in self.migrations:
            told = (said.outcome, other.spec.outcome)
            if other.migration_uid == said.migration_uid and Outcome.SUCCEEDED in told:
                undecided = [
                    m
                    for m in undecided
                    if age(m)[0] >= age(other)[0] or m.migration_uid == said.migration_uid
                ]
        sources = [m for m in undecided if matched(m, endpoint) is Role.SOURCE]
        targets = [
            m
            for m in undecided
            if matched(m, endpoint) is Role.TARGET
            and not self.moves_on(endpoint, m.migration_uid, m, age(m), sources)
        ]
        if targets:
            return give(Role.TARGET, targets)
        if said.role is Role.TARGET:
            migration, after = self.ended(endpoint)
            since = OLDEST if migration is None else age(migration)
            if after == said and not self.moves_on(
                endpoint, said.migration_uid or "", migration, since, sources
            ):
                return said
        if sources:
            return give(Role.SOURCE, sources)
        return self.corrected(endpoint) if said.role is None else self.ended(endpoint)[1]

    def corrected(self, endpoint: Endpoint) -> Assignment:
        """Return what is said once a guest runs where its migration was aborted."""
        said = endpoint.assignment
        uid = said.migration_uid
        same = [e for e in self.endpoints if e.assignment.migration_uid == uid]
        if said.outcome is not Outcome.ABORTED or not any(map(is_contradicting, same)):
            return said
        told = [e for e in same if Role.SOURCE in (e.assignment.role, e.assignment.ended_role)]
        serving = [
            e for e in told if e.routed or e.assignment.role or e.assignment.outcome == "Aborted"
        ] + [
            e
            for m in self.migrations
            if m.migration_uid == uid
            for e in self.endpoints
            if matched(m, e) is Role.SOURCE and e.routed
        ]
        is_source = said.ended_role is Role.SOURCE
        if is_source or (is_contradicting(endpoint) and not serving):
            return dataclasses.replace(said, outcome=Outcome.SUCCEEDED, armed=True)
        return said

    def moves_on(
        self,
        endpoint: Endpoint,
        uid: str,
        older: LiveMigration | None,
        since: tuple[dt.datetime | None, str],
        sources: list[LiveMigration],
    ) -> bool:
        """Return whether the guest leaves again with a newer migration."""
        newer = [m for m in sources if age(m) > since]
        return (
            bool(newer)
            and endpoint.is_alive_for(uid)
            and (
                not self.is_routed(uid, older)
                or any(self.is_alive(m.migration_uid, m) for m in newer)
            )
        )


def is_contradicting(endpoint: Endpoint) -> bool:
    """Return whether an aborted target has routes of a guest that was heard since."""
    said = endpoint.assignment
    lives = endpoint.state in {State.LIVE, State.TIME_WAIT}
    returned = endpoint.state is State.BASE and endpoint.cutover is not None
    return (
        (said.role, said.ended_role, said.outcome) == (None, Role.TARGET, Outcome.ABORTED)
        and endpoint.acted_role is None
        and endpoint.routed
        and (
            (lives and endpoint.acted_uid == said.migration_uid)
            or (returned and endpoint.cutover.migration_uid == said.migration_uid)  # type: ignore[union-attr]
        )
    )


OLDEST = (NOW - dt.timedelta(days=1), "")


def age(migration: LiveMigration) -> Any:
    """Sort by age."""
    return migration.metadata.creation_timestamp, migration.metadata.uid


def give(role: Role, migrations: list[LiveMigration]) -> Assignment:
    """Give a role from the newest."""
    newest = max(migrations, key=age)
    armed = newest.spec.armed or role is Role.SOURCE
    return Assignment(role, newest.metadata.name, newest.migration_uid, armed)


# Random worlds, small enough for everything to meet everything.

side = st.one_of(
    st.none(),
    st.sampled_from(NAMES).map(lambda name: {"workload": {"name": name}}),
    st.sampled_from(NAMES).map(lambda name: {"endpoint": {"name": f"e-{name}"}}),
)
selector = st.sampled_from(
    [
        {"matchLabels": {"app": "web"}},
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]},
        {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
    ]
).map(lambda chosen: {"selector": chosen})


@st.composite
def migrations(draw: st.DrawFn) -> LiveMigration:
    """Build one of three LiveMigrations, in any version of it; two may share an id."""
    number = draw(st.integers(0, 2))
    return LiveMigration.model_validate(
        {
            "metadata": {
                "name": f"m{number}",
                "namespace": "default",
                "uid": f"m{number}-{draw(st.integers(0, 1))}",
                "creationTimestamp": (NOW + dt.timedelta(seconds=number // 2)).isoformat(),
                "ownerReferences": [
                    {"kind": "X", "name": "x", "uid": "x", "controller": True},
                ],
            },
            "spec": {
                "source": draw(side),
                "target": draw(st.one_of(side, selector)),
                "id": UIDS[number % 2],
                "armed": draw(st.booleans()),
                "outcome": draw(st.sampled_from([None, None, None, "Succeeded", "Aborted"])),
            },
        }
    )


@st.composite
def assignments(draw: st.DrawFn) -> Assignment:
    """Build what an operator may have said before."""
    if draw(st.booleans()):
        return Assignment()
    role = draw(st.sampled_from([*Role, None]))
    uid = draw(st.sampled_from(UIDS))
    if role is not None:
        return Assignment(role, draw(st.sampled_from(["m0", "m1"])), uid, draw(st.booleans()))
    return Assignment(
        migration="m0",
        migration_uid=uid,
        armed=draw(st.booleans()),
        outcome=draw(st.sampled_from(Outcome)),
        ended_role=draw(st.sampled_from(Role)),
    )


@st.composite
def endpoints(draw: st.DrawFn, *, said: bool = True) -> Endpoint:
    """Build one of three endpoints, in any version of it."""
    name = draw(st.sampled_from(NAMES))
    cut_over = draw(st.sampled_from([*UIDS, None]))
    return Endpoint(
        key=ObjectKey("default", f"e-{name}"),
        node=name,
        workload=draw(st.sampled_from(NAMES)),
        labels=draw(st.sampled_from([{}, {"app": "web"}, {"app": "db"}])),
        assignment=draw(assignments()) if said else Assignment(),
        state=draw(st.sampled_from([*State, None])) if said else None,
        acted_uid=draw(st.sampled_from(UIDS)) if said else None,
        acted_role=draw(st.sampled_from([None, None, *Role])) if said else None,
        routed=draw(st.booleans()) if said else False,
        cutover=None
        if cut_over is None or not said
        else Cutover(
            signal=Signal.RARP,
            announcement_to_route_microseconds=1,
            time=NOW,
            migration_uid=cut_over,
        ),
    )


Thing = LiveMigration | Endpoint | str


def play(resolver: Resolver, thing: Thing, known: dict[str, LiveMigration | Endpoint]) -> None:
    """Put one version of an object in, or delete it by its name."""
    if isinstance(thing, str):
        known.pop(thing, None)
        resolver.drop_endpoint(ObjectKey("default", thing))
        resolver.drop_migration(ObjectKey("default", thing))
        return
    known[thing.key.name] = thing
    if isinstance(thing, Endpoint):
        resolver.put_endpoint(thing)
    else:
        resolver.put_migration(thing)


OBJECTS = [*(f"m{number}" for number in range(3)), *(f"e-{name}" for name in NAMES)]
histories = st.lists(
    st.one_of(migrations(), endpoints(), st.sampled_from(OBJECTS)), min_size=1, max_size=12
)


@settings(max_examples=settings().max_examples * 3)
@given(history=histories, hasty=st.booleans())
def test_it_agrees_with_the_naive_resolver_after_every_event(
    history: list[Thing], *, hasty: bool
) -> None:
    resolver = Resolver()
    known: dict[str, LiveMigration | Endpoint] = {}
    for number, thing in enumerate(history):
        play(resolver, thing, known)
        if hasty or number == len(history) - 1:
            resolver.resolve(NOW)
            reference = Reference(known.values())
            expected = {e.key.name: reference.assign(e) for e in reference.endpoints}
            actual = {
                e.key.name: resolver.verdict(e.key).assignment  # type: ignore[union-attr]
                for e in reference.endpoints
            }
            assert expected == actual


def settled(things: Iterable[Thing]) -> dict[str, tuple[Role | None, str | None]]:
    """Play a history as the operator does, each verdict written at once; return the roles."""
    resolver = Resolver()
    known: dict[str, LiveMigration | Endpoint] = {}
    for thing in things:
        if isinstance(thing, Endpoint) and thing.key in resolver.index.endpoints:
            # A user's update leaves the operator's annotations alone.
            said = resolver.index.endpoints[thing.key].assignment
            thing = Endpoint(  # noqa: PLW2901  the same event, as the API would tell it
                key=thing.key,
                node=thing.node,
                workload=thing.workload,
                labels=thing.labels,
                assignment=said,
            )
        play(resolver, thing, known)
        for _ in range(6):
            for key in resolver.resolve(NOW).endpoints:
                endpoint, verdict = resolver.index.endpoints[key], resolver.verdict(key)
                if verdict is None:
                    continue  # it will be looked at once more
                resolver.put_endpoint(
                    Endpoint(
                        key=key,
                        node=endpoint.node,
                        workload=endpoint.workload,
                        labels=endpoint.labels,
                        assignment=verdict.assignment,
                    )
                )
        assert not resolver.resolve(NOW).endpoints
    return {
        key.name: (e.assignment.role, e.assignment.migration_uid if e.assignment.role else None)
        for key, e in resolver.index.endpoints.items()
    }


final = st.lists(
    st.one_of(
        migrations().filter(lambda m: m.spec.outcome is None),
        endpoints(said=False),
    ),
    max_size=8,
    unique_by=lambda thing: thing.key,
)
detours = st.lists(
    st.one_of(
        migrations().filter(lambda m: m.spec.outcome is not Outcome.SUCCEEDED),
        endpoints(said=False),
        st.sampled_from(OBJECTS),
    ),
    max_size=6,
)


@settings(max_examples=settings().max_examples * 2)
@given(objects=final, detour=detours, rng=st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_roles(
    objects: list[LiveMigration | Endpoint], detour: list[Thing], rng: Any
) -> None:
    expected = settled(objects)
    present = {thing.key.name for thing in objects}
    shuffled = list(objects)
    rng.shuffle(shuffled)
    assert expected == settled(shuffled)
    leftovers = [name for name in OBJECTS if name not in present]
    assert expected == settled([*detour, *leftovers, *shuffled])


@given(history=histories)
def test_an_object_that_did_not_change_needs_no_second_look(history: list[Thing]) -> None:
    resolver = Resolver()
    known: dict[str, LiveMigration | Endpoint] = {}
    for thing in history:
        play(resolver, thing, known)
    resolver.resolve(NOW)
    for thing in list(known.values()):
        play(resolver, thing, known)
    assert resolver.resolve(NOW).endpoints == frozenset()


# Rule 8: what an event touches does not grow with the number of objects.


@pytest.fixture(scope="module")
def crowd(migration: Callable[..., LiveMigration], endpoint: Callable[..., Endpoint]) -> Resolver:
    """300 VMs, each with a migration by name or by selector."""
    resolver = Resolver()
    for number in range(300):
        for end in ("a", "b"):
            labels = {"vm": f"vm-{number}", "job": f"{number}{end}", "app": "all-of-them"}
            resolver.put_endpoint(endpoint(f"{end}{number}", labels=labels))
        chosen = {"selector": {"matchLabels": {"job": f"{number}b"}}}
        target = f"b{number}" if number % 2 else chosen
        resolver.put_migration(migration(f"m{number}", source=f"a{number}", target=target))
    assert len(resolver.resolve(NOW).endpoints) == 600
    return resolver


@pytest.mark.parametrize("number", [6, 7])
def test_an_event_touches_its_own_migration_only(
    crowd: Resolver,
    migration: Callable[..., LiveMigration],
    endpoint: Callable[..., Endpoint],
    number: int,
) -> None:
    own = {f"a{number}", f"b{number}"}
    labels = {"vm": f"vm-{number}", "job": f"{number}b", "app": "all-of-them"}
    crowd.put_endpoint(endpoint(f"b{number}", labels=labels, state=State.TARGET))
    told = crowd.resolve(NOW)
    assert ({f"b{number}"}, {f"m{number}"}) == touched(told)
    crowd.put_migration(migration(f"m{number}", source=f"a{number}", outcome="Aborted"))
    assert (own, {f"m{number}"}) == touched(crowd.resolve(NOW))
    crowd.drop_migration(ObjectKey("default", f"m{number}"))
    assert touched(crowd.resolve(NOW))[0] <= own
    crowd.drop_endpoint(ObjectKey("default", f"b{number}"))
    assert (set(), set()) == touched(crowd.resolve(NOW))


def touched(resolution: Any) -> tuple[set[str], set[str]]:
    """Return the names of what was looked at."""
    return (
        {key.name for key in resolution.endpoints},
        {key.name for key in resolution.migrations},
    )


def test_what_is_unknown_may_be_dropped() -> None:
    resolver = Resolver()
    resolver.drop_endpoint(ObjectKey("default", "nobody"))
    resolver.drop_migration(ObjectKey("default", "nobody"))
    assert (set(), set()) == touched(resolver.resolve(NOW))
    assert resolver.verdict(ObjectKey("default", "nobody")) is None


# One object's fault stays its own.


@pytest.fixture
def faulty(
    monkeypatch: pytest.MonkeyPatch,
    migration: Callable[..., LiveMigration],
    endpoint: Callable[..., Endpoint],
) -> Resolver:
    """Two VMs; whatever concerns those called bad raises."""
    resolver = Resolver()
    assign, seen = rules.assign, resolver.index.traits_of_members

    def fragile(endpoint: Endpoint, *how: Any) -> Any:
        if endpoint.key.name == "bad":
            raise ZeroDivisionError
        return assign(endpoint, *how)

    def traits(key: ObjectKey) -> Any:
        if key.name == "bad":
            raise ZeroDivisionError
        return seen(key)

    monkeypatch.setattr(rules, "assign", fragile)
    monkeypatch.setattr(resolver.index, "traits_of_members", traits)
    for name in ("good", "bad", "shared"):
        resolver.put_endpoint(endpoint(name))
    resolver.put_migration(migration("good", source="good", target="shared"))
    resolver.put_migration(migration("bad", source="bad", target="shared", age=9))
    return resolver


def test_one_exception_loses_nothing_that_was_marked_with_it(faulty: Resolver) -> None:
    told = faulty.resolve(NOW)
    assert sorted(each.key.name for each in told.failures) == ["bad", "bad"]
    assert all(isinstance(each.error, ZeroDivisionError) for each in told.failures)
    said = {key.name: faulty.verdict(key) for key in faulty.index.endpoints}
    assert said["bad"] is None
    assert said["good"] is not None
    assert said["shared"] is not None
    assert (said["good"].assignment.role, said["shared"].assignment.migration) == (
        Role.SOURCE,
        "good",
    )
    assert faulty.resolve(NOW).failures == ()  # not with every event that follows


def test_what_was_lost_is_found_by_looking_again(
    faulty: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.resolve(NOW)
    monkeypatch.undo()
    faulty.mark_all()
    told = faulty.resolve(NOW)
    assert touched(told) == ({"good", "bad", "shared"}, {"good", "bad"})
    verdict = faulty.verdict(ObjectKey("default", "shared"))
    assert verdict is not None
    assert verdict.assignment.migration == "bad"


def test_nothing_is_kept_of_what_is_gone_also_while_nobody_resolves(
    migration: Callable[..., LiveMigration], endpoint: Callable[..., Endpoint]
) -> None:
    resolver = Resolver()
    for number in range(50):
        said = Assignment(Role.TARGET, f"m{number}", f"uid-m{number}")
        resolver.put_endpoint(endpoint(f"b{number}", assignment=said))
        resolver.put_migration(migration(f"m{number}", source="a", target=f"b{number}"))
        if number % 2:
            resolver.resolve(NOW)
        resolver.put_unreadable(ObjectKey("default", f"x{number}"), "x")
        for name in (f"b{number}", f"m{number}", f"x{number}"):
            resolver.drop_endpoint(ObjectKey("default", name))
            resolver.drop_migration(ObjectKey("default", name))
    held = {**vars(resolver), **vars(resolver.index), **vars(resolver._summaries)}
    sizes = {name: len(value) for name, value in held.items() if hasattr(value, "__len__")}
    assert sizes == dict.fromkeys(sizes, 0)
    assert len(sizes) >= 10
    for name in ("_endpoints_by_key", "_migrations_by_key", "_carriers", "_with_id"):
        assert held[name]._values == {}


@settings(max_examples=settings().max_examples * 3 // 5)
@given(history=histories, budget=st.integers(1, 3))
def test_in_small_turns_the_same_is_decided(history: list[Thing], budget: int) -> None:
    whole, sliced = Resolver(), Resolver()
    known: dict[str, LiveMigration | Endpoint] = {}
    for thing in history:
        for resolver in (whole, sliced):
            play(resolver, thing, known)
        whole.resolve(NOW)
        sliced.resolve(NOW, budget)
    while sliced.resolve(NOW, budget).behind:
        pass
    assert {key: whole.verdict(key) for key in whole.index.endpoints} == {
        key: sliced.verdict(key) for key in sliced.index.endpoints
    }


@settings(max_examples=settings().max_examples * 3 // 5)
@given(history=histories)
def test_looking_at_everything_again_finds_nothing_new(history: list[Thing]) -> None:
    """Guards: what an event touches is all that it can affect."""
    resolver = Resolver()
    known: dict[str, LiveMigration | Endpoint] = {}
    for thing in history:
        play(resolver, thing, known)
        resolver.resolve(NOW)
        verdicts = {key: resolver.verdict(key) for key in resolver.index.endpoints}
        progresses = {key: progress.describe(resolver, key) for key in resolver.index.migrations}
        resolver.mark_all()
        resolver.resolve(NOW)
        assert {key: resolver.verdict(key) for key in resolver.index.endpoints} == verdicts
        assert progresses == {
            key: progress.describe(resolver, key) for key in resolver.index.migrations
        }


@settings(max_examples=settings().max_examples * 3 // 5)
@given(history=histories)
def test_what_was_counted_step_by_step_is_what_a_fresh_count_gives(history: list[Thing]) -> None:
    resolver, fresh = Resolver(), Resolver()
    known: dict[str, LiveMigration | Endpoint] = {}
    for thing in history:
        play(resolver, thing, known)
    for thing in known.values():
        play(fresh, thing, {})
    for key, migration in fresh.index.migrations.items():
        identity = (key.namespace, migration.migration_uid)
        index = fresh.index
        assert resolver.index.traits_of_members(key) == index.traits_of_members(key)
        assert resolver.index.traits_of_carriers(identity) == index.traits_of_carriers(identity)
