"""From what is desired and what is observed to the one write that is missing. Pure.

Objects of the same name that are not the adapter's are left alone, whatever is desired.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from handover_api import names
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.kubevirt import manifests, vmim_outcome
from handover_operator.kubevirt.adapter import Adapter
from handover_operator.kubevirt.desired import DesiredEndpoint, DesiredMigration, Owner
from handover_operator.kubevirt.observed import Observed, ObservedEndpoint, ObservedMigration
from handover_operator.roles.outcome import Driver

_URGENT: Final = frozenset({"source", "target", "armed"})
"""Fields of a LiveMigration from which roles follow."""


@dataclass(frozen=True, slots=True)
class Create:
    """An object that is missing."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Patch:
    """What is not as it should be; empty when all is."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """The very object that must go."""

    uid: str


Write = Create | Patch | Delete


def is_urgent(write: Write) -> bool:
    """Whether a guest on its way may be waiting for it: it tells of a role, not of an end."""
    match write:
        case Create(body):
            is_migration = body["kind"] == Kind.MIGRATION
            return is_migration or names.ROLE in body["metadata"]["annotations"]
        case Patch(body):
            spec = body.get("spec", {})
            return "outcome" not in spec and not spec.keys().isdisjoint(_URGENT)
        case _:
            return False


def _endpoint(
    desired: DesiredEndpoint | None, observed: Observed, key: ObjectKey, *, is_complete: bool
) -> Write | None:
    """Compare one endpoint; *is_complete*: its pod may have no endpoint that is not desired."""
    found = observed.endpoints.get(key)
    if found is None:
        # Made now, it would get a role from a migration whose end is not written so far.
        if desired is None or not desired.is_makeable or observed.is_undecided(desired.after):
            return None
        return Create(manifests.endpoint(desired))
    if desired is not None and found.owner_uid in {desired.owner.uid, ""}:
        owner = {} if found.owner_uid else {"ownerReferences": [manifests.reference(desired.owner)]}
        return _patch(found.version, _labels(desired, found) | owner, _spec(desired, found))
    # While a VMI, or its interfaces, are unknown, an endpoint that nobody wants is left alone.
    return Delete(found.uid) if is_complete else None


def _migration(
    desired: DesiredMigration | None,
    found: ObservedMigration | None,
    ended: Outcome | None,
    ttl: int,
) -> Write | None:
    """Compare one LiveMigration.

    *ended*: how the VMIM ended for which it was made, where that is not desired any more. *ttl*:
    seconds for which it can be looked at after it has finished.
    """
    if desired is not None and desired.is_makeable:
        if found is None:
            return Create(manifests.migration(desired, ttl))
        if not _is_made_for(desired, found):
            return Delete(found.uid)
    if found is None or found.outcome is not None:
        return None
    # Here the end of a VMIM is told. It is the last write: a LiveMigration that is decided takes no
    # other role from its spec, and what is not as it was made is no trouble any more.
    if desired is None or not _is_made_for(desired, found):
        return _patch(found.version, {}, {"outcome": ended.value} if ended is not None else {})
    if desired.outcome is not None:
        return _patch(found.version, {}, {"outcome": desired.outcome.value})
    return _patch(
        found.version, _corrected_metadata(desired, found), _corrected(desired, found, ttl)
    )


def _is_made_for(desired: DesiredMigration, found: ObservedMigration) -> bool:
    """Whether it is that of this very VMIM, and names no other migration by its id.

    Neither can be mended: the id is immutable, and an earlier VMIM of that name had another uid.
    """
    return found.owner_uid == found.spec_id == desired.owner.uid


def _corrected_metadata(desired: DesiredMigration, found: ObservedMigration) -> Mapping[str, Any]:
    metadata: dict[str, Any] = {}
    if desired.not_followed != found.not_followed:
        metadata["annotations"] = {names.NOT_FOLLOWED: desired.not_followed or None}
    if not found.has_owner:
        metadata["ownerReferences"] = [manifests.reference(desired.owner)]
    return metadata


def _corrected(desired: DesiredMigration, found: ObservedMigration, ttl: int) -> Mapping[str, Any]:
    """Return the fields of the spec that are not as they were made, as a merge patch.

    Whoever may edit a LiveMigration could else let its target be any endpoint of the namespace.
    """
    spec: dict[str, Any] = {}
    source, target = manifests.source(desired), manifests.target(desired)
    if source and found.source != source:
        # The schema allows one of the two: in a merge patch the other must be null.
        spec["source"] = {"endpoint": None, **source}
    if found.target != target:
        spec["target"] = _replaced(found.target, target)
    if desired.armed is not found.armed:
        spec["armed"] = desired.armed
    if found.ttl != ttl:
        spec["ttlSecondsAfterFinished"] = ttl
    return spec


def _replaced(before: Mapping[str, Any], after: Mapping[str, Any]) -> Mapping[str, Any]:
    """Compose the merge patch that leaves nothing of *before* but what *after* says."""
    patch: dict[str, Any] = dict.fromkeys(before.keys() - after.keys(), None)
    for key, value in after.items():
        found = before.get(key)
        both = isinstance(value, Mapping) and isinstance(found, Mapping)
        patch[key] = _replaced(found, value) if both and found is not None else value
    return patch


def _patch(version: str, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Patch | None:
    if not metadata and not spec:
        return None
    body: dict[str, Any] = {"metadata": {"resourceVersion": version, **metadata}}
    return Patch(body | {"spec": spec} if spec else body)


def _labels(desired: DesiredEndpoint, found: ObservedEndpoint) -> dict[str, Any]:
    """Follow the pod's labels, also in losing some; what others have put there stays."""
    changed: dict[str, str | None] = {
        key: value for key, value in desired.labels.items() if found.labels.get(key) != value
    }
    changed |= dict.fromkeys(
        found.labels.keys() - found.foreign_labels - desired.labels.keys(), None
    )
    return {"labels": changed} if changed else {}


