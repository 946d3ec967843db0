"""The adapter's loop: observe, resolve, write.

What is desired adapter.py decides, and diff.py which write is missing; here it is decided when, and
whether this replica may write at all (``_may_act``).

As in controller.py of our own kinds, every write is level-triggered, and made only while ``run``
runs (kube/write_loop.py). Our own objects come to it from that controller, and every answer to a
write goes back there first: there is one place that knows them. What KubeVirt or a person made is
never written.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping

import structlog

from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_operator.controller import Controller
from handover_operator.kinds import Foreign, Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Unavailable
from handover_operator.kube.standby import Standby
from handover_operator.kube.versions import Version, Versions, version_of
from handover_operator.kube.watch import Watch
from handover_operator.kube.write_loop import WriteLoop
from handover_operator.kube.writer import Writer
from handover_operator.kubevirt import diff, emissions, parse
from handover_operator.kubevirt.adapter import Adapter, Change
from handover_operator.kubevirt.desired import Desired, Lookup, NotFollowed, Owner
from handover_operator.kubevirt.diff import Diff
from handover_operator.kubevirt.emissions import Emission, Emitted
from handover_operator.kubevirt.lookups import Lookups
from handover_operator.kubevirt.owned import Owned
from handover_operator.kubevirt.queue_items import Item, Made, Relist, Subject, is_urgent
from handover_operator.roles import parse as own_parse
from handover_operator.roles.outcome import Undecided
from handover_operator.roles.parse import RawObject
from handover_operator.status.kubernetes_events import KubernetesEvent


class KubeVirtController(WriteLoop[Item]):
    """Keeps what is known of KubeVirt's world, and writes what follows from it.

    No endpoint is made before *is_configured*. *ttl*: seconds for which a LiveMigration can be
    looked at after it has finished.

    It is idle until ``start``, and after ``stop``: then nothing is made, changed or deleted.
    """

    def __init__(
        self,
        cluster: Cluster,
        controller: Controller,
        clock: Callable[[], dt.datetime],
        ttl: int = 3600,
        is_configured: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(cluster, is_urgent)
        self._diff = Diff(ttl, self.outcome)
        self.observed = self._diff.observed
        self.is_active = False
        self._controller = controller
        self._clock = clock
        self._versions = {kind: Versions() for kind in Foreign}
        self._rewound: set[Foreign] = set()
        self._emitted = Emitted()
        self._writer = Writer(cluster, controller.cache.uid, controller.observe)
        self._lookups = Lookups(cluster, self._diff, self._versions, self)
        self._owned = Owned(self._diff, self._lookups, self._writer, is_configured)
        self._log = structlog.get_logger()

    @property
    def adapter(self) -> Adapter:
        """What is known of KubeVirt's world, and desired for it."""
        return self._diff.adapter

    def start(self) -> None:
        """All three kinds were listed: from now on what is absent is really absent."""
        self.adapter.put_complete()
        # Before any role is judged: as a driver we say nothing of VMIMs while we are idle.
        self.is_active = True
        # What was so before this process began was said by the one before it.
        for change in self.adapter.resolve().values():
            for each in change.after.not_followed:
                self._emitted.note(each.uid, each)
        self._controller.doubt_all()
        self._review()

    def stop(self) -> None:
        """KubeVirt is gone, and so is all that was known of it; what we made stays."""
        self.is_active = False
        self._diff.clear()
        # A KubeVirt that comes back is listed from the start. What has ended stays ended, though
        # (Versions.clear): an answer that is still under way must not bring it back.
        self._rewound.clear()
        for versions in self._versions.values():
            versions.clear()
        self._emitted.clear()
        self._controller.doubt_all()

    def observe(self, kind: Foreign, raw: RawObject) -> None:
        """Take in one version of an object; an older one than the last is ignored."""
        key, version = own_parse.key(raw), version_of(raw)
        if not self._versions[kind].take(key, version):
            return
        found = parse.read(kind, raw)
        if found is None:
            self.adapter.drop(kind, key)
        else:
            self.adapter.put(kind, found)
        self._advance()

    def end(self, kind: Foreign, raw: RawObject) -> None:
        """Take in the last version of an object as any other, then forget it (watch.Sink)."""
        # A VMIM's last version may be the only one that shows its final phase.
        self.observe(kind, raw)
        self.forget(kind, own_parse.key(raw), version_of(raw))

    def forget(self, kind: Foreign, key: ObjectKey, last: Version) -> None:
        """Take in that the object of this key and of *last*'s uid is gone.

        Another one that has its name by now stays known.
        """
        if self._versions[kind].bury(key, last):
            self._emitted.forget(last.uid)
            self._diff.drop_foreign(kind, key, last.uid)
            self._advance()

    def retain(self, kind: Foreign, existing: Mapping[ObjectKey, str], version: int) -> None:
        """Take in a complete list: of what we know only *existing*, and what is newer, is kept.

        Of an older history than the list before it, as after a restored backup, all is news.
        """
        if self._versions[kind].is_rewound(version):
            self._log.error("history_rewound", kind=kind.value, version=version)
            self._versions[kind].rewind()
            self._rewound.add(kind)
            self._queue.add(Relist(kind))
            return
        for key, last in self._versions[kind].missing(existing, version):
            self._log.info("vanished", kind=kind.value, object=str(key))
            self.forget(kind, key, last)

    def miss(self, kind: Foreign, reason: Exception) -> None:
        """Do nothing (watch.Sink): Discovery, which runs the watches, logs what fails."""

    def put(self, kind: Kind, key: ObjectKey, raw: RawObject) -> None:
        """Take in a version of an object of ours (controller.Listener)."""
        self.observed.put(kind, key, raw)
        self._queue_due(kind, (key,))
        # An endpoint may wait until its LiveMigration knows how it ended (DesiredEndpoint.after).
        if kind is Kind.MIGRATION:
            self._queue_due(Kind.ENDPOINT, self.adapter.siblings(key))

    def put_unreadable(self, kind: Kind, key: ObjectKey, uid: str) -> None:
        """Take in that nobody can read an object of ours (controller.Listener)."""
        self.observed.put_unreadable(kind, key, uid)
        self._queue_due(kind, (key,))

    def drop(self, kind: Kind, key: ObjectKey) -> None:
        """Take in that an object of ours is gone (controller.Listener)."""
        self._emitted.forget(self.observed.blocking_uid(kind, key) or "")
        self._diff.drop(kind, key)
        self._queue_due(kind, (key,))

    def outcome(self, uid: str) -> Outcome | Undecided | None:
        """Say how a VMIM ended, as far as that is known (controller.MigrationDriver)."""
        return self.adapter.outcome(uid) if self.is_active else None

    def find_out(self, uids: Iterable[str]) -> None:
        """Queue what must be read to know how these VMIMs ended (controller.MigrationDriver)."""
        # How a migration ended is the leader's to say, and so are the questions that it takes.
        if not self._leads:
            return
        for uid in uids:
            lookup = self.adapter.outcome_lookup(uid)
            if lookup is not None:
                self._queue.add(lookup)

    def tell(self, migration: LiveMigration, event: KubernetesEvent) -> None:
        """Say it of the VMI, too (controller.MigrationDriver)."""
        vmi = self.adapter.vmi_of(migration.migration_uid)
        emission = emissions.of_migration(vmi, migration, event)
        if emission is not None and self._leads:
            self._queue.add(emission)

    @property
    def _may_act(self) -> bool:
        return self.is_active and super()._may_act

    @property
    def _leads(self) -> bool:
        return self._may_act and self._standby is None

    def _review(self) -> None:
        """Look at everything, as when a term begins; only what differs is written."""
        if not self._may_act:
            return
        self._advance()
        for kind in self._rewound:
            self._queue.add(Relist(kind))
        for desired in self.adapter.desired().values():
            self._queue_desired(desired)
        self._queue_due(Kind.ENDPOINT, list(self.observed.endpoints))
        self._queue_due(Kind.MIGRATION, list(self.observed.migrations))

    def _advance(self) -> None:
        """Resolve what has changed, and queue what is to be written."""
        # Also where we may not write: the roles that the controller decides rest on it, and whoever
        # begins to lead knows all.
        if not self.is_active:
            return
        for change in self.adapter.resolve().values():
            self._tell_controller(change)
            self._tell_of_interfaces(change.after.not_followed)
            # What is not desired any more may have to go.
            self._queue_desired(change.before)
            self._queue_desired(change.after)

    def _tell_controller(self, change: Change) -> None:
        """Let the roles of VMIMs be judged again that may have ended."""
        owners: set[tuple[str, Owner]] = set()
        for desired in (change.before, change.after):
            owners |= {(key.namespace, each.owner) for key, each in desired.migrations.items()}
        for namespace, owner in owners:
            self._controller.doubt(namespace, owner.uid)

    def _queue_desired(self, desired: Desired) -> None:
        """Queue what differs from *desired*, and what must be asked for."""
        self._queue_due(Kind.ENDPOINT, desired.endpoints)
        self._queue_due(Kind.MIGRATION, desired.migrations)
        for uid in desired.complete_pods:
            for kind, key in tuple(self.observed.of_owner[uid]):
                self._queue_due(kind, (key,))
        if self._may_act:
            for lookup in desired.lookups:
                self._queue.add(lookup)

    def _tell_of_interfaces(self, found: Iterable[NotFollowed]) -> None:
        for each in found:
            # Noted also by who does not lead, or each new leader would say all of it again.
            if self._emitted.note(each.uid, each) and self._leads:
                self._queue.add(emissions.of_interface(each))

    def _queue_due(self, kind: Kind, keys: Iterable[ObjectKey]) -> None:
        """Queue those objects on which a write is due."""
        if not self._may_act or kind is Kind.CONFIGURATION:
            return
        for key in keys:
            if self._standby is not None:
                self._queue_awaited(Subject(kind, key), self._standby)
            # Nothing is written over what is somebody else's, so that nothing is due.
            elif self._diff.is_blocked(kind, key):
                self._report_clash(kind, key)
            else:
                self.find_out(self._diff.vmims(kind, key))
                if self._diff.due(kind, key) or self._diff.is_of_unknown_owner(kind, key):
                    self._queue.add(Subject(kind, key))

    def _queue_awaited(self, subject: Subject, standby: Standby) -> None:
        """Wait for the leader's write as long as it is missing, and an agent waits for it."""
        write = self._diff.due(subject.kind, subject.key)
        if write is None or not diff.is_urgent(write):
            self._awaited.discard(subject)
        else:
            self._await(subject, standby)

    def _report_clash(self, kind: Kind, key: ObjectKey) -> None:
        """Say it once, to whoever looks at either of the two."""
        found = emissions.of_clash(self._diff, kind, key)
        if not found:
            return
        ours, owner = found
        if self._emitted.note(ours.uid, owner.uid):
            self._log.warning("name_clash", kind=kind.value, object=str(key), owner=str(owner.key))
            self._queue.add(ours)
            self._queue.add(owner)

    async def _work(self, item: Item) -> None:
        """Do one thing, or raise Temporary."""
        # The queue outlives KubeVirt: what was added before it went is not to be done any more.
        if not self._may_act:
            return
        match item:
            case Subject():
                self._awaited.discard(item)
                self.find_out(self._diff.vmims(item.kind, item.key))
                made = await self._owned.reconcile(item, self._standby)
                # Its owner is looked at in a turn of its own, after all that an agent may wait for.
                if made is not None:
                    self._queue.add(made)
            case Lookup():
                await self._look_up(item)
            case Emission(kind, key, uid, event):
                await self._writer.emit(kind, key, uid, event, self._clock())
            case Relist(kind):
                await self._relist(kind)
            case Made():
                await self._check(item)

    async def _relist(self, kind: Foreign) -> None:
        """Take in a whole list, whatever its objects' versions."""
        self._rewound.discard(kind)
        try:
            await Watch(self._cluster, kind, self).list()
        except BaseException as error:
            # Also when cancelled: whoever runs next looks again (``_review``).
            self._rewound.add(kind)
            # The queue takes an Absent for a defect of ours, but KubeVirt is just going.
            if isinstance(error, Absent):
                raise Unavailable(str(error)) from error
            raise

    async def _look_up(self, lookup: Lookup) -> None:
        await self._lookups.look_up(lookup)
        self._advance()
        if lookup.outcome_of:
            for kind, key in tuple(self.observed.of_owner[lookup.outcome_of]):
                self._queue_due(kind, (key,))
        if lookup.outcome_of or lookup.kind is Foreign.VMIM:
            self._controller.doubt(lookup.key.namespace, lookup.outcome_of or lookup.uid)

    async def _check(self, made: Made) -> None:
        """Take back what was made while its owner went."""
        # KubeVirt may have gone while we asked, and then what we made stays.
        if await self._lookups.is_gone(made.owner, made.key.namespace) and self.is_active:
            await self._owned.take_back(made, self._standby)
