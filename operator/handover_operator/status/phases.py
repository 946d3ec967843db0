"""The phase of a LiveMigration: what ``kubectl get lm`` shows first."""

import datetime as dt
from typing import Final

from handover_api.livemigration import LiveMigration, Outcome, Phase
from handover_api.workloadendpoint import Role
from handover_operator.roles.model import Endpoint
from handover_operator.status import following
from handover_operator.status.progress import Progress

FINISHED: Final = frozenset({Phase.SUCCEEDED, Phase.NOT_FOLLOWED, Phase.ABORTED})


def phase(migration: LiveMigration, progress: Progress, now: dt.datetime) -> Phase:
    """Return the phase of a migration that is not finished yet."""
    if progress.decision is Outcome.SUCCEEDED:
        if not has_converged(migration, progress, now):
            return Phase.CONVERGING
        # A success that nobody has seen is none (following.py).
        stood_in_the_way = following.obstacle(migration, progress, now)
        return Phase.NOT_FOLLOWED if stood_in_the_way else Phase.SUCCEEDED
    # Until all are told it counts as under way: an agent may still act upon a role of it.
    if progress.decision is Outcome.ABORTED and not progress.untold:
        return Phase.ABORTED
    # Before the questions of readiness: the guest may have moved before anybody was ready.
    if any(target.is_alive_for(migration.migration_uid) for target in progress.targets):
        return Phase.LIVE
    if not (is_source_resolved(migration, progress) and is_target_resolved(migration, progress)):
        return Phase.PENDING
    return Phase.READY if is_ready(migration, progress) else Phase.PREPARING


def is_source_resolved(migration: LiveMigration, progress: Progress) -> bool:
    """There is an endpoint for the source, or none was asked for."""
    return migration.spec.source is None or bool(progress.sources)


def is_target_resolved(migration: LiveMigration, progress: Progress) -> bool:
    """There is an endpoint for the target, or none was asked for."""
    return migration.spec.target is None or bool(progress.targets)


def is_ready(migration: LiveMigration, progress: Progress) -> bool:
    """Every target listens for its guest, or has heard it."""
    uid = migration.migration_uid
    return bool(progress.targets) and all(
        target.is_listening_for(uid) or target.is_alive_for(uid) for target in progress.targets
    )


def has_cut_over(migration: LiveMigration, progress: Progress) -> bool:
    """Every target has heard its guest."""
    uid = migration.migration_uid
    return bool(progress.targets) and all(target.is_alive_for(uid) for target in progress.targets)


def has_converged(migration: LiveMigration, progress: Progress, now: dt.datetime) -> bool:
    """All were told, and the targets that succeeded are back in Base or gone."""
    return not progress.untold and not unconverged(migration, progress, now)


def unconverged(
    migration: LiveMigration, progress: Progress, now: dt.datetime
) -> tuple[Endpoint, ...]:
    """Return the targets that were told of the success and are not back in Base.

    One whose agent has never acted upon the migration is not waited for beyond its time.
    """
    uid = migration.migration_uid
    return tuple(
        target
        for target in progress.targets
        if target.has_ended(Role.TARGET, uid, Outcome.SUCCEEDED)
        and not following.is_settled(migration, target, now)
    )
