"""What the API server is asked before something is decided for KubeVirt: absence is never guessed.

A watch may be late, and a list shows nothing of what went before it. Every answer is taken in as
an event of a watch would be.
"""

from collections.abc import Mapping
from typing import Protocol

from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent
from handover_operator.kube.versions import Version, Versions
from handover_operator.kubevirt.desired import Lookup, Owner
from handover_operator.kubevirt.diff import Diff
from handover_operator.kubevirt.queue_items import Subject
from handover_operator.roles.parse import RawObject


class Observer(Protocol):
    """Who takes the answers in (the controller)."""

    def observe(self, kind: Foreign, raw: RawObject) -> None:
        """Take in one version of an object."""

    def forget(self, kind: Foreign, key: ObjectKey, last: Version) -> None:
        """Take in that this very object is gone."""


class Lookups:
    """Reads KubeVirt's objects one by one; every call may raise Temporary."""

    def __init__(
        self,
        cluster: Cluster,
        diff: Diff,
        versions: Mapping[Foreign, Versions],
        observer: Observer,
    ) -> None:
        self._cluster = cluster
        self._diff = diff
        self._versions = versions
        self._observer = observer

    async def refresh(self, kind: Foreign, key: ObjectKey) -> None:
        """Take in what an object is now, or that it is gone."""
        # Noted before the request: what is made anew under this name meanwhile is not gone.
        last = self._versions[kind].newest(key)
        try:
            raw = await self._cluster.get(kind, key)
        except Absent:
            if last is not None:
                self._observer.forget(kind, key, last)
        else:
            self._observer.observe(kind, raw)

    async def look_up(self, lookup: Lookup) -> None:
        """Read an object that no watch has shown, so that it, or its absence, is known."""
        if lookup.outcome_of:
            # How a VMIM ended that went without a final phase shows in where the guest is now.
            await self.refresh(lookup.kind, lookup.key)
            self._diff.adapter.judge(lookup.vmi, lookup.outcome_of)
            return
        try:
            raw = await self._cluster.get(lookup.kind, lookup.key)
        except Absent:
            self._diff.adapter.put_absent(lookup.vmi, lookup.uid)
            return
        self._observer.observe(lookup.kind, raw)
        desired = self._diff.adapter.desired().get(lookup.vmi)
        # It is another one of that name, so that the one that was meant is absent.
        if desired is not None and lookup in desired.lookups:
            self._diff.adapter.put_absent(lookup.vmi, lookup.uid)

    async def look_up_owner(self, subject: Subject) -> None:
        """Find out whether the owner of an object of ours exists that no watch has shown."""
        key = subject.key
        if subject.kind is Kind.ENDPOINT:
            orphan = self._diff.observed.endpoints[key]
            # Without an owner reference no uid is known: any pod of that name keeps it.
            try:
                await self._cluster.get(Foreign.POD, ObjectKey(key.namespace, orphan.workload))
            except Absent:
                self._diff.put_ownerless(orphan.uid)
            return
        uid = self._diff.observed.migrations[key].owner_uid
        try:
            raw = await self._cluster.get(Foreign.VMIM, key)
        except Absent:
            self._diff.put_ownerless(uid)
            return
        self._observer.observe(Foreign.VMIM, raw)
        if raw["metadata"]["uid"] != uid:
            self._diff.put_ownerless(uid)

    async def is_gone(self, owner: Owner, namespace: str) -> bool:
        """Return whether this very object is not there any more; read by its metadata alone."""
        key = ObjectKey(namespace, owner.name)
        # Nearly always it is there, and a launcher pod in full has some 25 kB.
        if await self._cluster.uid(owner.kind, key) == owner.uid:
            return False
        await self.refresh(owner.kind, key)
        return self._versions[owner.kind].uid(key) != owner.uid
