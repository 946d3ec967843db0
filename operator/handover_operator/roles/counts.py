"""How many endpoints of a migration are what: counted while they change, never by looking at all.

Many migrations may share many endpoints. What one event costs must not grow with the product of
their numbers, or whoever may make both in one namespace stops the operator for all.
"""

import enum
from typing import Final, Generic, TypeVar

from handover_api.livemigration import Outcome
from handover_api.workloadendpoint import Role
from handover_operator.roles.model import Endpoint

K = TypeVar("K")


class Trait(enum.IntEnum):
    """What an endpoint may be for a migration; the number is its place among the counts.

    SERVING: a source that was not told of a success, or has routes. ARRIVED: a target that still
    carries its role and has shown life. CONTRADICTING: a target that was told of an abort, and
    whose guest runs there all the same.
    """

    ALIVE = 0
    SOURCE = 1
    ROUTED = 2
    UNTOLD = 3
    SERVING = 4
    ARRIVED = 5
    CONTRADICTING = 6
    TOLD_OF_SUCCESS = 7
    SOURCE_TOLD_OF_ABORT = 8


Traits = frozenset[Trait]

NONE: Final[Traits] = frozenset()


class TraitCounts(Generic[K]):
    """Counts by key; a key of which nothing is true takes no room."""

    def __init__(self) -> None:
        self._counts: dict[K, list[int]] = {}

    def __getitem__(self, key: K) -> Traits:
        counts = self._counts.get(key)
        # What is asked is always whether there is one, never how many: equal answers mark nothing
        # anew.
        return NONE if counts is None else frozenset(each for each in Trait if counts[each])

    def __len__(self) -> int:
        """Count the keys."""
        return len(self._counts)

    def add(self, key: K, traits: Traits) -> None:
        """Count an endpoint with these traits."""
        if not traits:
            return
        counts = self._counts.setdefault(key, [0] * len(Trait))
        for trait in traits:
            counts[trait] += 1

    def remove(self, key: K, traits: Traits) -> None:
        """Count an endpoint no more that was added with these traits."""
        if not traits:
            return
        counts = self._counts[key]
        for trait in traits:
            counts[trait] -= 1
        # Many thousand migrations come and go; what none of them needs any more must not stay.
        if not any(counts):
            del self._counts[key]


def of_member(endpoint: Endpoint, role: Role, migration_uid: str) -> Traits:
    """Return what *endpoint* is for a migration whose spec gives it this role."""
    if role is Role.TARGET:
        # Of a target the spec alone says only where it is; what it was told counts with its
        # carriers.
        return frozenset({Trait.ALIVE}) if endpoint.is_alive_for(migration_uid) else NONE
    found = {Trait.SOURCE}
    if endpoint.routed:
        found |= {Trait.ROUTED, Trait.SERVING}
    return frozenset(found)


def of_carrier(endpoint: Endpoint) -> Traits:
    """Return what *endpoint* is for the migration of which its annotations speak.

    One that was told of an abort has left the migration, unless its guest contradicts.
    """
    uid = endpoint.assignment.migration_uid
    if uid is None:
        return NONE
    found: set[Trait] = set()
    said = endpoint.assignment
    # One that was told of an end keeps the role that ended, and may still have routes of it.
    if Role.SOURCE in (said.role, said.ended_role):
        found |= _of_source(endpoint, uid)
    if Role.TARGET in (said.role, said.ended_role):
        found |= _of_target(endpoint, uid)
    return frozenset(found)


def _of_source(endpoint: Endpoint, uid: str) -> set[Trait]:
    is_carrying = endpoint.is_carrying(Role.SOURCE, uid)
    is_left = endpoint.has_ended(Role.SOURCE, uid, Outcome.SUCCEEDED)
    found: set[Trait] = set()
    if is_carrying or is_left:
        found |= {Trait.SOURCE, *([Trait.ROUTED] if endpoint.routed else [])}
    if is_carrying:
        found.add(Trait.UNTOLD)
    if is_left:
        found.add(Trait.TOLD_OF_SUCCESS)
    if endpoint.has_ended(Role.SOURCE, uid, Outcome.ABORTED):
        found.add(Trait.SOURCE_TOLD_OF_ABORT)
    # An agent may put routes back at any time, until it was told that the guest has left.
    if endpoint.routed or not is_left:
        found.add(Trait.SERVING)
    return found


def _of_target(endpoint: Endpoint, uid: str) -> set[Trait]:
    is_carrying = endpoint.is_carrying(Role.TARGET, uid)
    is_done = endpoint.has_ended(Role.TARGET, uid, Outcome.SUCCEEDED)
    is_alive = endpoint.is_alive_for(uid)
    found: set[Trait] = set()
    if is_alive and (is_carrying or is_done):
        found.add(Trait.ALIVE)
    if is_alive and is_carrying:
        found.add(Trait.ARRIVED)
    if is_done:
        found.add(Trait.TOLD_OF_SUCCESS)
    if endpoint.is_contradicting():
        found.add(Trait.CONTRADICTING)
    return found
