"""LiveMigrations: their status, the Events that tell of it, and their end by age."""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Final

import structlog

from handover_api.livemigration import LiveMigration, LiveMigrationStatus
from handover_api.names import ObjectKey
from handover_operator.cache import Cache
from handover_operator.kinds import Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.writer import Writer
from handover_operator.observability import metrics
from handover_operator.reconcile import due
from handover_operator.reconcile.request import DONE, Result
from handover_operator.status import kubernetes_events, livemigration, progress
from handover_operator.status.coalesce import Coalescer
from handover_operator.status.progress import Progress

LATE: Final = 0.01
"""Seconds after an instant at which a status changes by itself: a timer may ring a little early."""


class Migrations:
    """Writes statuses, at once or with what is told a moment later (coalesce.py).

    ``coalescer``: which changes wait.
    """

    def __init__(
        self, cache: Cache, cluster: Cluster, writer: Writer, clock: Callable[[], dt.datetime]
    ) -> None:
        self.coalescer = Coalescer()
        self._cache = cache
        self._cluster = cluster
        self._writer = writer
        self._clock = clock
        self._log = structlog.get_logger()

    async def reconcile(self, key: ObjectKey) -> Result:
        """Bring the status of one LiveMigration up to date, or delete one whose time has come."""
        migration = self._cache.resolver.index.migrations.get(key)
        left = None if migration is None else self._seconds_to_expiry(migration)
        if migration is None or (left is not None and left <= 0):
            self.coalescer.forget(key)
            if migration is not None:
                # By its uid: one that was made anew under its name has its own time.
                await self._writer.delete(Kind.MIGRATION, key, migration.metadata.uid)
                self._log.info("expired", migration=str(key))
            return DONE
        now = self._clock()
        before = migration.status
        after = await self._status(migration, now)
        loop = asyncio.get_running_loop()
        waiting = self.coalescer.seconds_left(key, before, after, loop.time())
        if waiting > 0:
            return Result(requeue_after=waiting)
        # Only what was written is told, so that an Event never says what no status did.
        events: tuple[kubernetes_events.KubernetesEvent, ...] = ()
        if after != before and await self._write(migration, after):
            self._report(migration, after)
            events = tuple(kubernetes_events.describe(before, after))
        # What was held back is written, or has become what it was before.
        self.coalescer.forget(key)
        # The answer to the write was taken in: from here on its clocks count.
        known = self._cache.resolver.index.migrations.get(key)
        if known is not None:
            wake = livemigration.wake(known, self._progress(key), now)
            left = left if wake is None else (wake - now).total_seconds() + LATE
        return Result(events, migration.metadata.uid, left, migration)

    def _seconds_to_expiry(self, migration: LiveMigration) -> float | None:
        """Return how long a finished one may still stay (spec.ttlSecondsAfterFinished)."""
        expiry = livemigration.expiry(migration)
        return None if expiry is None else (expiry - self._clock()).total_seconds()

    async def _status(self, migration: LiveMigration, now: dt.datetime) -> LiveMigrationStatus:
        """Derive the status; where an agent has been silent for long, ask for its node first."""
        found = self._progress(migration.key)
        status = livemigration.status(migration, found, now)
        silent = livemigration.silent_nodes(migration, found, status)
        # None is not False: where we may not ask for nodes, none is called absent.
        absent = [node for node in silent if await self._cluster.has_node(node) is False]
        if not absent:
            return status
        # While we asked, the migration may have gone on.
        found = self._progress(migration.key)
        return livemigration.status(migration, found, now, frozenset(absent))

    def _progress(self, key: ObjectKey) -> Progress:
        return progress.describe(self._cache.resolver, key)

    async def _write(self, migration: LiveMigration, after: LiveMigrationStatus) -> bool:
        # What has changed since, while a node was asked for or on the way, makes it a conflict.
        patch = due.migration_patch(migration, after)
        return await self._writer.patch(Kind.MIGRATION, migration.key, patch, subresource="/status")

    def _report(self, migration: LiveMigration, after: LiveMigrationStatus) -> None:
        metrics.count_progress(migration.status, after)
        if after.phase is not migration.status.phase:
            self._log.info(
                "phase",
                migration=str(migration.key),
                uid=migration.migration_uid,
                phase=after.phase and after.phase.value,
            )
