"""From wishes and what is there to the one write that is missing. Pure.

Objects of the same name that are not the adapter's are left alone, whatever is wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from handover_api import names
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kubevirt.desired import Owner, WantedEndpoint, WantedMigration
from handover_operator.kubevirt.observed import ADAPTER, Ledger, SeenEndpoint, SeenMigration
from handover_operator.kubevirt.parse import MIGRATION_UID

_AWAITED: Final = frozenset({"source", "target", "armed"})
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


def is_awaited(write: Write) -> bool:
    """Whether a guest on its way may be waiting for it: it tells of a role, not of an end."""
    match write:
        case Create(body):
            is_migration = body["kind"] == Kind.MIGRATION
            return is_migration or names.ROLE in body["metadata"]["annotations"]
        case Patch(body):
            spec = body.get("spec", {})
            return "outcome" not in spec and not spec.keys().isdisjoint(_AWAITED)
        case _:
            return False


def endpoint(
    wanted: WantedEndpoint | None, ledger: Ledger, key: ObjectKey, *, is_judged: bool
) -> Write | None:
    """Compare one endpoint; *is_judged*: its pod may have no endpoint that is not wanted."""
    seen = ledger.endpoints.get(key)
    if seen is None:
        if wanted is None or not wanted.is_makeable or ledger.is_undecided(wanted.after):
            return None
        return Create(_new_endpoint(wanted))
    if wanted is not None and seen.owner_uid in {wanted.owner.uid, ""}:
        owner = {} if seen.owner_uid else {"ownerReferences": [_reference(wanted.owner)]}
        return _patch(seen.version, _labels(wanted, seen) | owner, _spec(wanted, seen))
    return Delete(seen.uid) if is_judged else None


def migration(
    wanted: WantedMigration | None, seen: SeenMigration | None, fate: Outcome | None, ttl: int
) -> Write | None:
    """Compare one LiveMigration.

    *fate*: how the VMIM ended for which it was made, where that is not wanted any more. *ttl*:
    seconds for which it can be looked at after it has finished.
    """
    if wanted is not None and wanted.is_makeable:
        if seen is None:
            return Create(_new_migration(wanted, ttl))
        if not _is_made_for(wanted, seen):
            return Delete(seen.uid)
    if seen is None or seen.outcome is not None:
        return None
    if wanted is None or not _is_made_for(wanted, seen):
        return _patch(seen.version, {}, {"outcome": fate.value} if fate is not None else {})
    if wanted.outcome is not None:
        return _patch(seen.version, {}, {"outcome": wanted.outcome.value})
    return _patch(seen.version, _corrected_metadata(wanted, seen), _corrected(wanted, seen, ttl))


def _is_made_for(wanted: WantedMigration, seen: SeenMigration) -> bool:
    """Whether it is that of this very VMIM, and names no other migration by its id.

    Neither can be mended: the id is immutable, and an earlier VMIM of that name had another uid.
    """
    return seen.owner_uid == seen.course == wanted.owner.uid


def _corrected_metadata(wanted: WantedMigration, seen: SeenMigration) -> Mapping[str, Any]:
    metadata: dict[str, Any] = {}
    if wanted.not_followed != seen.not_followed:
        metadata["annotations"] = {names.NOT_FOLLOWED: wanted.not_followed or None}
    if not seen.has_owner:
        metadata["ownerReferences"] = [_reference(wanted.owner)]
    return metadata


def _corrected(wanted: WantedMigration, seen: SeenMigration, ttl: int) -> Mapping[str, Any]:
    """Return the fields of the spec that are not as they were made, as a merge patch.

    Whoever may edit a LiveMigration could else let its target be any endpoint of the namespace.
    """
    spec: dict[str, Any] = {}
    source, target = _source(wanted), _target(wanted)
    if source and seen.source != source:
        spec["source"] = {"endpoint": None, **source}
    if seen.target != target:
        spec["target"] = _replaced(seen.target, target)
    if wanted.armed is not seen.armed:
        spec["armed"] = wanted.armed
    if seen.ttl != ttl:
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


def _source(wanted: WantedMigration) -> Mapping[str, Any]:
    return {} if wanted.source is None else {"workload": {"name": wanted.source}}


def _target(wanted: WantedMigration) -> Mapping[str, Any]:
    return {"selector": {"matchLabels": {MIGRATION_UID: wanted.owner.uid}}}


def _patch(version: str, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Patch | None:
    if not metadata and not spec:
        return None
    body: dict[str, Any] = {"metadata": {"resourceVersion": version, **metadata}}
    return Patch(body | {"spec": spec} if spec else body)


def _labels(wanted: WantedEndpoint, seen: SeenEndpoint) -> dict[str, Any]:
    """Follow the pod's labels, also in losing some; what others have put there stays."""
    changed: dict[str, str | None] = {
        key: value for key, value in wanted.labels.items() if seen.labels.get(key) != value
    }
    changed |= dict.fromkeys(seen.labels.keys() - seen.foreign_labels - wanted.labels.keys(), None)
    return {"labels": changed} if changed else {}


def _spec(wanted: WantedEndpoint, seen: SeenEndpoint) -> Mapping[str, Any]:
    spec: dict[str, Any] = {}
    if seen.workload != wanted.owner.name:
        spec["workload"] = wanted.owner.name
    if wanted.mac is not None and wanted.mac != seen.mac:
        spec["mac"] = wanted.mac
    if wanted.ips and not wanted.are_assumed:
        written = {ip_address(ip) for ip in seen.ips}
        if written != {ip_address(ip) for ip in wanted.ips}:
            spec["ips"] = list(wanted.ips)
    return spec


def _new_endpoint(wanted: WantedEndpoint) -> Mapping[str, Any]:
    said = wanted.assignment.to_annotations() if wanted.assignment is not None else {}
    annotations = {key: value for key, value in said.items() if value is not None}
    mac = {} if wanted.mac is None else {"mac": wanted.mac}
    return _object(
        Kind.ENDPOINT,
        wanted.key,
        wanted.owner,
        {"labels": dict(wanted.labels), "annotations": annotations},
        {"node": wanted.node, "workload": wanted.owner.name, "ips": list(wanted.ips), **mac},
    )


def _new_migration(wanted: WantedMigration, ttl: int) -> Mapping[str, Any]:
    source = _source(wanted)
    note = {names.NOT_FOLLOWED: wanted.not_followed} if wanted.not_followed else {}
    spec = {
        "id": wanted.owner.uid,
        "target": _target(wanted),
        "armed": wanted.armed,
        "ttlSecondsAfterFinished": ttl,
        **({"source": source} if source else {}),
    }
    return _object(Kind.MIGRATION, wanted.key, wanted.owner, {"annotations": note}, spec)


def _reference(owner: Owner) -> Mapping[str, Any]:
    return {
        "apiVersion": owner.kind.api_version,
        "kind": owner.kind.value,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }


def _object(
    kind: Kind,
    key: ObjectKey,
    owner: Owner,
    metadata: Mapping[str, Any],
    spec: Mapping[str, Any],
) -> Mapping[str, Any]:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.value,
        "metadata": {
            **metadata,
            "name": key.name,
            "namespace": key.namespace,
            "annotations": {**metadata["annotations"], names.ADAPTER: ADAPTER},
            "ownerReferences": [_reference(owner)],
        },
        "spec": spec,
    }
