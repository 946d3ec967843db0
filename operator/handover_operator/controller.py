"""The loop of the operator: observe, resolve, write.

What is written, roles/ and status/ decide, which are pure; here it is decided when, and whether
this replica may write at all (``_may_act``).

Every write is level-triggered: a worker asks for the verdict at the moment of writing, sends one
merge patch with the resourceVersion that it is based on, and takes the answer in as an event, so
that the next verdict is based on it even before the watch tells it.
"""

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from handover_api.conditions import ConfigurationReason
from handover_api.livemigration import LiveMigration
from handover_api.names import DEFAULT_CONFIGURATION, ObjectKey
from handover_operator.cache import Cache
from handover_operator.kinds import Kind
from handover_operator.kube import watch
from handover_operator.kube.client import Cluster
from handover_operator.kube.standby import Standby
from handover_operator.kube.versions import Version, version_of
from handover_operator.kube.watch import Watch
from handover_operator.kube.workqueue import WorkQueue
from handover_operator.kube.writer import Writer
from handover_operator.observability import metrics
from handover_operator.reconcile.configurations import Configurations
from handover_operator.reconcile.endpoints import Endpoints
from handover_operator.reconcile.migrations import Migrations
from handover_operator.reconcile.request import ALL, Request, Result, is_urgent
from handover_operator.roles import parse
from handover_operator.roles.parse import RawObject
from handover_operator.roles.resolver import Resolution
from handover_operator.status import kubernetes_events
from handover_operator.status.configuration import Application
from handover_operator.status.kubernetes_events import KubernetesEvent

BUDGET: Final = 2_000
"""Claims that are looked at in one turn of the loop: some 10 ms, whoever made how many of them."""


def _name(raw: RawObject) -> str:
    metadata = raw.get("metadata") or {}
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"


