"""The loop of the operator: observe, resolve, write. It decides nothing itself.

Every write is level-triggered: a worker asks for the verdict at the moment of writing, sends one
merge patch with the resourceVersion that it is based on, and takes the answer in as an event, so
that the next verdict is based on it even before the watch tells it.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from handover_api import names
from handover_api.conditions import ConfigurationReason
from handover_api.livemigration import LiveMigration, LiveMigrationStatus
from handover_api.names import DEFAULT_CONFIGURATION, ObjectKey
from handover_operator.cache import Knowledge
from handover_operator.kinds import Kind
from handover_operator.kube import watch
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Conflict, NotLeading, Outdated, Refused, Temporary
from handover_operator.kube.standby import Standby
from handover_operator.kube.versions import Version, version_of
from handover_operator.kube.workqueue import WorkQueue
from handover_operator.observability import metrics
from handover_operator.roles import parse
from handover_operator.roles.parse import RawObject
from handover_operator.roles.resolver import Resolution
from handover_operator.status import configuration, kubernetes_events, livemigration, progress
from handover_operator.status.coalesce import Coalescer
from handover_operator.status.configuration import Application
from handover_operator.status.kubernetes_events import KubernetesEvent
from handover_operator.status.progress import Progress
from handover_operator.subject import ALL, Subject, is_urgent

BUDGET: Final = 2_000
"""Claims that are looked at in one turn of the loop: some 10 ms, whoever made how many of them."""


def _name(raw: RawObject) -> str:
    metadata = raw.get("metadata") or {}
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"


class Reconciler:
    """Keeps what is known, and writes what follows from it while ``run`` runs.

    A replica that does not lead decides, too, but writes only roles that are given, and only
    where the leader has not (standby.py): a guest on its way waits for those. How a migration
    ended, statuses and Events are the leader's.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], dt.datetime]) -> None:
        self.known = Knowledge()
        self.synced = False
        self.on_event: Callable[[LiveMigration, KubernetesEvent], None] = lambda *_: None
        self._cluster = cluster
        self._clock = clock
        self._queue: WorkQueue[Subject] = WorkQueue(self._write, is_urgent)
        self._coalescer = Coalescer()
        self._runs = False
        self._standby: Standby | None = None
        self._awaited: set[Subject] = set()
        self._rewound: set[Kind] = set()
        self._faults: dict[ObjectKey, str] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        """Count the objects that wait to be written."""
        return len(self._queue) + len(self._coalescer)

    def denied(self) -> int:
        """Count the objects whose last write was refused."""
        return self._queue.denied()

    async def run(self, workers: int, standby: Standby | None = None) -> None:
        """Write until cancelled; whatever is not as it should be now is found anew.

        With *standby* somebody else leads.
        """
        self._standby = standby
        self._runs = True
        try:
            self._review()
            await self._queue.run(workers)
        finally:
            self._runs = False
            self._queue.clear()
            self._awaited.clear()
            self._coalescer.clear()
            self._silence()

    async def load(self) -> None:
        """List all kinds; nothing is decided before all of them are known."""
        await watch.load(self._cluster, self, Kind)
        self.start()

    def start(self) -> None:
        """All kinds were listed: from now on what is absent is really absent."""
        self.synced = True
        metrics.SYNCED.set(1)
        self._review()

    def observe(self, kind: Kind, raw: RawObject) -> None:
        """Take in one version of an object; an older one than the last is ignored."""
        try:
            self.known.observe(kind, raw)
        except Exception:  # noqa: BLE001  one object's fault stays its own
            metrics.DEFECTS.inc()
            self._log.exception("cannot_take_in", kind=kind.value, object=_name(raw))
        self._advance()

    def end(self, kind: Kind, raw: RawObject) -> None:
        """Take in the last version of an object that is gone."""
        self.forget(kind, parse.key(raw), version_of(raw))

    def miss(self, kind: Kind, reason: Exception) -> None:
        """Let it be: Kopf watches our kinds, and tells the log by itself (watch.Sink)."""

    def forget(self, kind: Kind, key: ObjectKey, last: Version) -> None:
        """Take in that this very object is gone."""
        if self.known.forget(kind, key, last):
            self._faults.pop(key, None)
            self._advance()

    def retain(self, kind: Kind, existing: Mapping[ObjectKey, str], version: int) -> None:
        """Forget what a list of this version does not hold and nothing newer told us of.

        Of an older history than ours, as after a restored backup, everything is news.
        """
        if self.known.is_rewound(kind, version):
            self._log.error("history_rewound", kind=kind.value, version=version)
            self.known.rewind(kind)
            self._rewound.add(kind)
            self._queue.add(Subject(kind, ALL))
            return
        for key, last in self.known.missing(kind, existing, version):
            self._log.info("vanished", kind=kind.value, object=str(key))
            self.forget(kind, key, last)

    async def sweep(self) -> None:
        """Forget objects that exist no more though no watch has told it.

        Then decide everything once more: what a defect has kept back is not lost for ever.
        """
        await watch.sweep(self._cluster, self, Kind)
        self.known.resolver.recall()
        self._advance()

    def doubt(self, namespace: str, migration_uid: str) -> None:
        """Take in that the driver of a migration may say something else now."""
        self.known.resolver.doubt((namespace, migration_uid))
        self._advance()

    def take_application(self, application: Application) -> None:
        """Take in how the newest apply of ``default`` went (default.Listener)."""
        before = self.known.application
        if application == before:
            return
        self.known.take_application(application)
        if application.refusal and DEFAULT_CONFIGURATION not in self.known.configurations:
            # Nothing is there that could have a condition.
            event = KubernetesEvent(ConfigurationReason.REFUSED, application.refusal, warning=True)
            key = ObjectKey("", DEFAULT_CONFIGURATION)
            self._queue.add(Subject(Kind.CONFIGURATION, key, event))
        self._advance()

    def take_paused(self, namespaces: frozenset[str]) -> None:
        """Take in which namespaces hold a person's brake (namespaces.Namespaces)."""
        if namespaces != self.known.paused:
            self.known.take_paused(namespaces)
            self._advance()

    def doubt_all(self) -> None:
        """Take in that the driver has come or gone."""
        self.known.resolver.doubt_all()
        self._advance()

    @property
    def _decides(self) -> bool:
        if not self._runs or not self.synced:
            return False
        return self._standby is not None or self._cluster.may_write()

    def _review(self) -> None:
        """Look at everything; only what differs is written."""
        if not self._decides:
            return
        self.known.recall()
        # What a driver said to a replica that did not lead was not acted upon.
        self.known.resolver.doubt_all()
        self._advance()
        for kind in self._rewound:
            self._queue.add(Subject(kind, ALL))
        index = self.known.resolver.index
        self._queue_endpoints(index.endpoints)
        if self._standby is not None:
            return
        self._queue_shared(index.endpoints, self._clock())
        for key in index.migrations:
            self._queue.add(Subject(Kind.MIGRATION, key))

    def _advance(self) -> None:
        """Resolve what has changed, and queue what is to be written."""
        if not self._decides:
            return
        self._silence()
        resolution = self.known.resolver.resolve(self._clock(), BUDGET)
        self._complain(resolution)
        self._queue_endpoints(resolution.endpoints)
        now = self._clock()
        sharing = self.known.sharing
        changed = sharing.settle(now)
        if self._standby is None:
            self._queue_shared(changed, now)
            self._queue_leaders_own(resolution.migrations)
        loop = asyncio.get_running_loop()
        if resolution.behind:
            self._alarm = loop.call_later(0, self._advance)
        elif wakes := [each for each in (resolution.wake, sharing.wake(now)) if each is not None]:
            delay = (min(wakes) - now).total_seconds()
            self._alarm = loop.call_later(max(delay, 0.01), self._advance)

    def _complain(self, resolution: Resolution) -> None:
        """Tell each new fault once with its traceback; sweeps try again (``sweep``)."""
        failed = {failure.key: failure.error for failure in resolution.failures}
        for key, error in failed.items():
            metrics.DEFECTS.inc()
            if self._faults.get(key) != repr(error):
                self._log.error("cannot_decide", object=str(key), exc_info=error)
            self._faults[key] = repr(error)
        for key in (resolution.endpoints | resolution.migrations) - failed.keys():
            self._faults.pop(key, None)

    def _queue_shared(self, keys: Iterable[ObjectKey], now: dt.datetime) -> None:
        endpoints, sharing = self.known.resolver.index.endpoints, self.known.sharing
        for key in keys:
            if key in endpoints and endpoints[key].shared != sharing.message(key, now):
                self._queue.add(Subject(Kind.ENDPOINT, key))

    def _queue_leaders_own(self, migrations: Iterable[ObjectKey]) -> None:
        for key in migrations:
            self._queue.add(Subject(Kind.MIGRATION, key))
        for name in self.known.take_doubtful():
            self._queue.add(Subject(Kind.CONFIGURATION, ObjectKey("", name)))
        for kind, key in self.known.take_complaints():
            event = kubernetes_events.malformed(self.known.unreadable[kind, key])
            self._queue.add(Subject(kind, key, event, self.known.uid(kind, key) or ""))

    def _queue_endpoints(self, keys: Iterable[ObjectKey]) -> None:
        resolver = self.known.resolver
        for key in keys:
            subject, verdict = Subject(Kind.ENDPOINT, key), resolver.verdict(key)
            if not verdict or verdict.assignment == resolver.index.endpoints[key].assignment:
                self._awaited.discard(subject)
            elif self._standby is None:
                self._queue.add(subject)
            elif verdict.assignment.role is not None and subject not in self._awaited:
                self._awaited.add(subject)
                self._queue.add_later(subject, self._standby.delay)

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def _write(self, subject: Subject) -> None:
        """Bring one object up to date, or raise Temporary."""
        try:
            if subject.key == ALL:
                await self._relist(subject.kind)
            elif subject.event is not None:
                await self._emit(subject, subject.event)
            elif subject.kind is Kind.ENDPOINT:
                await self._write_endpoint(subject)
            elif subject.kind is Kind.MIGRATION:
                await self._write_migration(subject)
            else:
                await self._write_acceptance(subject)
        except (Outdated, NotLeading):
            raise  # neither is a fault of the API server's
        except Temporary:
            metrics.WRITES.labels(subject.kind.value, "failed").inc()
            raise

    async def _relist(self, kind: Kind) -> None:
        """Take in a whole list, whatever its objects' versions."""
        existing: dict[ObjectKey, str] = {}
        version = 0
        async for page, version in self._cluster.objects(kind):  # noqa: B007  the last counts
            for raw in page:
                existing[parse.key(raw)] = version_of(raw).uid
                self.observe(kind, raw)
        self._rewound.discard(kind)
        self.retain(kind, existing, version)

    async def _write_endpoint(self, subject: Subject) -> None:
        self._awaited.discard(subject)
        if self._standby is not None and not await self._has_leader_missed(subject.key):
            return
        endpoint = self.known.resolver.index.endpoints.get(subject.key)
        verdict = self.known.resolver.verdict(subject.key)
        if endpoint is None or verdict is None:
            return
        shared = endpoint.shared
        if self._standby is None:
            shared = self.known.sharing.message(subject.key, self._clock())
        annotations: dict[str, str | None] = {}
        if verdict.assignment != endpoint.assignment:
            annotations |= verdict.assignment.to_annotations()
        if shared != endpoint.shared:
            annotations[names.ADDRESS_SHARED] = shared or None
        if not annotations:
            return
        version = endpoint.resource_version
        metadata = {"resourceVersion": version, "annotations": annotations}
        if not await self._patch(subject, {"metadata": metadata}):
            return
        if shared and not endpoint.shared:
            event = kubernetes_events.shared(shared)
            self._queue.add(Subject(subject.kind, subject.key, event, endpoint.uid))
        if verdict.assignment != endpoint.assignment:
            said = verdict.assignment
            metrics.count_role(endpoint.assignment, verdict)
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

    async def _has_leader_missed(self, key: ObjectKey) -> bool:
        """Say whether a role must be given that the leader has not given, and note that.

        A watch of ours may be late, and then the leader, who knows better, would be contradicted:
        every migration that has a say is read anew first.
        """
        standby = self._standby
        if standby is None or not self._is_given(key):
            return False
        for migration in self._concerned(key):
            try:
                self.observe(Kind.MIGRATION, await self._cluster.get(Kind.MIGRATION, migration))
            except Absent:
                if migration in self.known.resolver.index.migrations:
                    return False
        if not self._is_given(key):
            return False
        standby.note_missed()
        metrics.STOOD_IN.labels(Kind.ENDPOINT.value).inc()
        return True

    def _is_given(self, key: ObjectKey) -> bool:
        """Whether an endpoint lacks a role, or has one of another migration."""
        endpoint, verdict = (
            self.known.resolver.index.endpoints.get(key),
            self.known.resolver.verdict(key),
        )
        if endpoint is None or verdict is None or verdict.assignment.role is None:
            return False
        return verdict.assignment != endpoint.assignment

    def _concerned(self, key: ObjectKey) -> set[ObjectKey]:
        """Return the migrations that claim an endpoint, and the one whose role it carries."""
        index = self.known.resolver.index
        found = set(index.claims(key))
        said = index.endpoints[key].assignment
        if said.role is not None and said.migration is not None:
            found.add(ObjectKey(key.namespace, said.migration))
        return found

    async def _write_migration(self, subject: Subject) -> None:
        migration = self.known.resolver.index.migrations.get(subject.key)
        if migration is None or await self._expire(subject, migration):
            self._coalescer.forget(subject.key)
            return
        now = self._clock()
        before = migration.status
        after = await self._status(migration, now)
        loop = asyncio.get_running_loop()
        left = self._coalescer.seconds_left(subject.key, before, after, loop.time())
        if left > 0:
            self._queue.add_later(subject, left)
            return
        if after != before and await self._patch(
            subject,
            {
                "metadata": {"resourceVersion": migration.metadata.resource_version},
                "status": _replacing(before, after),
            },
            subresource="/status",
        ):
            self._tell(subject, migration, before, after)
        self._coalescer.forget(subject.key)
        known = self.known.resolver.index.migrations.get(subject.key)
        if known is None:
            return
        wake = livemigration.wake(known, self._progress(subject.key), now)
        if wake is not None:
            self._queue.add_later(subject, (wake - now).total_seconds() + 0.01)

    async def _status(self, migration: LiveMigration, now: dt.datetime) -> LiveMigrationStatus:
        """Derive the status; where an agent has been silent for long, ask for its node first."""
        found = self._progress(migration.key)
        status = livemigration.status(migration, found, now)
        silent = livemigration.silent_nodes(migration, found, status)
        absent = [node for node in silent if await self._cluster.has_node(node) is False]
        if not absent:
            return status
        # While we asked, the migration may have gone on.
        found = self._progress(migration.key)
        return livemigration.status(migration, found, now, frozenset(absent))

    def _progress(self, key: ObjectKey) -> Progress:
        return progress.describe(self.known.resolver, key)

    def _tell(
        self,
        subject: Subject,
        migration: LiveMigration,
        before: LiveMigrationStatus,
        after: LiveMigrationStatus,
    ) -> None:
        metrics.count_progress(before, after)
        if after.phase is not before.phase:
            self._log.info(
                "phase",
                migration=str(subject.key),
                uid=migration.migration_uid,
                phase=after.phase and after.phase.value,
            )
        for event in kubernetes_events.describe(before, after):
            self._queue.add(Subject(subject.kind, subject.key, event, migration.metadata.uid))
            self.on_event(migration, event)

    async def _expire(self, subject: Subject, migration: LiveMigration) -> bool:
        """Delete a finished migration whose time has come (spec.ttlSecondsAfterFinished)."""
        expiry = livemigration.expiry(migration)
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
        found = self.known.configurations.get(subject.key.name)
        if found is None:
            return
        default = self.known.configurations.get(DEFAULT_CONFIGURATION)
        before, known = found.status, self.known
        after = configuration.status(found, default, known.application, known.paused, self._clock())
        if after == before:
            return
        patch = {
            "metadata": {"resourceVersion": found.metadata.resource_version},
            "status": after.to_object(),
        }
        if await self._patch(subject, patch, subresource="/status"):
            for each in configuration.news(before, after):
                event = KubernetesEvent(each.reason, each.message, warning=True)
                self._queue.add(Subject(subject.kind, subject.key, event, found.metadata.uid))

    async def _patch(self, subject: Subject, patch: RawObject, *, subresource: str = "") -> bool:
        """Send one patch and take in what the API server made of it.

        Where somebody was faster, the object is read again and its subject tried once more.
        """
        try:
            raw = await self._cluster.patch(
                subject.kind,
                subject.key,
                patch,
                subresource=subresource,
                as_leader=self._standby is None,
            )
        except Conflict as error:
            metrics.WRITES.labels(subject.kind.value, "conflict").inc()
            await self._look_again(subject)
            raise Outdated(str(error)) from error
        except Absent:
            return False
        metrics.WRITES.labels(subject.kind.value, "done").inc()
        self._take_in(subject, raw)
        return True

    async def _look_again(self, subject: Subject) -> None:
        with contextlib.suppress(Absent):
            self._take_in(subject, await self._cluster.get(subject.kind, subject.key))

    def _take_in(self, subject: Subject, raw: RawObject) -> None:
        """Observe an answer, unless a watch has told meanwhile that the object is gone."""
        if self.known.uid(subject.kind, subject.key) == version_of(raw).uid:
            self.observe(subject.kind, raw)

    async def _emit(self, subject: Subject, event: KubernetesEvent) -> None:
        try:
            await self._cluster.emit(subject.kind, subject.key, subject.uid, event, self._clock())
        except (Absent, Conflict, Refused) as error:
            # Its namespace may be going; an Event is not worth a second attempt.
            self._log.warning("event_lost", about=str(subject), reason=str(error))


def _replacing(before: LiveMigrationStatus, after: LiveMigrationStatus) -> RawObject:
    """Compose the merge patch from one status to the other.

    What is no more has to be null: a field that is only left out stays, differs again at the next
    look, and is written for ever.
    """
    written = after.to_object()
    return {**dict.fromkeys(before.to_object().keys() - written.keys()), **written}
