"""Our own objects as the adapter needs them: its own in full, of all others just the names.

An object is the adapter's when its annotation says so and it is owned as the adapter makes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from handover_api import names
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.gather import RawObject
from handover_operator.index import Multimap
from handover_operator.kinds import Foreign, Kind

ADAPTER: Final = "kubevirt"
"""The value of the annotation by which the adapter knows its own."""

_OWNERS: Final = {Kind.ENDPOINT: Foreign.POD, Kind.MIGRATION: Foreign.VMIM}


@dataclass(frozen=True, slots=True)
class SeenEndpoint:
    """A WorkloadEndpoint of the adapter's as the API server has it.

    ``foreign_labels``: those of its labels that others have put there.
    """

    uid: str
    owner_uid: str
    version: str
    mac: str | None = None
    ips: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    foreign_labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SeenMigration:
    """A LiveMigration of the adapter's as the API server has it."""

    uid: str
    owner_uid: str
    version: str
    source: str | None = None
    armed: bool = True
    outcome: Outcome | None = None
    not_followed: str = ""


class Ledger:
    """All of our objects, by kind and key."""

    def __init__(self) -> None:
        self.endpoints: dict[ObjectKey, SeenEndpoint] = {}
        self.migrations: dict[ObjectKey, SeenMigration] = {}
        self.of_owner: Multimap[str, tuple[Kind, ObjectKey]] = Multimap()
        self._strangers: dict[tuple[Kind, ObjectKey], str] = {}

    def stranger(self, kind: Kind, key: ObjectKey) -> str | None:
        """Return the uid of an object that is not the adapter's; None when there is none."""
        return self._strangers.get((kind, key))

    def is_undecided(self, migration: ObjectKey | None) -> bool:
        """Return whether this is a LiveMigration of the adapter's without an outcome."""
        seen = None if migration is None else self.migrations.get(migration)
        return seen is not None and seen.outcome is None

    def put(self, kind: Kind, key: ObjectKey, raw: RawObject) -> None:
        """Take in a version of an object."""
        if kind not in _OWNERS:
            return
        self.drop(kind, key)
        owner_uid = _owner_uid(kind, raw)
        if owner_uid is None:
            self._strangers[kind, key] = raw["metadata"]["uid"]
            return
        self.of_owner.add(owner_uid, (kind, key))
        if kind is Kind.ENDPOINT:
            self.endpoints[key] = _endpoint(raw, owner_uid)
        else:
            self.migrations[key] = _migration(raw, owner_uid)

    def drop(self, kind: Kind, key: ObjectKey) -> None:
        """Forget an object; one that is unknown is fine."""
        self._strangers.pop((kind, key), None)
        seen: SeenEndpoint | SeenMigration | None = None
        if kind is Kind.ENDPOINT:
            seen = self.endpoints.pop(key, None)
        elif kind is Kind.MIGRATION:
            seen = self.migrations.pop(key, None)
        if seen is not None:
            self.of_owner.remove(seen.owner_uid, (kind, key))


def _owner_uid(kind: Kind, raw: RawObject) -> str | None:
    """Return the uid of the foreign object that an object of the adapter's goes with."""
    metadata = raw["metadata"]
    if metadata.get("annotations", {}).get(names.ADAPTER) != ADAPTER:
        return None
    for owner in metadata.get("ownerReferences", []):
        if owner["kind"] == _OWNERS[kind] and owner.get("controller"):
            uid: str = owner["uid"]
            return uid
    return None


def _endpoint(raw: RawObject, owner_uid: str) -> SeenEndpoint:
    metadata, spec = raw["metadata"], raw["spec"]
    return SeenEndpoint(
        uid=metadata["uid"],
        owner_uid=owner_uid,
        version=metadata["resourceVersion"],
        mac=(spec.get("mac") or "").lower() or None,
        ips=tuple(spec["ips"]),
        labels=metadata.get("labels", {}),
        foreign_labels=frozenset(_foreign_labels(metadata)),
    )


def _foreign_labels(metadata: RawObject) -> Iterator[str]:
    """Return the labels that are not ours, by the API server's account of who wrote what."""
    ours: set[str] = set()
    for entry in metadata.get("managedFields", []):
        if entry.get("manager") == names.OPERATOR_FIELD_MANAGER:
            fields = entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:labels", {})
            ours |= fields.keys()
    return (key for key in metadata.get("labels", {}) if f"f:{key}" not in ours)


def _migration(raw: RawObject, owner_uid: str) -> SeenMigration:
    metadata, spec = raw["metadata"], raw["spec"]
    source: dict[str, Any] = spec.get("source", {}).get("workload", {})
    outcome = spec.get("outcome")
    return SeenMigration(
        uid=metadata["uid"],
        owner_uid=owner_uid,
        version=metadata["resourceVersion"],
        source=source.get("name"),
        armed=spec.get("armed", True),
        outcome=None if outcome is None else Outcome(outcome),
        not_followed=metadata.get("annotations", {}).get(names.NOT_FOLLOWED, ""),
    )
