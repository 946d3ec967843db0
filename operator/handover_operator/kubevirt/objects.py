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
from handover_operator.kubevirt.gather import MIGRATION_UID
from handover_operator.kubevirt.ledger import ADAPTER, Ledger, SeenEndpoint, SeenMigration
from handover_operator.kubevirt.wishes import Owner, WantedEndpoint, WantedMigration

TTL: Final = 3600
"""Seconds for which a LiveMigration can be looked at after it has finished."""


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
            return "outcome" not in spec and not spec.keys().isdisjoint({"source", "armed"})
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
    if wanted is not None and wanted.owner.uid == seen.owner_uid:
        return _patch(seen.version, _labels(wanted, seen), _spec(wanted, seen))
    return Delete(seen.uid) if is_judged else None


def migration(
    wanted: WantedMigration | None, seen: SeenMigration | None, fate: Outcome | None
) -> Write | None:
    """Compare one LiveMigration; *fate*: how its VMIM ended, where that is not wanted any more."""
    if seen is None:
        if wanted is None or not wanted.is_makeable:
            return None
        return Create(_new_migration(wanted))
    is_wanted = wanted is not None and wanted.owner.uid == seen.owner_uid
    outcome = wanted.outcome if is_wanted and wanted is not None else fate
    spec: dict[str, Any] = {}
    annotations: dict[str, Any] = {}
    if seen.outcome is None and outcome is not None:
        spec["outcome"] = outcome.value
    if is_wanted and wanted is not None and wanted.outcome is None:
        if wanted.source is not None and wanted.source != seen.source:
            spec["source"] = {"workload": {"name": wanted.source}}
        if wanted.armed is not seen.armed:
            spec["armed"] = wanted.armed
        if wanted.not_followed != seen.not_followed:
            annotations[names.NOT_FOLLOWED] = wanted.not_followed or None
    return _patch(seen.version, {"annotations": annotations} if annotations else {}, spec)


def _patch(version: str, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Patch | None:
    if not metadata and not spec:
        return None
    body: dict[str, Any] = {"metadata": {"resourceVersion": version, **metadata}}
    return Patch(body | {"spec": spec} if spec else body)


def _labels(wanted: WantedEndpoint, seen: SeenEndpoint) -> Mapping[str, Any]:
    """Follow the pod's labels, also in losing some; what others have put there stays."""
    changed: dict[str, str | None] = {
        key: value for key, value in wanted.labels.items() if seen.labels.get(key) != value
    }
    changed |= dict.fromkeys(seen.labels.keys() - seen.foreign_labels - wanted.labels.keys(), None)
    return {"labels": changed} if changed else {}


def _spec(wanted: WantedEndpoint, seen: SeenEndpoint) -> Mapping[str, Any]:
    spec: dict[str, Any] = {}
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


def _new_migration(wanted: WantedMigration) -> Mapping[str, Any]:
    source = {} if wanted.source is None else {"source": {"workload": {"name": wanted.source}}}
    note = {names.NOT_FOLLOWED: wanted.not_followed} if wanted.not_followed else {}
    spec = {
        "id": wanted.owner.uid,
        "target": {"selector": {"matchLabels": {MIGRATION_UID: wanted.owner.uid}}},
        "armed": wanted.armed,
        "ttlSecondsAfterFinished": TTL,
        **source,
    }
    return _object(Kind.MIGRATION, wanted.key, wanted.owner, {"annotations": note}, spec)


def _object(
    kind: Kind,
    key: ObjectKey,
    owner: Owner,
    metadata: Mapping[str, Any],
    spec: Mapping[str, Any],
) -> Mapping[str, Any]:
    reference = {
        "apiVersion": owner.kind.api_version,
        "kind": owner.kind.value,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }
    return {
        "apiVersion": kind.api_version,
        "kind": kind.value,
        "metadata": {
            **metadata,
            "name": key.name,
            "namespace": key.namespace,
            "annotations": {**metadata["annotations"], names.ADAPTER: ADAPTER},
            "ownerReferences": [reference],
        },
        "spec": spec,
    }
