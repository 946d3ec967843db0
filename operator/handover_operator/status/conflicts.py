"""What is in the way of a migration, for its condition Conflicted: the gravest reason first.

A conflict stops no other migration, and this one only where it is in the way: a person must look.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from handover_api import wording
from handover_api.conditions import MigrationReason
from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_operator.roles.index import Index
from handover_operator.roles.model import Endpoint
from handover_operator.roles.rules import Verdict

_SINCE: Final = (
    "was moved since by a newer LiveMigration: this one gives it no role; make a new one instead"
)
_IS_SOURCE: Final = "is matched as target and named as source: it is source"


class Conflict(NamedTuple):
    """Why condition Conflicted is True."""

    reason: MigrationReason
    message: str


def find(
    index: Index,
    migration: LiveMigration,
    targets: Sequence[Endpoint],
    superseded: frozenset[ObjectKey],
    judged: Mapping[ObjectKey, Verdict],
) -> Conflict | None:
    """Return the gravest reason, and the first few of all of them.

    *judged*: the endpoints that *migration* matches; *superseded*: those of them that a newer one
    has moved since.
    """
    members = index.members(migration.key)
    contested = [key for key in sorted(members) if members[key].contested]
    # Claims are counted endpoint by endpoint: many migrations may claim many endpoints, and which
    # ones claim this one is looked at only for the few that the sentence names.
    claimed = {key: len(each.claimants - {migration.key}) for key, each in judged.items()}
    nodes = {target.node for target in targets}
    # The order is that of gravity: the first part that is present gives the reason.
    parts = (
        (
            MigrationReason.SUPERSEDED,
            (f"endpoint {key.name} {_SINCE}" for key in sorted(superseded)),
            len(superseded),
        ),
        (
            MigrationReason.SELECTOR_MATCHES_SOURCE,
            (f"endpoint {key.name} {_IS_SOURCE}" for key in contested),
            len(contested),
        ),
        (
            MigrationReason.ENDPOINT_CLAIMED,
            _claims(index, migration.key, {key: judged[key] for key in claimed if claimed[key]}),
            sum(claimed.values()),
        ),
        (
            MigrationReason.TARGETS_ON_TWO_NODES,
            [f"the targets are on several nodes: {wording.name_few(nodes)}"],
            int(len(nodes) > 1),
        ),
    )
    present = [part for part in parts if part[2]]
    if not present:
        return None
    texts = itertools.chain.from_iterable(texts for _, texts, _ in present)
    message = wording.enumerate_few(texts, sum(count for _, _, count in present), "; ")
    return Conflict(present[0][0], message)


def _claims(
    index: Index, migration: ObjectKey, judged: Mapping[ObjectKey, Verdict]
) -> Iterator[str]:
    for key, verdict in sorted(judged.items(), key=lambda each: each[0]):
        claims = index.claims(key)
        for other in sorted(verdict.claimants - {migration}):
            # Its claim may have gone since the endpoint was judged; then there is no role to name.
            if other in claims:
                role = claims[other].role
                yield f"endpoint {key.name} is {role} of LiveMigration {other.name} as well"