class Controller:
    """Keeps what is known, and writes what follows from it while ``run`` runs.

    A replica that does not lead decides, too, but writes only roles that are given, and only
    where the leader has not (standby.py): a guest on its way waits for those. How a migration
    ended, statuses and Events are the leader's.

    ``synced``: all kinds were listed. ``on_event`` is called with each Event of a LiveMigration.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], dt.datetime]) -> None:
        self.cache = Cache()
        self.synced = False
        self.on_event: Callable[[LiveMigration, KubernetesEvent], None] = lambda *_: None
        self._cluster = cluster
        self._clock = clock
        self._queue: WorkQueue[Request] = WorkQueue(self._work, is_urgent)
        self._writer = Writer(cluster, self.cache.uid, self.observe)
        self._endpoints = Endpoints(self.cache, self._writer, clock)
        self._migrations = Migrations(self.cache, cluster, self._writer, clock)
        self._configurations = Configurations(self.cache, self._writer, clock)
        self._runs = False
        self._standby: Standby | None = None
        self._awaited: set[Request] = set()
        self._rewound: set[Kind] = set()
        self._faults: dict[ObjectKey, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        """Count the objects that wait to be written."""
        return len(self._queue) + len(self._migrations.coalescer)

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
            # Whoever runs next finds anew what is not as it should be (``_review``).
            self._runs = False
            self._queue.clear()
            self._awaited.clear()
            self._migrations.coalescer.clear()
            self._cancel_timer()

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
            self.cache.observe(kind, raw)
        except Exception:  # noqa: BLE001  one object's fault stays its own
            metrics.DEFECTS.inc()
            self._log.exception("cannot_take_in", kind=kind.value, object=_name(raw))
        self._advance()

    def end(self, kind: Kind, raw: RawObject) -> None:
        """Do as ``forget`` does, by the last version as a watch tells it (watch.Sink)."""
        self.forget(kind, parse.key(raw), version_of(raw))

    def miss(self, kind: Kind, reason: Exception) -> None:
        """Do nothing (watch.Sink): our kinds are watched by Kopf, which logs by itself what fails.

        Lists and sweeps of ours raise what they meet.
        """

    def forget(self, kind: Kind, key: ObjectKey, last: Version) -> None:
        """Take in that the object of this key and of *last*'s uid is gone.

        Another one that has its name by now stays known.
        """
        if self.cache.forget(kind, key, last):
            # Its name may be given to another object, whose faults are news.
            self._faults.pop(key, None)
            self._advance()

    def retain(self, kind: Kind, existing: Mapping[ObjectKey, str], version: int) -> None:
        """Take in a complete list: of what we know only *existing*, and what is newer, is kept.

        A list that is older than the one before it tells of a history that was put back, as by a
        restored backup: then our versions mean nothing, and all objects are listed anew as news.
        """
        if self.cache.is_rewound(kind, version):
            self._log.error("history_rewound", kind=kind.value, version=version)
            self.cache.rewind(kind)
            self._rewound.add(kind)
            self._queue.add(Request(kind, ALL))
            return
        for key, last in self.cache.missing(kind, existing, version):
            self._log.info("vanished", kind=kind.value, object=str(key))
            self.forget(kind, key, last)

    async def sweep(self) -> None:
        """List the identities of all our objects, to forget those whose end no watch has told.

        Then decide everything once more: what a defect has kept back is not lost for ever.
        """
        await watch.sweep(self._cluster, self, Kind)
        self.cache.resolver.mark_all()
        self._advance()

    def doubt(self, namespace: str, migration_uid: str) -> None:
        """Judge anew the roles that a migration left on endpoints when its LiveMigration went.

        Its driver, which knows how it ended (outcome.Driver), may say something else by now.
        """
        self.cache.resolver.mark_ended((namespace, migration_uid))
        self._advance()

    def take_application(self, application: Application) -> None:
        """Take in how the newest apply of ``default`` went (default_configuration.Listener)."""
        before = self.cache.application
        if application == before:
            return
        self.cache.take_application(application)
        if application.refusal and DEFAULT_CONFIGURATION not in self.cache.configurations:
            # Nothing is there that could have a condition.
            event = KubernetesEvent(ConfigurationReason.REFUSED, application.refusal, warning=True)
            key = ObjectKey("", DEFAULT_CONFIGURATION)
            self._queue.add(Request(Kind.CONFIGURATION, key, event))
        self._advance()

    def take_paused(self, namespaces: frozenset[str]) -> None:
        """Take in which namespaces hold a person's brake (namespaces.Namespaces)."""
        if namespaces != self.cache.paused:
            self.cache.take_paused(namespaces)
            self._advance()

    def doubt_all(self) -> None:
        """Judge all roles anew: the driver itself has come or gone, and knows others or none."""
        self.cache.resolver.mark_all_roles()
        self._advance()

    @property
    def _may_act(self) -> bool:
        # Before all kinds are listed, what is absent may just not be known.
        if not self._runs or not self.synced:
            return False
        # ``run`` is cancelled a moment after the Lease was lost; in that moment nothing is queued.
        return self._standby is not None or self._cluster.may_write()

    def _review(self) -> None:
        """Look at everything, as when a term begins; only what differs is written."""
        if not self._may_act:
            return
        self.cache.recall()
        # What a driver said to a replica that did not lead was not acted upon.
        self.cache.resolver.mark_all_roles()
        self._advance()
        for kind in self._rewound:
            self._queue.add(Request(kind, ALL))
        index = self.cache.resolver.index
        self._queue_endpoints(index.endpoints)
        if self._standby is not None:
            return
        self._queue_shared(index.endpoints, self._clock())
        for key in index.migrations:
            self._queue.add(Request(Kind.MIGRATION, key))

    def _advance(self) -> None:
        """Resolve what has changed, and queue what is to be written."""
        if not self._may_act:
            return
        self._cancel_timer()
        resolution = self.cache.resolver.resolve(self._clock(), BUDGET)
        self._report_failures(resolution)
        self._queue_endpoints(resolution.endpoints)
        now = self._clock()
        sharing = self.cache.sharing
        changed = sharing.settle(now)
        if self._standby is None:
            self._queue_shared(changed, now)
            self._queue_leaders_own(resolution.migrations)
        loop = asyncio.get_running_loop()
        if resolution.behind:
            # Watches and writes have their turns between; what is decided so far is queued.
            self._timer = loop.call_later(0, self._advance)
        elif wakes := [each for each in (resolution.wake, sharing.wake(now)) if each is not None]:
            delay = (min(wakes) - now).total_seconds()
            # The loop's clock and ours differ: a timer that rings early must not ring for ever.
            self._timer = loop.call_later(max(delay, 0.01), self._advance)

    def _report_failures(self, resolution: Resolution) -> None:
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
        endpoints, sharing = self.cache.resolver.index.endpoints, self.cache.sharing
        for key in keys:
            if key in endpoints and endpoints[key].shared != sharing.message(key, now):
                self._queue.add(Request(Kind.ENDPOINT, key))

    def _queue_leaders_own(self, migrations: Iterable[ObjectKey]) -> None:
        for key in migrations:
            self._queue.add(Request(Kind.MIGRATION, key))
        for name in self.cache.take_doubtful():
            self._queue.add(Request(Kind.CONFIGURATION, ObjectKey("", name)))
        for kind, key in self.cache.take_unreported():
            event = kubernetes_events.malformed(self.cache.unreadable[kind, key])
            self._queue.add(Request(kind, key, event, self.cache.uid(kind, key) or ""))

    def _queue_endpoints(self, keys: Iterable[ObjectKey]) -> None:
        resolver = self.cache.resolver
        for key in keys:
            request, verdict = Request(Kind.ENDPOINT, key), resolver.verdict(key)
            # The leader has written it, or nobody gives it any more.
            if not verdict or verdict.assignment == resolver.index.endpoints[key].assignment:
                self._awaited.discard(request)
            elif self._standby is None:
                self._queue.add(request)
            # No guest waits for a role to be taken away. And once is enough: each new appointment
            # replaces the former, and events that keep coming would put it off for ever.
            elif verdict.assignment.role is not None and request not in self._awaited:
                self._awaited.add(request)
                self._queue.add_later(request, self._standby.delay)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _work(self, request: Request) -> None:
        """Bring one object up to date, or record one event; or raise Temporary."""
        kind, key = request.kind, request.key
        if key == ALL:
            await self._relist(kind)
        elif request.event is not None:
            await self._writer.emit(kind, key, request.uid, request.event, self._clock())
        else:
            self._awaited.discard(request)
            self._follow_up(request, await self._reconcile(kind, key))

    async def _reconcile(self, kind: Kind, key: ObjectKey) -> Result:
        match kind:
            case Kind.ENDPOINT:
                return await self._endpoints.reconcile(key, self._standby)
            case Kind.MIGRATION:
                return await self._migrations.reconcile(key)
            case Kind.CONFIGURATION:
                return await self._configurations.reconcile(key)

    def _follow_up(self, request: Request, result: Result) -> None:
        # A request of its own for each: it gives way to roles, and where it fails it is tried again
        # without the write that it tells of.
        for event in result.events:
            self._queue.add(Request(request.kind, request.key, event, result.uid))
            if result.migration is not None:
                self.on_event(result.migration, event)
        if result.requeue_after is not None:
            self._queue.add_later(request, result.requeue_after)

    async def _relist(self, kind: Kind) -> None:
        """Take in a whole list, whatever its objects' versions."""
        self._rewound.discard(kind)
        try:
            await Watch(self._cluster, kind, self).list()
        except BaseException:
            # Also when cancelled: whoever runs next looks again (``_review``).
            self._rewound.add(kind)
            raise
