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
from typing import Final, Protocol

import structlog

from handover_api.conditions import ConfigurationReason
from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import DEFAULT_CONFIGURATION, ObjectKey
from handover_operator.cache import Cache, News
from handover_operator.kinds import Kind
from handover_operator.kube import watch
from handover_operator.kube.client import Cluster
from handover_operator.kube.versions import Version, version_of
from handover_operator.kube.watch import Watch
from handover_operator.kube.write_loop import WriteLoop
from handover_operator.kube.writer import Writer
from handover_operator.observability import metrics
from handover_operator.reconcile import due
from handover_operator.reconcile.configurations import Configurations
from handover_operator.reconcile.due import Due
from handover_operator.reconcile.endpoints import Endpoints
from handover_operator.reconcile.migrations import Migrations
from handover_operator.reconcile.request import ALL, Request, Result, is_urgent
from handover_operator.roles import parse
from handover_operator.roles.outcome import Undecided
from handover_operator.roles.parse import RawObject, Unreadable
from handover_operator.roles.resolver import Resolution
from handover_operator.status.configuration import Application
from handover_operator.status.kubernetes_events import KubernetesEvent

BUDGET: Final = 2_000
"""Claims that are looked at in one turn of the loop: some 10 ms, whoever made how many of them."""


def _name(raw: RawObject) -> str:
    metadata = raw.get("metadata") or {}
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"


class Listener(Protocol):
    """Is shown every version of every object of ours, unless it is older than one shown before."""

    def put(self, kind: Kind, key: ObjectKey, raw: RawObject) -> None:
        """Take in a version."""

    def put_unreadable(self, kind: Kind, key: ObjectKey, uid: str) -> None:
        """Take in that there is a version that breaks the contract."""

    def drop(self, kind: Kind, key: ObjectKey) -> None:
        """Take in that an object is gone."""


class MigrationDriver(Listener, Protocol):
    """Who makes LiveMigrations, and knows how they end (the KubeVirt adapter)."""

    def outcome(self, uid: str) -> Outcome | Undecided | None:
        """Say how a migration ended, as far as that is known (outcome.Driver)."""

    def find_out(self, uids: Iterable[str]) -> None:
        """Take in that roles wait for how these migrations ended."""

    def tell(self, migration: LiveMigration, event: KubernetesEvent) -> None:
        """Take in an Event of a LiveMigration."""


class Controller(WriteLoop[Request]):
    """Keeps what is known, and writes what follows from it while ``run`` runs.

    A replica that does not lead decides, too, but writes only roles that are given: a guest on its
    way waits for those. How a migration ended, statuses and Events are the leader's.

    ``synced``: all kinds were listed.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], dt.datetime]) -> None:
        super().__init__(cluster, is_urgent)
        self.cache = Cache(self._outcome)
        self.synced = False
        self._clock = clock
        self._listeners: list[Listener] = []
        self._driver: MigrationDriver | None = None
        self._writer = Writer(cluster, self.cache.uid, self.observe)
        self._endpoints = Endpoints(self.cache, self._writer, clock)
        self._migrations = Migrations(self.cache, cluster, self._writer, clock)
        self._configurations = Configurations(self.cache, self._writer, clock)
        self._rewound: set[Kind] = set()
        self._faults: dict[ObjectKey, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        """Count the objects that wait to be written."""
        return super().__len__() + len(self._migrations.coalescer)

    def add_listener(self, listener: Listener) -> None:
        """Show *listener* all objects from now on; what came before is not shown to it later."""
        self._listeners.append(listener)

    def follow(self, driver: MigrationDriver) -> None:
        """Let *driver* say how its migrations ended, and show it all objects and their Events."""
        self._driver = driver
        self.add_listener(driver)

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
            self._take(kind, raw)
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
            for listener in self._listeners:
                listener.drop(kind, key)
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
        return self.synced and super()._may_act

    def _outcome(self, uid: str) -> Outcome | Undecided | None:
        return None if self._driver is None else self._driver.outcome(uid)

    def _take(self, kind: Kind, raw: RawObject) -> None:
        key, version = parse.key(raw), version_of(raw)
        news = self.cache.note(kind, key, version)
        if news is News.OLD:
            return
        if news is News.ANOTHER_OBJECT:
            self.cache.drop(kind, key)
            for listener in self._listeners:
                listener.drop(kind, key)
        unreadable = self.cache.put(kind, key, raw)
        # Last: a listener looks at what is known, and this version is among it by now.
        if unreadable is None:
            for listener in self._listeners:
                listener.put(kind, key, raw)
        else:
            self._report_unreadable(kind, unreadable)
            for listener in self._listeners:
                listener.put_unreadable(kind, key, version.uid)

    def _report_unreadable(self, kind: Kind, found: Unreadable) -> None:
        metrics.UNREADABLE.labels(kind.value).inc()
        self._log.error(
            "malformed_object",
            kind=kind.value,
            object=str(found.key),
            field=found.field,
            problem=found.message,
        )

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
        self._queue_relations(index.endpoints, self._clock())
        for key in index.migrations:
            self._queue.add(Request(Kind.MIGRATION, key))

    def _advance(self) -> None:
        """Resolve what has changed, and queue what is to be written."""
        if not self._may_act:
            return
        self._cancel_timer()
        resolution = self.cache.resolver.resolve(self._clock(), BUDGET)
        if self._driver is not None:
            self._driver.find_out(resolution.asked)
        self._report_failures(resolution)
        self._queue_endpoints(resolution.endpoints)
        now = self._clock()
        sharing = self.cache.sharing
        changed = sharing.settle(now) | self.cache.peers.settle()
        if self._standby is None:
            # With those that were judged: nothing is written on one whose verdict is not known yet.
            self._queue_relations(changed | resolution.endpoints, now)
            for request in due.of_the_leader(self.cache, resolution.migrations):
                self._queue.add(request)
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

    def _queue_relations(self, keys: Iterable[ObjectKey], now: dt.datetime) -> None:
        for request in due.relations(self.cache, keys, now):
            self._queue.add(request)

    def _queue_endpoints(self, keys: Iterable[ObjectKey]) -> None:
        for key in keys:
            request, what = Request(Kind.ENDPOINT, key), due.role(self.cache.resolver, key)
            # The leader has written it, or nobody gives it any more.
            if what is Due.NOTHING:
                self._awaited.discard(request)
            elif self._standby is None:
                self._queue.add(request)
            # No guest waits for a role to be taken away.
            elif what is Due.GIVE:
                self._await(request, self._standby)

    def _clear(self) -> None:
        super()._clear()
        self._migrations.coalescer.clear()
        self._cancel_timer()

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
            if result.migration is not None and self._driver is not None:
                self._driver.tell(result.migration, event)
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
