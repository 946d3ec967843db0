"""Which writes are due on our own objects: what to look at, and with which merge patch. Pure.

Each patch names the version that it was derived from, so that the API server refuses it where the
object has changed since; then it is derived anew.
"""

import datetime as dt
import enum
from collections.abc import Iterable, Iterator, Mapping

from handover_api import names
from handover_api.configuration import HandoverConfiguration, HandoverConfigurationStatus
from handover_api.livemigration import LiveMigration, LiveMigrationStatus
from handover_api.names import ObjectKey
from handover_operator.cache import Cache
from handover_operator.kinds import Kind
from handover_operator.reconcile.request import Request
from handover_operator.roles.model import Endpoint
from handover_operator.roles.parse import RawObject
from handover_operator.roles.peers import Told
from handover_operator.roles.resolver import Resolver
from handover_operator.roles.rules import Verdict
from handover_operator.status import kubernetes_events


class Due(enum.Enum):
    """What is due about the role of an endpoint."""

    NOTHING = "nothing"
    GIVE = "give"
    TAKE_AWAY = "take away"


def role(resolver: Resolver, key: ObjectKey) -> Due:
    """Compare the role that an endpoint has with the one that it is to have."""
    # No verdict while it is to be judged anew: nothing is written on what is out of date.
    endpoint, verdict = resolver.index.endpoints.get(key), resolver.verdict(key)
    if endpoint is None or verdict is None or verdict.assignment == endpoint.assignment:
        return Due.NOTHING
    return Due.TAKE_AWAY if verdict.assignment.role is None else Due.GIVE


def relations(cache: Cache, keys: Iterable[ObjectKey], now: dt.datetime) -> Iterator[Request]:
    """Return those endpoints that say wrongly who serves their addresses, too, or is their peer."""
    endpoints = cache.resolver.index.endpoints
    for key in keys:
        found = endpoints.get(key)
        if found is not None and (found.shared, said_of_peers(found)) != (
            cache.sharing.message(key, now),
            cache.peers.told(key),
        ):
            yield Request(Kind.ENDPOINT, key)


def said_of_peers(endpoint: Endpoint) -> Told:
    """Return what the annotations of an endpoint say of its peers."""
    return Told(endpoint.peers, endpoint.peer_live)


def of_the_leader(cache: Cache, migrations: Iterable[ObjectKey]) -> Iterator[Request]:
    """Return what only the leader writes: statuses, and Events of what nobody can read.

    What the cache had noted for that is taken off its lists.
    """
    for key in migrations:
        yield Request(Kind.MIGRATION, key)
    for name in cache.take_doubtful():
        yield Request(Kind.CONFIGURATION, ObjectKey("", name))
    for kind, key in cache.take_unreported():
        event = kubernetes_events.malformed(cache.unreadable[kind, key])
        yield Request(kind, key, event, cache.uid(kind, key) or "")


def concerned(resolver: Resolver, key: ObjectKey) -> set[ObjectKey]:
    """Return the migrations that claim an endpoint, and the one whose role it carries."""
    found = set(resolver.index.claims(key))
    # The one that gave the role may claim the endpoint no more, and is still the one to end it.
    carried = resolver.index.endpoints[key].assignment
    if carried.role is not None and carried.migration is not None:
        found.add(ObjectKey(key.namespace, carried.migration))
    return found


def endpoint_patch(
    endpoint: Endpoint, verdict: Verdict, message: str, told: Told
) -> RawObject | None:
    """Compose what of an endpoint's annotations is not as it should be; None: all is.

    *message*: which of its addresses others serve; *told*: who its peers are.
    """
    annotations: dict[str, str | None] = {}
    if verdict.assignment != endpoint.assignment:
        annotations |= verdict.assignment.to_annotations()
    if message != endpoint.shared:
        # In a merge patch null takes an annotation away, and an empty one would stay.
        annotations[names.ADDRESS_SHARED] = message or None
    if told != said_of_peers(endpoint):
        annotations |= {names.PEER: told.peers or None, names.PEER_LIVE: told.live or None}
    if not annotations:
        return None
    # An agent may have reported since (a guest's life, a route), and the verdict rests on that.
    return {"metadata": {"resourceVersion": endpoint.resource_version, "annotations": annotations}}


def migration_patch(migration: LiveMigration, after: LiveMigrationStatus) -> RawObject:
    """Compose the patch to a status.

    What is no more has to be null: a field that is only left out stays, differs again at the next
    look, and is written for ever.
    """
    written = after.to_object()
    gone = migration.status.to_object().keys() - written.keys()
    return _status(migration.metadata.resource_version, {**dict.fromkeys(gone), **written})


def configuration_patch(
    found: HandoverConfiguration, after: HandoverConfigurationStatus
) -> RawObject:
    """Compose the patch to a status: of a spec that has changed since nothing is said unseen."""
    return _status(found.metadata.resource_version, after.to_object())


def _status(version: str, status: Mapping[str, object]) -> RawObject:
    return {"metadata": {"resourceVersion": version}, "status": status}
