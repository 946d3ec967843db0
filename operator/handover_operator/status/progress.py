"""How one migration stands: everything that its status tells, gathered from the index."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.conditions import MigrationReason
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_api.wording import enumerate_few
from handover_api.workloadendpoint import Role
from handover_operator.roles import addresses, outcome
from handover_operator.roles.index import Index, course_of
from handover_operator.roles.model import Endpoint
from handover_operator.roles.rules import Judgement

_SINCE: Final = (
    "was moved since by a newer LiveMigration: this one gives it no role; make a new one instead"
)
_IS_SOURCE: Final = "is matched as target and named as source: it is source"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that a person must look at; it stops no other migration."""

    reason: MigrationReason
    message: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One migration's endpoints and what became of it so far.

    ``untold``: an endpoint still carries a role of it. ``lingering``: sources that keep the
    targets waiting. ``absent``: endpoints that its status names and that exist no more.
    ``superseded``: endpoints that a newer migration has moved since. ``obstacle``: why the network
    cannot follow the guest. ``heard``: a target that the spec matches has measured the cutover,
    whatever became of it since. ``contradicting``: targets whose guest runs there although it was
    aborted; ``serving``: sources that may serve it meanwhile.
    """

    decision: Outcome | None = None
    sources: tuple[Endpoint, ...] = ()
    targets: tuple[Endpoint, ...] = ()
    source_was_resolved: bool = False
    untold: bool = False
    lingering: tuple[Endpoint, ...] = ()
    absent: frozenset[str] = frozenset()
    superseded: frozenset[ObjectKey] = frozenset()
    conflict: Conflict | None = None
    obstacle: Conflict | None = None
    heard: bool = False
    contradicting: tuple[Endpoint, ...] = ()
    serving: tuple[Endpoint, ...] = ()


def stand(
    index: Index,
    migration: LiveMigration,
    decided: Outcome | None,
    judgements: Mapping[ObjectKey, Judgement],
    *,
    was_resolved: bool,
) -> Standing:
    """Gather how *migration* stands.

    While it is undecided its endpoints are those that its spec matches, whoever wins them; then
    those that were told of it.
    """
    uid = migration.migration_uid
    carriers = [index.endpoints[key] for key in sorted(index.carriers(course_of(migration)))]
    standing = Standing(
        decision=decided,
        source_was_resolved=was_resolved,
        untold=any(carrier.assignment.role is not None for carrier in carriers),
        absent=_absent(index, migration),
    )
    if decided is None:
        return _undecided(standing, index, migration, judgements)
    held = any(carrier.is_carrying(Role.TARGET, uid) for carrier in carriers)
    is_waiting = decided is Outcome.SUCCEEDED and held
    sources, targets = (_told(carriers, role) for role in Role)
    return dataclasses.replace(
        standing,
        sources=sources,
        targets=targets,
        lingering=_lingering(index, migration) if is_waiting else (),
        heard=_is_heard(index, migration),
        contradicting=tuple(target for target in targets if target.is_contradicting()),
        serving=tuple(
            source
            for source in sources
            if source.routed or not source.has_ended(Role.SOURCE, uid, Outcome.SUCCEEDED)
        ),
    )


def _undecided(
    standing: Standing,
    index: Index,
    migration: LiveMigration,
    judgements: Mapping[ObjectKey, Judgement],
) -> Standing:
    members = sorted(index.members(migration.key).items())
    sources, targets = (
        tuple(index.endpoints[key] for key, found in members if found.role is role) for role in Role
    )
    judged = [(key, judgements[key]) for key, _ in members if key in judgements]
    late = frozenset(
        key for key, judgement in judged if migration.key in judgement.verdict.superseded
    )
    standing = dataclasses.replace(standing, sources=sources, targets=targets, superseded=late)
    found = addresses.obstacle(migration, sources, targets)
    return dataclasses.replace(
        standing,
        obstacle=None if found is None else Conflict(*found),
        conflict=_conflict(index, migration, standing, dict(judged)),
    )


def _is_heard(index: Index, migration: LiveMigration) -> bool:
    """A target has heard the guest, also one that the next migration has taken since."""
    members = index.members(migration.key)
    matched = (index.endpoints[key] for key in members if members[key].role is Role.TARGET)
    uid = migration.migration_uid
    return any(each.cutover is not None and each.cutover.migration_uid == uid for each in matched)


def _lingering(index: Index, migration: LiveMigration) -> tuple[Endpoint, ...]:
    uid = migration.migration_uid
    sources = outcome.sources(index, migration)
    return tuple(
        source for source in sources if source.routed or source.is_carrying(Role.SOURCE, uid)
    )


def _told(carriers: list[Endpoint], role: Role) -> tuple[Endpoint, ...]:
    return tuple(
        carrier
        for carrier in carriers
        if role in (carrier.assignment.role, carrier.assignment.ended_role)
    )


def _absent(index: Index, migration: LiveMigration) -> frozenset[str]:
    status = migration.status
    return frozenset(
        side.endpoint
        for side in (*status.source, *status.target)
        if ObjectKey(migration.key.namespace, side.endpoint) not in index.endpoints
    )


def _conflict(
    index: Index,
    migration: LiveMigration,
    standing: Standing,
    judged: Mapping[ObjectKey, Judgement],
) -> Conflict | None:
    """Return what is in the way: the gravest reason, and the first few of all of them.

    They are counted endpoint by endpoint; which migrations claim one is looked at only to name
    some, as many may claim many.
    """
    members = index.members(migration.key)
    contested = [key for key in sorted(members) if members[key].contested]
    claimed = {key: len(each.claimants - {migration.key}) for key, each in judged.items()}
    nodes = {target.node for target in standing.targets}
    parts = (
        (
            MigrationReason.SUPERSEDED,
            (f"endpoint {key.name} {_SINCE}" for key in sorted(standing.superseded)),
            len(standing.superseded),
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
            [f"the targets are on several nodes: {enumerate_few(sorted(nodes), len(nodes))}"],
            int(len(nodes) > 1),
        ),
    )
    present = [part for part in parts if part[2]]
    if not present:
        return None
    texts = itertools.chain.from_iterable(texts for _, texts, _ in present)
    message = enumerate_few(texts, sum(count for _, _, count in present), "; ")
    return Conflict(present[0][0], message)


def _claims(
    index: Index, migration: ObjectKey, judged: Mapping[ObjectKey, Judgement]
) -> Iterator[str]:
    for key, judgement in sorted(judged.items(), key=lambda each: each[0]):
        claims = index.claims(key)
        for other in sorted(judgement.claimants - {migration}):
            if other in claims:
                role = claims[other].role
                yield f"endpoint {key.name} is {role} of LiveMigration {other.name} as well"
