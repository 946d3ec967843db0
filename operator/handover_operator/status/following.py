"""Whether the network has followed a guest whose migration succeeded, and what stood in the way.

A success that nobody has seen is none: it takes an announcement on a target, or a route there.
"""

import datetime as dt
from typing import Final

from handover_api.conditions import MigrationCondition, MigrationReason
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.model import Condition
from handover_api.wording import enumerate_few
from handover_api.workloadendpoint import Role, State
from handover_operator.roles import addresses
from handover_operator.roles.model import Endpoint
from handover_operator.status.progress import Standing

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
    return (has_acted and target.state is State.BASE) or is_unattended(migration, target, now)


def obstacle(migration: LiveMigration, standing: Standing, now: dt.datetime) -> str:
    """Return what stood in the way; nothing where the network follows the guest.

    Without a target nobody was to follow: another cluster has the other half.
    """
    if migration.spec.target is None:
        return ""
    kept = _condition(migration, MigrationCondition.ADDRESS_KEPT)
    known = kept if kept is not None and kept.status == "False" else None
    found = addresses.obstacle(migration, standing.sources, standing.targets)
    if known is not None and known.reason == MigrationReason.ADDRESS_CHANGED:
        return known.message
    if found is not None and found[0] is MigrationReason.ADDRESS_CHANGED:
        return found[1]
    if _has_followed(migration, standing):
        return ""
    if known is not None or found is not None:
        return known.message if known is not None else found[1] if found is not None else ""
    return _missing(migration, standing, now)


def _has_followed(migration: LiveMigration, standing: Standing) -> bool:
    """A target has heard its guest, or has the routes by the word of who drives the migration."""
    uid = migration.migration_uid
    cut_over = _condition(migration, MigrationCondition.CUT_OVER)
    return (
        (cut_over is not None and cut_over.status == "True")
        or standing.heard
        or any(side.cutover is not None for side in migration.status.target)
        or any(target.is_alive_for(uid) for target in standing.targets)
        or any(_has_routes(target, uid) for target in standing.targets)
    )


def _has_routes(target: Endpoint, uid: str) -> bool:
    is_told = target.has_ended(Role.TARGET, uid, Outcome.SUCCEEDED)
    has_acted = target.acted_uid == uid and target.acted_role is None
    return is_told and has_acted and target.state is State.BASE and target.routed


def _missing(migration: LiveMigration, standing: Standing, now: dt.datetime) -> str:
    targets = standing.targets
    if not targets:
        gone = sorted({side.endpoint for side in migration.status.target} & standing.absent)
        if gone:
            names = enumerate_few(gone, len(gone))
            return f"the target's endpoint was deleted before its guest was heard: {names}"
        return "no WorkloadEndpoint of a target was known"
    unattended = [target for target in targets if is_unattended(migration, target, now)]
    if unattended:
        nodes = sorted({target.node for target in unattended})
        return f"no agent has acted upon the target's role on {enumerate_few(nodes, len(nodes))}"
    states = (
        f"{each.key.name} on {each.node} in state {each.state}"
        f"{'' if each.routed else ' without routes'}"
        for each in targets
    )
    return f"no target has heard its guest: {enumerate_few(states, len(targets))}"


def _condition(migration: LiveMigration, wanted: MigrationCondition) -> Condition | None:
    return next((found for found in migration.status.conditions if found.type == wanted), None)
