"""The loop of the operator: observe, resolve, write. It decides nothing itself.

Every write is level-triggered: a worker asks for the verdict at the moment of writing, sends one
merge patch with the resourceVersion that it is based on, and takes the answer in as an event, so
that the next verdict is based on it even before the watch tells it.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

import structlog

from handover_api.configuration import HandoverConfiguration
from handover_api.livemigration import LiveMigration, LiveMigrationStatus
from handover_api.names import DEFAULT_CONFIGURATION, ObjectKey
from handover_operator import acceptance, conditions, gather, metrics, notices
from handover_operator.cluster import Absent, Cluster, Conflict, Refused
from handover_operator.gather import RawObject, Unreadable
from handover_operator.kinds import Kind
from handover_operator.notices import Notice
from handover_operator.resolver import Resolver
from handover_operator.workqueue import Temporary, WorkQueue


@dataclass(frozen=True, slots=True)
class Subject:
    """An object to bring up to date, or to say something about."""

    kind: Kind
    key: ObjectKey
    notice: Notice | None = None
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {str(self.key).removeprefix('/')}"


@dataclass(frozen=True, slots=True)
class _Version:
    uid: str
    number: int


class Reconciler:
    """Keeps what is known, and writes what follows from it."""

    def __init__(self, cluster: Cluster, clock: Callable[[], dt.datetime]) -> None:
        self.resolver = Resolver()
        self.configurations: dict[str, HandoverConfiguration] = {}
        self.synced = False
        self._cluster = cluster
        self._clock = clock
        self._queue: WorkQueue[Subject] = WorkQueue(self._write)
        self._versions: dict[tuple[Kind, ObjectKey], _Version] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger()
        metrics.QUEUE.set_function(lambda: len(self._queue))

    async def run(self, workers: int) -> None:
        """Write until cancelled."""
        await self._queue.run(workers)

    def start(self) -> None:
        """All kinds were listed: from now on what is absent is really absent."""
        self.synced = True
        metrics.SYNCED.set(1)
        self._doubt_configurations(DEFAULT_CONFIGURATION)
        self._advance()

    def observe(self, kind: Kind, raw: RawObject) -> None:
        """Take in one version of an object; an older one than the last is ignored."""
        key, version = gather.key(raw), _version(raw)
        known = self._versions.get((kind, key))
        if known is not None and version.number < known.number:
            return
        if known is not None and version.uid != known.uid:
            self._drop(kind, key)
        self._versions[kind, key] = version
        match kind:
            case Kind.ENDPOINT:
                self._observe_endpoint(raw)
            case Kind.MIGRATION:
                self._observe_migration(key, raw)
            case Kind.CONFIGURATION:
                self._observe_configuration(key, raw)
            case _:
                assert_never(kind)
        self._advance()

    def forget(self, kind: Kind, key: ObjectKey, uid: str) -> None:
        """Take in that this very object is gone."""
        known = self._versions.get((kind, key))
        if known is None or known.uid != uid:
            return
        self._drop(kind, key)
        self._advance()

    def retain(self, kind: Kind, existing: Mapping[ObjectKey, str], version: int) -> None:
        """Forget what a list of this version does not hold and nothing newer told us of."""
        gone = [
            (key, known.uid)
            for (of, key), known in self._versions.items()
            if of is kind and known.number <= version and existing.get(key) != known.uid
        ]
        for key, uid in gone:
            self._log.info("vanished", kind=kind.value, object=str(key))
            self.forget(kind, key, uid)

    def _drop(self, kind: Kind, key: ObjectKey) -> None:
        del self._versions[kind, key]
        match kind:
            case Kind.ENDPOINT:
                self.resolver.drop_endpoint(key)
            case Kind.MIGRATION:
                self.resolver.drop_migration(key)
            case Kind.CONFIGURATION:
                self.configurations.pop(key.name, None)
                self._doubt_configurations(key.name)
            case _:
                assert_never(kind)

    def _observe_endpoint(self, raw: RawObject) -> None:
        found = gather.endpoint(raw)
        if isinstance(found, Unreadable):
            self._complain(Kind.ENDPOINT, found)
        else:
            self.resolver.put_endpoint(found)

    def _observe_migration(self, key: ObjectKey, raw: RawObject) -> None:
        found = gather.migration(raw)
        if isinstance(found, Unreadable):
            self._complain(Kind.MIGRATION, found)
            self.resolver.put_unreadable(key, found.migration_uid)
        else:
            self.resolver.put_migration(found)

    def _observe_configuration(self, key: ObjectKey, raw: RawObject) -> None:
        found = gather.configuration(raw)
        if isinstance(found, Unreadable):
            self._complain(Kind.CONFIGURATION, found)
            return
        self.configurations[key.name] = found
        self._doubt_configurations(key.name)

    def _doubt_configurations(self, changed: str) -> None:
        """Look at a configuration again, and at all where the default has changed."""
        doubtful = self.configurations if changed == DEFAULT_CONFIGURATION else {changed}
        if self.synced:
            for name in doubtful:
                self._queue.add(Subject(Kind.CONFIGURATION, ObjectKey("", name)))

    def _complain(self, kind: Kind, found: Unreadable) -> None:
        """Say it to the log and to whoever describes the object; the others go on."""
        self._log.error(
            "malformed_object",
            kind=kind.value,
            object=str(found.key),
            field=found.field,
            problem=found.message,
        )
        metrics.UNREADABLE.labels(kind.value).inc()
        uid = self._versions[kind, found.key].uid
        self._queue.add(Subject(kind, found.key, notices.malformed(found), uid))

    def _advance(self) -> None:
        """Resolve what has changed, and queue what is to be written."""
        if not self.synced:
            return
        resolution = self.resolver.resolve(self._clock())
        for key in resolution.endpoints:
            verdict = self.resolver.verdict(key)
            if verdict and verdict.assignment != self.resolver.index.endpoints[key].assignment:
                self._queue.add(Subject(Kind.ENDPOINT, key))
        for key in resolution.migrations:
            self._queue.add(Subject(Kind.MIGRATION, key))
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if resolution.wake is not None:
            delay = (resolution.wake - self._clock()).total_seconds()
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(delay, 0.01), self._advance)

    async def _write(self, subject: Subject) -> None:
        """Bring one object up to date, or raise Temporary."""
        try:
            if subject.notice is not None:
                await self._emit(subject, subject.notice)
            elif subject.kind is Kind.ENDPOINT:
                await self._write_endpoint(subject)
            elif subject.kind is Kind.MIGRATION:
                await self._write_migration(subject)
            else:
                await self._write_acceptance(subject)
        except Temporary:
            metrics.WRITES.labels(subject.kind.value, "failed").inc()
            raise

    async def _write_endpoint(self, subject: Subject) -> None:
        endpoint = self.resolver.index.endpoints.get(subject.key)
        verdict = self.resolver.verdict(subject.key)
        if endpoint is None or verdict is None or verdict.assignment == endpoint.assignment:
            return
        metadata = {
            "resourceVersion": endpoint.resource_version,
            "annotations": verdict.assignment.to_annotations(),
        }
        if await self._patch(subject, {"metadata": metadata}):
            metrics.ROLES.labels(verdict.reason.value).inc()
            said = verdict.assignment
            self._log.info(
                "role",
                endpoint=str(subject.key),
                node=endpoint.node,
                role=said.role and said.role.value,
                migration=said.migration,
                uid=said.migration_uid,
                outcome=said.outcome and said.outcome.value,
                ended_role=said.ended_role and said.ended_role.value,
                reason=verdict.reason.value,
            )

    async def _write_migration(self, subject: Subject) -> None:
        migration = self.resolver.index.migrations.get(subject.key)
        if migration is None or await self._expire(subject, migration):
            return
        now = self._clock()
        before = migration.status
        after = conditions.status(migration, self.resolver.standing(subject.key), now)
        if after != before and await self._patch(
            subject,
            {
                "metadata": {"resourceVersion": migration.metadata.resource_version},
                "status": after.to_object(),
            },
            subresource="/status",
        ):
            self._tell(subject, migration, before, after)
        wake = conditions.wake(migration.model_copy(update={"status": after}))
        if wake is not None:
            self._queue.add_later(subject, (wake - now).total_seconds() + 0.01)

    def _tell(
        self,
        subject: Subject,
        migration: LiveMigration,
        before: LiveMigrationStatus,
        after: LiveMigrationStatus,
    ) -> None:
        if after.phase is not before.phase:
            self._log.info(
                "phase",
                migration=str(subject.key),
                uid=migration.migration_uid,
                phase=after.phase and after.phase.value,
            )
        for notice in notices.notices(before, after):
            self._queue.add(Subject(subject.kind, subject.key, notice, migration.metadata.uid))

    async def _expire(self, subject: Subject, migration: LiveMigration) -> bool:
        """Delete a finished migration whose time has come (spec.ttlSecondsAfterFinished)."""
        expiry = conditions.expiry(migration)
        if expiry is None:
            return False
        left = (expiry - self._clock()).total_seconds()
        if left > 0:
            self._queue.add_later(subject, left)
            return False
        await self._cluster.delete(subject.kind, subject.key, migration.metadata.uid)
        self._log.info("expired", migration=str(subject.key))
        return True

    async def _write_acceptance(self, subject: Subject) -> None:
        found = self.configurations.get(subject.key.name)
        if found is None:
            return
        default = self.configurations.get(DEFAULT_CONFIGURATION)
        accepted = acceptance.accept(subject.key.name, found.spec, default.spec if default else {})
        before = next(iter(found.status.conditions), None)
        after = acceptance.condition(accepted, before, found.metadata.generation, self._clock())
        if after == before:
            return
        patch = {
            "metadata": {"resourceVersion": found.metadata.resource_version},
            "status": {"conditions": [after.to_object()]},
        }
        if await self._patch(subject, patch, subresource="/status") and not accepted.holds:
            notice = Notice(accepted.reason, accepted.message, warning=True)
            uid = found.metadata.uid
            self._queue.add(Subject(subject.kind, subject.key, notice, uid))

    async def _patch(self, subject: Subject, patch: RawObject, *, subresource: str = "") -> bool:
        """Send one patch and take in what the API server made of it.

        Where somebody was faster, the object is read again and its subject queued once more.
        """
        try:
            raw = await self._cluster.patch(
                subject.kind, subject.key, patch, subresource=subresource
            )
        except Conflict:
            metrics.WRITES.labels(subject.kind.value, "conflict").inc()
            await self._look_again(subject)
            return False
        except Absent:
            return False
        metrics.WRITES.labels(subject.kind.value, "done").inc()
        self._take_in(subject, raw)
        return True

    async def _look_again(self, subject: Subject) -> None:
        with contextlib.suppress(Absent):
            self._take_in(subject, await self._cluster.get(subject.kind, subject.key))
            self._queue.add(subject)

    def _take_in(self, subject: Subject, raw: RawObject) -> None:
        """Observe an answer, unless a watch has told meanwhile that the object is gone."""
        known = self._versions.get((subject.kind, subject.key))
        if known is not None and known.uid == _version(raw).uid:
            self.observe(subject.kind, raw)

    async def _emit(self, subject: Subject, notice: Notice) -> None:
        try:
            await self._cluster.emit(subject.kind, subject.key, subject.uid, notice, self._clock())
        except (Absent, Conflict, Refused) as error:
            # Its namespace may be going; an Event is not worth a second attempt.
            self._log.warning("event_lost", about=str(subject), reason=str(error))


def _version(raw: RawObject) -> _Version:
    metadata = raw["metadata"]
    return _Version(metadata["uid"], int(metadata["resourceVersion"]))
