"""What a replica does about the Lease, and what it writes."""

import datetime as dt

import pytest

from handover_operator.kube import lease
from handover_operator.kube.lease import Lease, Periods, Sighting, Step

WHEN = dt.datetime(2026, 11, 24, 12, 0, 0, 250, tzinfo=dt.UTC)
THEIRS = Lease("them", 9, "7", 3, "2026-11-24T11:00:00.000000Z")
OURS = Lease("us", 9, "7", 3, "2026-11-24T11:00:00.000000Z")
FREE = Lease("", 1, "7", 3)
NONE = Lease()


@pytest.mark.parametrize(
    ("found", "since", "now", "expected"),
    [
        pytest.param(NONE, 100, 100, Step.CLAIM, id="there is none"),
        pytest.param(FREE, 100, 100, Step.CLAIM, id="it was given back"),
        pytest.param(THEIRS, 100, 100, Step.WAIT, id="somebody holds it"),
        pytest.param(THEIRS, 100, 108.9, Step.WAIT, id="it has not been renewed for a while"),
        pytest.param(THEIRS, 100, 109, Step.CLAIM, id="it was not renewed in time"),
        pytest.param(OURS, 100, 101, Step.RENEW, id="it is ours"),
        pytest.param(OURS, 100, 999, Step.RENEW, id="ours has expired, and nobody took it"),
    ],
)
def test_what_to_do(found: Lease, since: float, now: float, expected: Step) -> None:
    assert lease.step(Sighting(found, since), "us", now) is expected


@pytest.mark.parametrize(
    ("before", "found", "expected"),
    [
        pytest.param(None, THEIRS, Sighting(THEIRS, 50), id="first sight, however old it is"),
        pytest.param(None, None, Sighting(NONE, 50), id="none at first sight"),
        pytest.param(Sighting(THEIRS, 40), THEIRS, Sighting(THEIRS, 40), id="the same version"),
        pytest.param(
            Sighting(OURS, 40), FREE, Sighting(OURS, 40), id="versions tell, not contents"
        ),
        pytest.param(
            Sighting(Lease("them", 9, "6"), 40), THEIRS, Sighting(THEIRS, 50), id="it was renewed"
        ),
        pytest.param(
            Sighting(THEIRS, 40), None, Sighting(Lease("them", 9, "", 3), 50), id="it was deleted"
        ),
    ],
)
def test_since_when_a_version_is_known(
    before: Sighting | None, found: Lease | None, expected: Sighting
) -> None:
    assert lease.see(before, found, 50) == expected


def test_a_lease_that_was_deleted_is_not_taken_before_it_would_have_expired() -> None:
    deleted = lease.see(Sighting(THEIRS, 40), None, 50)
    assert lease.see(deleted, None, 58.9) == deleted
    assert lease.step(deleted, "us", 58.9) is Step.WAIT
    assert lease.step(deleted, "us", 59) is Step.CLAIM


@pytest.mark.parametrize(
    ("now", "expected"), [(100, 1.0), (108, 1.0), (108.75, 0.25), (109, 0.0), (200, 0.0)]
)
def test_a_standby_looks_again_at_the_instant_of_the_end(now: float, expected: float) -> None:
    assert lease.seconds_to_next_read(Sighting(THEIRS, 100), Periods(), now) == expected


@pytest.mark.parametrize(
    ("found", "acquired", "transitions"),
    [
        pytest.param(NONE, "2026-11-24T12:00:00.000250Z", 0, id="made"),
        pytest.param(FREE, "2026-11-24T12:00:00.000250Z", 4, id="claimed"),
        pytest.param(THEIRS, "2026-11-24T12:00:00.000250Z", 4, id="taken over"),
        pytest.param(OURS, "2026-11-24T11:00:00.000000Z", 3, id="renewed"),
    ],
)
def test_what_its_holder_writes(found: Lease, acquired: str, transitions: int) -> None:
    assert lease.held(Sighting(found, 0), "us", Periods(), WHEN) == {
        "holderIdentity": "us",
        "leaseDurationSeconds": 15,
        "acquireTime": acquired,
        "renewTime": "2026-11-24T12:00:00.000250Z",
        "leaseTransitions": transitions,
    }


def test_what_is_given_back_belongs_to_nobody() -> None:
    spec = lease.released(WHEN)
    read = lease.read({"metadata": {"resourceVersion": "8"}, "spec": spec})
    assert lease.step(Sighting(read, 0), "us", 0) is Step.CLAIM


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="without a spec"),
        pytest.param({"spec": {}}, id="with an empty one"),
        pytest.param(
            {"spec": {"holderIdentity": None, "leaseDurationSeconds": None}}, id="of nulls"
        ),
    ],
)
def test_a_lease_that_says_nothing_is_free(spec: dict[str, object]) -> None:
    assert lease.read({"metadata": {"resourceVersion": "8"}} | spec) == Lease(version="8")


def test_a_leader_stops_before_another_may_begin_and_a_dead_one_is_followed_in_time() -> None:
    periods = Periods()
    assert periods.renewal * 2 < periods.deadline < periods.duration
    assert periods.duration + periods.poll <= 17  # three seconds are left to begin the work
