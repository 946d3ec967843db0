"""Which writes are due on which objects, and what they say."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from handover_api import names
from handover_api.assignment import Assignment
from handover_api.configuration import HandoverConfiguration
from handover_api.livemigration import LiveMigration, Phase
from handover_api.names import ObjectKey
from handover_operator.cache import Cache
from handover_operator.kinds import Kind
from handover_operator.reconcile import due
from handover_operator.reconcile.due import Due
from handover_operator.reconcile.request import Request
from handover_operator.roles.model import Endpoint
from handover_operator.roles.outcome import no_driver
from handover_operator.roles.peers import NOTHING, Told
from handover_operator.roles.resolver import Resolver
from handover_operator.roles.rules import Reason, Verdict

Build = Callable[..., Endpoint]
Migration = Callable[..., LiveMigration]

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
KEY = ObjectKey("default", "a")


@pytest.fixture
def resolver() -> Resolver:
    """Return one that knows nothing."""
    return Resolver()


class TestRole:
    """The role that an endpoint has against the one that it is to have."""

    def test_one_that_is_missing_is_to_be_given(
        self, resolver: Resolver, endpoint: Build, migration: Migration
    ) -> None:
        resolver.put_endpoint(endpoint("a"))
        resolver.put_migration(migration(source="a"))
        before = due.role(resolver, KEY)
        resolver.resolve(NOW)

        # What is not decided so far, or of nobody, is not due.
        assert (before, due.role(resolver, KEY)) == (Due.NOTHING, Due.GIVE)
        assert due.role(resolver, ObjectKey("default", "b")) is Due.NOTHING

    def test_one_whose_migration_is_gone_is_to_be_taken_away(
        self, resolver: Resolver, endpoint: Build, assignment: Callable[..., Assignment]
    ) -> None:
        resolver.put_endpoint(endpoint("a", assignment=assignment("source of m1")))
        resolver.resolve(NOW)

        assert due.role(resolver, KEY) is Due.TAKE_AWAY

    def test_one_that_is_there_is_not_due(
        self,
        resolver: Resolver,
        endpoint: Build,
        migration: Migration,
        assignment: Callable[..., Assignment],
    ) -> None:
        resolver.put_endpoint(endpoint("a", assignment=assignment("source of m1")))
        resolver.put_migration(migration(source="a"))
        resolver.resolve(NOW)

        assert due.role(resolver, KEY) is Due.NOTHING


def test_all_migrations_that_have_a_say_are_concerned(
    resolver: Resolver,
    endpoint: Build,
    migration: Migration,
    assignment: Callable[..., Assignment],
) -> None:
    resolver.put_endpoint(endpoint("a", assignment=assignment("source of gone")))
    resolver.put_migration(migration(source="a"))

    found = due.concerned(resolver, KEY)

    assert found == {ObjectKey("default", "m1"), ObjectKey("default", "gone")}


@pytest.mark.parametrize(
    "wrong", [{"shared": "10.0.0.1 is also served by x"}, {"peers": "[]"}, {"peer_live": "uid-m1"}]
)
def test_an_endpoint_that_says_wrongly_who_concerns_it_is_looked_at(
    endpoint: Build, wrong: dict[str, str]
) -> None:
    cache = Cache(no_driver)
    cache.resolver.put_endpoint(endpoint("a", **wrong))
    cache.resolver.put_endpoint(endpoint("b"))
    keys = [KEY, ObjectKey("default", "b"), ObjectKey("default", "gone")]

    assert list(due.relations(cache, keys, NOW)) == [Request(Kind.ENDPOINT, KEY)]


def test_what_was_noted_for_the_leader_is_taken_once() -> None:
    cache = Cache(no_driver)
    metadata = {"name": "default", "uid": "x", "resourceVersion": "1"}
    raw: dict[str, Any] = {"metadata": metadata, "spec": {}}
    cache.put(Kind.CONFIGURATION, ObjectKey("", "default"), raw)
    broken = {"metadata": {"name": "a", "namespace": "default", "uid": "y"}, "spec": {}}
    cache.put(Kind.ENDPOINT, KEY, broken)
    m1 = ObjectKey("default", "m1")

    migration, configuration, unreadable = due.of_the_leader(cache, [m1])

    assert migration == Request(Kind.MIGRATION, m1)
    assert configuration == Request(Kind.CONFIGURATION, ObjectKey("", "default"))
    assert (unreadable.kind, unreadable.key) == (Kind.ENDPOINT, KEY)
    assert unreadable.event is not None
    assert unreadable.event.reason == "Malformed"
    assert list(due.of_the_leader(cache, [])) == []


class TestPatch:
    """What is written, and on which version."""

    def test_an_endpoint_s_says_role_and_shared_addresses(
        self, endpoint: Build, assignment: Callable[..., Assignment]
    ) -> None:
        verdict = Verdict(assignment("source of m1"), Reason.NONE)
        found = endpoint("a", resource_version="7", shared="once")

        patch = due.endpoint_patch(found, verdict, "", NOTHING)

        assert patch is not None
        assert patch["metadata"]["resourceVersion"] == "7"
        annotations = patch["metadata"]["annotations"]
        assert (annotations[names.ROLE], annotations[names.MIGRATION]) == ("source", "m1")
        # A value that is only left out would stay.
        assert annotations[names.ADDRESS_SHARED] is None

    def test_there_is_none_for_an_endpoint_that_is_as_it_should_be(
        self, endpoint: Build, assignment: Callable[..., Assignment]
    ) -> None:
        given = assignment("source of m1")

        found = endpoint("a", assignment=given, shared="x", peers="[1]", peer_live="u")

        told = Told("[1]", "u")
        assert due.endpoint_patch(found, Verdict(given, Reason.NONE), "x", told) is None

    def test_of_peers_that_are_no_more_nothing_is_left(
        self, endpoint: Build, assignment: Callable[..., Assignment]
    ) -> None:
        given = assignment("source of m1")
        found = endpoint("a", assignment=given, peers="[1]", peer_live="u", resource_version="7")

        patch = due.endpoint_patch(found, Verdict(given, Reason.NONE), "", Told("[2]", ""))

        annotations = {names.PEER: "[2]", names.PEER_LIVE: None}
        assert patch == {"metadata": {"resourceVersion": "7", "annotations": annotations}}

    def test_what_a_status_says_no_more_is_null(self, migration: Migration) -> None:
        before = migration(status={"phase": "Live", "completionTime": NOW.isoformat()})
        after = before.status.model_copy(update={"completion_time": None, "phase": Phase.LIVE})

        patch = due.migration_patch(before, after)

        assert patch["status"]["completionTime"] is None
        assert patch["status"]["phase"] == "Live"
        assert patch["metadata"] == {"resourceVersion": before.metadata.resource_version}

    def test_a_configuration_s_is_on_the_version_that_was_judged(self) -> None:
        metadata = {"name": "default", "uid": "x", "resourceVersion": "7"}
        found = HandoverConfiguration.model_validate({"metadata": metadata, "spec": {}})

        patch = due.configuration_patch(found, found.status)

        assert patch == {
            "metadata": {"resourceVersion": "7"},
            "status": found.status.to_object(),
        }
