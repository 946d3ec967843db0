"""What one event costs, and how long what is said of it gets, when many share many endpoints.

Operations are counted, not seconds: whatever machine this runs on, they are the same.
"""

import datetime as dt
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_operator.roles.model import Endpoint
from handover_operator.roles.resolver import Resolver
from handover_operator.status import kubernetes_events, livemigration, progress

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
WEB = {"selector": {"matchLabels": {"app": "web"}}}
FEW = 25

Migration = Callable[..., LiveMigration]
Build = Callable[..., Endpoint]


def calls(work: Callable[[], object]) -> int:
    """Count the functions that *work* calls, those in C included."""
    count = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def shared(size: int, migration: Migration, endpoint: Build) -> Resolver:
    """Make so many endpoints on as many nodes, and as many migrations that claim them all."""
    resolver = Resolver()
    for number in range(size):
        resolver.put_endpoint(endpoint(f"{'e' * 200}{number:04}", labels={"app": "web"}))
    for number in range(size):
        resolver.put_migration(migration(f"{'m' * 200}{number:04}", target=WEB, age=number))
    resolver.resolve(NOW)
    return resolver


def report(resolver: Resolver, endpoint: Build) -> None:
    """Let one endpoint's agent report, with the migrations' verdicts brought up to date."""
    name = f"{'e' * 200}{0:04}"
    labels = {"app": "web"}
    resolver.put_endpoint(endpoint(name, labels=labels, state=State.TARGET, listening=True))
    resolver.resolve(NOW, 2_000)


def status_of_the_first(resolver: Resolver) -> object:
    """Make the status of one of the migrations."""
    key = ObjectKey("default", f"{'m' * 200}{0:04}")
    return livemigration.status(
        resolver.index.migrations[key], progress.describe(resolver, key), NOW
    )


@pytest.mark.parametrize("what", ["report", "status", "new migration", "new endpoint"])
def test_the_cost_of_an_event_grows_with_what_it_touches_not_with_the_product(
    migration: Migration, endpoint: Build, what: str
) -> None:
    work: dict[str, Callable[[Resolver], object]] = {
        "report": lambda resolver: report(resolver, endpoint),
        "status": status_of_the_first,
        "new migration": lambda resolver: resolver.put_migration(migration("new", target=WEB)),
        "new endpoint": lambda resolver: resolver.put_endpoint(
            endpoint("new", labels={"app": "web"})
        ),
    }
    resolvers = [shared(size, migration, endpoint) for size in (FEW, 4 * FEW)]
    one, four = (calls(functools.partial(work[what], resolver)) for resolver in resolvers)
    assert four < 6 * one  # 4 is linear, 16 would be the product


def test_one_turn_of_the_loop_looks_at_so_many_claims_and_goes_on_in_the_next(
    migration: Migration, endpoint: Build
) -> None:
    resolver = shared(FEW, migration, endpoint)
    resolver.put_migration(migration("new", target=WEB, age=1000))
    turns = [resolver.resolve(NOW, 300)]
    while turns[-1].behind:
        waiting = [key for key in resolver.index.endpoints if resolver.verdict(key) is None]
        assert waiting  # nobody writes by what was decided before
        turns.append(resolver.resolve(NOW, 300))
    looked_at = [key for turn in turns for key in turn.endpoints]
    assert max(len(turn.endpoints) for turn in turns) <= 300 // FEW
    assert sorted(looked_at) == sorted(resolver.index.endpoints)
    newest = {resolver.verdict(key).assignment.migration for key in looked_at}  # type: ignore[union-attr]
    assert newest == {"new"}


@pytest.mark.parametrize(("endpoints", "claims"), [(20, 20), (70, 300)])
def test_a_status_is_small_however_many_claims_there_are(
    migration: Migration, endpoint: Build, endpoints: int, claims: int
) -> None:
    resolver = Resolver()
    for number in range(endpoints):
        resolver.put_endpoint(endpoint(f"{'e' * 240}{number:04}", labels={"app": "web"}))
    for number in range(claims):
        resolver.put_migration(migration(f"{'m' * 240}{number:04}", target=WEB, age=number))
    resolver.resolve(NOW)
    key = ObjectKey("default", f"{'m' * 240}{0:04}")
    found = resolver.index.migrations[key]
    status = livemigration.status(found, progress.describe(resolver, key), NOW)
    assert len(status.target) == min(endpoints, 64)
    assert status.target_count == (endpoints if endpoints > 64 else None)
    longest = max(len(condition.message) for condition in status.conditions)
    assert longest < 5 * (2 * 253 + 200) + 100
    assert len(json.dumps(status.to_object())) < 64 * 600 + 9 * 4000
    conflicted = next(each for each in status.conditions if each.type == "Conflicted")
    # Each of the other claims to each endpoint, and that they are on several nodes.
    others = endpoints * (claims - 1) + 1
    assert conflicted.message.endswith(f"; and {others - 5} more")
    told = [each.message for each in kubernetes_events.describe(found.status, status)]
    assert max(map(len, told)) < 4000


@pytest.mark.parametrize("side", ["source", "target"])
def test_the_64th_endpoint_is_listed_and_the_65th_is_counted(
    world: Any, migration: Migration, endpoint: Build, side: str
) -> None:
    world.apply(migration(**{side: "vm"}))
    for number in range(64):
        world.apply(endpoint(f"e{number:02}", workload="vm"))
    status = world.migration("m1").status
    assert (len(getattr(status, side)), getattr(status, f"{side}_count")) == (64, None)
    world.apply(endpoint("e64", workload="vm"))
    status = world.migration("m1").status
    assert (len(getattr(status, side)), getattr(status, f"{side}_count")) == (64, 65)


def test_all_of_many_targets_must_listen_though_few_are_listed(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(migration(target="vm"), *(endpoint(f"e{n:03}", workload="vm") for n in range(70)))
    for number in range(69):
        world.report(f"e{number:03}", State.TARGET)
    assert world.phase() == "Preparing"
    world.report("e069", State.TARGET)
    assert world.phase() == "Ready"