def _spec(desired: DesiredEndpoint, found: ObservedEndpoint) -> Mapping[str, Any]:
    spec: dict[str, Any] = {}
    if found.workload != desired.owner.name:
        spec["workload"] = desired.owner.name
    # Without a macAddress in the VMI's spec KubeVirt reports one late: what was known stays.
    if desired.mac is not None and desired.mac != found.mac:
        spec["mac"] = desired.mac
    if desired.ips and not desired.are_assumed:
        # As addresses: fd00::1 and fd00:0::1 are one, and their order says nothing.
        written = {ip_address(ip) for ip in found.ips}
        if written != {ip_address(ip) for ip in desired.ips}:
            spec["ips"] = list(desired.ips)
    return spec


@dataclass(slots=True)
class Diff:
    """What KubeVirt's objects ask for, beside our own objects as they are.

    *ttl*: seconds for which a LiveMigration can be looked at after it has finished. ``driver``
    says how a VMIM ended, as far as that is known. ``ownerless``: uids of VMIMs that are not there,
    and of endpoints whose pods are not. ``bereft``: uids of owners one of whose objects has gone.
    """

    ttl: int
    driver: Driver
    adapter: Adapter = field(default_factory=Adapter)
    observed: Observed = field(default_factory=Observed)
    ownerless: set[str] = field(default_factory=set)
    bereft: set[str] = field(default_factory=set)

    def drop(self, kind: Kind, key: ObjectKey) -> None:
        """Take in that an object of ours is gone."""
        if kind is Kind.MIGRATION and key in self.observed.migrations:
            self.ownerless.discard(self.observed.migrations[key].owner_uid)
        elif kind is Kind.ENDPOINT and key in self.observed.endpoints:
            self.ownerless.discard(self.observed.endpoints[key].uid)
        owner = self.owner(kind, key)
        # It is still desired, so the owner is not known to be gone; but the garbage collector may
        # have taken this one because of that. Before it is made anew the owner is looked at.
        if owner is not None:
            self.bereft.add(owner.uid)
        self.observed.drop(kind, key)

    def drop_foreign(self, kind: Foreign, key: ObjectKey, uid: str) -> None:
        """Take in that an object of KubeVirt's world is gone."""
        self.bereft.discard(uid)
        self.adapter.drop(kind, key)

    def put_ownerless(self, uid: str) -> None:
        """Take in that a VMIM, or the pod of an endpoint, is not there (``ownerless``)."""
        self.ownerless.add(uid)

    def clear(self) -> None:
        """Forget KubeVirt's world; our own objects stay known."""
        self.adapter = Adapter()
        self.ownerless.clear()
        self.bereft.clear()

    def due(self, kind: Kind, key: ObjectKey) -> Write | None:
        """Return the write that is missing now."""
        # Somebody else's: neither changed nor deleted, even where ours is missing for it.
        if self.observed.uid_of_other(kind, key) is not None:
            return None
        write = self._missing(kind, key)
        # Nobody knows what a patch of it would make of it, and there is no making it anew.
        if self.observed.is_unreadable(kind, key) and not isinstance(write, Delete):
            return None
        return write

    def _missing(self, kind: Kind, key: ObjectKey) -> Write | None:
        if kind is Kind.ENDPOINT:
            found = self.observed.endpoints.get(key)
            is_complete = found is not None and self.adapter.is_complete(found.owner_uid)
            desired = self.adapter.endpoint(key)
            # Its pod is gone, and no owner reference took it along.
            if found is not None and found.uid in self.ownerless:
                return Delete(found.uid)
            return _endpoint(desired, self.observed, key, is_complete=is_complete)
        observed = self.observed.migrations.get(key)
        ended = None if observed is None else self._ended(observed.owner_uid)
        return _migration(self.adapter.migration(key), observed, ended, self.ttl)

    def _ended(self, uid: str) -> Outcome | None:
        """Return how a VMIM ended that is not there any more."""
        return vmim_outcome.of_unseen(self.driver(uid), is_absent=uid in self.ownerless)

    def vmims(self, kind: Kind, key: ObjectKey) -> Iterator[str]:
        """Return the uid of the VMIM of whose end a LiveMigration is to tell."""
        found = self.observed.migrations.get(key) if kind is Kind.MIGRATION else None
        if found is not None:
            yield found.owner_uid

    def is_of_unknown_owner(self, kind: Kind, key: ObjectKey) -> bool:
        """Whether one of the adapter's own belongs to something that was never seen."""
        if kind is Kind.ENDPOINT:
            orphan = self.observed.endpoints.get(key)
            is_desired = self.adapter.endpoint(key) is not None
            return orphan is not None and not orphan.owner_uid and not is_desired
        found = self.observed.migrations.get(key)
        if found is None or found.outcome is not None:
            return False
        return (
            self.adapter.outcome(found.owner_uid) is None and found.owner_uid not in self.ownerless
        )

    def is_blocked(self, kind: Kind, key: ObjectKey) -> bool:
        """Whether what is desired cannot be made: its name is another's, or nobody can read it."""
        if self.observed.blocking_uid(kind, key) is None:
            return False
        if kind is Kind.ENDPOINT:
            endpoint = self.adapter.endpoint(key)
            return endpoint is not None and endpoint.is_makeable
        migration = self.adapter.migration(key)
        return migration is not None and migration.is_makeable

    def owner(self, kind: Kind, key: ObjectKey) -> Owner | None:
        """Return the foreign object with which this one is to go; None where none is desired."""
        of = self.adapter.endpoint if kind is Kind.ENDPOINT else self.adapter.migration
        desired = of(key)
        return None if desired is None else desired.owner

    def grounds(
        self, kind: Kind, key: ObjectKey, *, with_role: bool
    ) -> Iterator[tuple[Foreign, ObjectKey]]:
        """Return the foreign objects on account of which something is desired."""
        endpoint = self.adapter.endpoint(key) if kind is Kind.ENDPOINT else None
        owner = self.owner(kind, key)
        if owner is not None:
            yield owner.kind, ObjectKey(key.namespace, owner.name)
        said = None if endpoint is None else endpoint.assignment
        if with_role and said is not None and said.migration is not None:
            yield Foreign.VMIM, ObjectKey(key.namespace, said.migration)
