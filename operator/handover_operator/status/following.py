"""Whether the network has followed a guest whose migration succeeded, and what stood in the way.

A success that nobody has seen is none: it takes an announcement on a target, or a route there.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final

from handover_api import names, wording
from handover_api.conditions import MigrationCondition, MigrationReason
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.workloadendpoint import Role, State
from handover_operator.roles.model import Address, Endpoint
from handover_operator.status.progress import Progress

SILENT_AFTER: Final = dt.timedelta(seconds=10)
"""A target's agent that has done nothing for so long may not be there."""


def deadline(migration: LiveMigration) -> dt.datetime | None:
    """Return until when a target's agent that has not acted is waited for."""
    since = migration.status.start_time or migration.metadata.creation_timestamp
    return None if since is None else since + SILENT_AFTER


def is_unattended(migration: LiveMigration, target: Endpoint, now: dt.datetime) -> bool:
    """Its agent has not acted upon this migration in all the time that it had."""
    until = deadline(migration)
    has_acted = target.acted_uid == migration.migration_uid
    return not has_acted and (until is None or now >= until)


def is_settled(migration: LiveMigration, target: Endpoint, now: dt.datetime) -> bool:
    """Nothing more is to be expected of a target that was told of the success."""
    has_acted = target.acted_uid == migration.migration_uid
    # One that has asked its guest again, and still sends on, comes to Base no more.
    has_lost = target.state is State.REDIRECTED and target.acted_role is None
    is_done = has_acted and (target.state is State.BASE or has_lost)
    return is_done or is_unattended(migration, target, now)


def address_obstacle(
    migration: LiveMigration, sources: Sequence[Endpoint], targets: Sequence[Endpoint]
) -> tuple[MigrationReason, str] | None:
    """Return why the guest cannot keep its addresses; None as long as nothing speaks against it.

    A target may become known one interface after the other: what is missing there counts only
    when it has as many endpoints as the source.
    """
    if sources and targets:
        before, after = _union(sources), _union(targets)
        if after - before or (len(sources) == len(targets) and before - after):
            message = (
                f"the source has {_listed(before)}, the target {_listed(after)}: the CNI does not"
                " keep the addresses, and nothing can follow"
            )
            return MigrationReason.ADDRESS_CHANGED, message
    # KubeVirt's adapter notes here which interfaces it does not follow at all.
    note = migration.metadata.annotations.get(names.NOT_FOLLOWED)
    return None if note is None else (MigrationReason.NOT_FOLLOWED, note)


def _union(endpoints: Iterable[Endpoint]) -> set[Address]:
    return {ip for endpoint in endpoints for ip in endpoint.ips}


def _listed(ips: Iterable[Address]) -> str:
    ips = list(ips)
    return wording.enumerate_few(sorted(str(ip) for ip in ips), len(ips))


def obstacle(migration: LiveMigration, progress: Progress, now: dt.datetime) -> str:
    """Return what stood in the way; nothing where the network follows the guest.

    Without a target nobody was to follow: another cluster has the other half.
    """
    if migration.spec.target is None:
        return ""
    kept = migration.status.condition(MigrationCondition.ADDRESS_KEPT)
    known = kept if kept is not None and kept.status == "False" else None
    found = address_obstacle(migration, progress.sources, progress.targets)
    # Other addresses count also where the guest was heard: who talks to the old ones finds nobody.
    if known is not None and known.reason == MigrationReason.ADDRESS_CHANGED:
        return known.message
    if found is not None and found[0] is MigrationReason.ADDRESS_CHANGED:
        return found[1]
    if _has_followed(migration, progress):
        return ""
    # Some interfaces are not followed, and none of the others was heard either.
    if known is not None or found is not None:
        return known.message if known is not None else found[1] if found is not None else ""
    return _missing(migration, progress, now)


def _has_followed(migration: LiveMigration, progress: Progress) -> bool:
    """A target has heard its guest, or has the routes by the word of who drives the migration."""
    uid = migration.migration_uid
    return (
        migration.status.is_true(MigrationCondition.CUT_OVER)
        or progress.heard
        or any(side.cutover is not None for side in migration.status.target)
        or any(target.is_alive_for(uid) for target in progress.targets)
        or any(_has_routes(target, uid) for target in progress.targets)
    )


def _has_routes(target: Endpoint, uid: str) -> bool:
    is_told = target.has_ended(Role.TARGET, uid, Outcome.SUCCEEDED)
    # What it reported before it heard of the end may be a dead agent's last word.
    has_acted = target.acted_uid == uid and target.acted_role is None
    return is_told and has_acted and target.state is State.BASE and target.routed


def _missing(migration: LiveMigration, progress: Progress, now: dt.datetime) -> str:
    targets = progress.targets
    if not targets:
        gone = sorted({side.endpoint for side in migration.status.target} & progress.absent)
        if gone:
            listed = wording.enumerate_few(gone, len(gone))
            return f"the target's endpoint was deleted before its guest was heard: {listed}"
        return "no WorkloadEndpoint of a target was known"
    # A missing agent explains all that comes after it.
    unattended = [target for target in targets if is_unattended(migration, target, now)]
    if unattended:
        nodes = {target.node for target in unattended}
        return f"no agent has acted upon the target's role on {wording.name_few(nodes)}"
    states = (
        f"{each.key.name} on {each.node} in state {each.state}"
        f"{'' if each.routed else ' without routes'}"
        for each in targets
    )
    return f"no target has heard its guest: {wording.enumerate_few(states, len(targets))}"
