"""Our own objects as the adapter needs them: its own in full, of all others just the names.

An object is the adapter's when its annotation says so. For whom it was made its owner says, and
where somebody has taken that away (``kubectl delete --cascade=orphan``) what the adapter wrote
into its spec; whether that owner wants it is for others to compare.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from handover_api import names
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.roles import labels
from handover_operator.roles.multimap import Multimap
from handover_operator.roles.parse import RawObject

ADAPTER: Final = "kubevirt"
"""The value of the annotation by which the adapter knows its own."""

Side = Mapping[str, Any]
"""The source or the target of a LiveMigration as its spec has it."""

_OWNERS: Final = {Kind.ENDPOINT: Foreign.POD, Kind.MIGRATION: Foreign.VMIM}


@dataclass(frozen=True, slots=True)
class ObservedEndpoint:
    """A WorkloadEndpoint of the adapter's as the API server has it.

    ``owner_uid`` is empty where it has no owner any more. ``foreign_labels``: those of its labels
    that others have put there.
    """

    uid: str
    owner_uid: str
    version: str
    workload: str = ""
    mac: str | None = None
    ips: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    foreign_labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ObservedMigration:
    """A LiveMigration of the adapter's as the API server has it.

    ``spec_id``: the uid of a VMIM, unless somebody else wrote it.
    """

    uid: str
    owner_uid: str
    version: str
    spec_id: str = ""
    source: Side = field(default_factory=dict)
    target: Side = field(default_factory=dict)
    armed: bool = True
    ttl: int | None = None
    outcome: Outcome | None = None
    not_followed: str = ""
    has_owner: bool = True


class Observed:
    """All of our objects, by kind and key."""

    def __init__(self) -> None:
        self.endpoints: dict[ObjectKey, ObservedEndpoint] = {}
        self.migrations: dict[ObjectKey, ObservedMigration] = {}
        self.of_owner: Multimap[str, tuple[Kind, ObjectKey]] = Multimap()
        self._others: dict[tuple[Kind, ObjectKey], str] = {}
        self._unreadable: dict[tuple[Kind, ObjectKey], str] = {}

    def uid_of_other(self, kind: Kind, key: ObjectKey) -> str | None:
        """Return the uid of an object that is not the adapter's; None when there is none."""
        return self._others.get((kind, key))

    def is_unreadable(self, kind: Kind, key: ObjectKey) -> bool:
        """Return whether nobody can read an object; of an earlier version it may be known."""
        return (kind, key) in self._unreadable

    def blocking_uid(self, kind: Kind, key: ObjectKey) -> str | None:
        """Return the uid of what is left alone, because it is not known to be the adapter's."""
        if key in (self.endpoints if kind is Kind.ENDPOINT else self.migrations):
            return None
        return self.uid_of_other(kind, key) or self._unreadable.get((kind, key))

    def is_undecided(self, migration: ObjectKey | None) -> bool:
        """Return whether this is a LiveMigration of the adapter's without an outcome."""
        observed = None if migration is None else self.migrations.get(migration)
        return observed is not None and observed.outcome is None

    def put(self, kind: Kind, key: ObjectKey, raw: RawObject) -> None:
        """Take in a version of an object."""
        if kind not in _OWNERS:
            return
        self.drop(kind, key)
        owner_uid = _owner_uid(kind, raw)
        # Its uid is enough: an Event tells of the clash of names.
        if owner_uid is None:
            self._others[kind, key] = raw["metadata"]["uid"]
            return
        self.of_owner.add(owner_uid, (kind, key))
        if kind is Kind.ENDPOINT:
            self.endpoints[key] = _endpoint(raw, owner_uid)
        else:
            self.migrations[key] = _migration(raw, owner_uid)

    def put_unreadable(self, kind: Kind, key: ObjectKey, uid: str) -> None:
        """Take in a version that nobody can read; what is known of earlier ones stays so."""
        if kind in _OWNERS:
            self._unreadable[kind, key] = uid

    def drop(self, kind: Kind, key: ObjectKey) -> None:
        """Forget an object; one that is unknown is fine."""
        self._others.pop((kind, key), None)
        self._unreadable.pop((kind, key), None)
        observed: ObservedEndpoint | ObservedMigration | None = None
        if kind is Kind.ENDPOINT:
            observed = self.endpoints.pop(key, None)
        elif kind is Kind.MIGRATION:
            observed = self.migrations.pop(key, None)
        if observed is not None:
            self.of_owner.remove(observed.owner_uid, (kind, key))


def _owner_uid(kind: Kind, raw: RawObject) -> str | None:
    """Return the uid of the foreign object for which an object of the adapter's was made.

    Empty: nobody knows. None: it is not the adapter's.
    """
    if raw["metadata"].get("annotations", {}).get(names.ADAPTER) != ADAPTER:
        return None
    said: str = raw["spec"].get("id") or "" if kind is Kind.MIGRATION else ""
    # spec.id outlives the owner reference, which `kubectl delete --cascade=orphan` takes away.
    return _controller(kind, raw) or said


def _controller(kind: Kind, raw: RawObject) -> str:
    """Return the uid of the owner, of the kind that the adapter gives; empty without one."""
    wanted = (_OWNERS[kind].api_version, _OWNERS[kind].value)
    for owner in raw["metadata"].get("ownerReferences", []):
        # Anybody may add further owners; only a controller of this kind is the adapter's word.
        if (owner["apiVersion"], owner["kind"]) == wanted and owner.get("controller"):
            uid: str = owner["uid"]
            return uid
    return ""


def _endpoint(raw: RawObject, owner_uid: str) -> ObservedEndpoint:
    metadata, spec = raw["metadata"], raw["spec"]
    return ObservedEndpoint(
        uid=metadata["uid"],
        owner_uid=owner_uid,
        version=metadata["resourceVersion"],
        workload=spec["workload"],
        # The schema takes either case; parse.py reads KubeVirt's as lower case.
        mac=(spec.get("mac") or "").lower() or None,
        ips=tuple(spec["ips"]),
        labels=labels.share(metadata.get("labels", {})),
        foreign_labels=frozenset(_foreign_labels(metadata)),
    )


def _foreign_labels(metadata: RawObject) -> Iterator[str]:
    """Return the labels that are not ours, by the API server's account of who wrote what."""
    ours: set[str] = set()
    for entry in metadata.get("managedFields", []):
        # What a pod has lost is taken away, what a person has added stays. Only managedFields tells
        # the two apart: the API server keeps it for merge patches, too.
        if entry.get("manager") == names.OPERATOR_FIELD_MANAGER:
            # fieldsV1 spells each label f:<key>.
            fields = entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:labels", {})
            ours |= fields.keys()
    return (key for key in metadata.get("labels", {}) if f"f:{key}" not in ours)


def _migration(raw: RawObject, owner_uid: str) -> ObservedMigration:
    metadata, spec = raw["metadata"], raw["spec"]
    outcome = spec.get("outcome")
    return ObservedMigration(
        uid=metadata["uid"],
        owner_uid=owner_uid,
        version=metadata["resourceVersion"],
        spec_id=spec.get("id") or "",
        source=spec.get("source") or {},
        target=spec.get("target") or {},
        armed=spec.get("armed", True),
        ttl=spec.get("ttlSecondsAfterFinished"),
        outcome=None if outcome is None else Outcome(outcome),
        not_followed=metadata.get("annotations", {}).get(names.NOT_FOLLOWED, ""),
        has_owner=bool(_controller(Kind.MIGRATION, raw)),
    )
