"""Our objects as the adapter makes them: the bodies of what it creates."""

from collections.abc import Mapping
from typing import Any

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kubevirt.desired import DesiredEndpoint, DesiredMigration, Owner
from handover_operator.kubevirt.observed import ADAPTER
from handover_operator.kubevirt.parse import MIGRATION_UID


def endpoint(desired: DesiredEndpoint) -> Mapping[str, Any]:
    """Compose a WorkloadEndpoint, with the role that it has from the first moment."""
    said = desired.assignment.to_annotations() if desired.assignment is not None else {}
    annotations = {key: value for key, value in said.items() if value is not None}
    mac = {} if desired.mac is None else {"mac": desired.mac}
    return _object(
        Kind.ENDPOINT,
        desired.key,
        desired.owner,
        # All labels of the pod: selectors of LiveMigrations, others' too, are held against them.
        {"labels": dict(desired.labels), "annotations": annotations},
        {"node": desired.node, "workload": desired.owner.name, "ips": list(desired.ips), **mac},
    )


def migration(desired: DesiredMigration, ttl: int) -> Mapping[str, Any]:
    """Compose a LiveMigration; *ttl*: seconds that it stays after it has finished."""
    moves_from = source(desired)
    # Said at once: a person can still cancel, or knows why the addresses do not follow.
    note = {names.NOT_FOLLOWED: desired.not_followed} if desired.not_followed else {}
    spec = {
        "id": desired.owner.uid,
        "target": target(desired),
        "armed": desired.armed,
        "ttlSecondsAfterFinished": ttl,
        **({"source": moves_from} if moves_from else {}),
    }
    return _object(Kind.MIGRATION, desired.key, desired.owner, {"annotations": note}, spec)


def source(desired: DesiredMigration) -> Mapping[str, Any]:
    """Compose the source of a LiveMigration; empty while nobody knows it."""
    return {} if desired.source is None else {"workload": {"name": desired.source}}


def target(desired: DesiredMigration) -> Mapping[str, Any]:
    """Compose the target of a LiveMigration: the pods that its VMIM made, by KubeVirt's label."""
    # By label, not by name: the target pod may not be there when the LiveMigration is made.
    return {"selector": {"matchLabels": {MIGRATION_UID: desired.owner.uid}}}


def reference(owner: Owner) -> Mapping[str, Any]:
    """Compose the owner reference with which one of ours goes when its owner goes."""
    return {
        "apiVersion": owner.kind.api_version,
        "kind": owner.kind.value,
        "name": owner.name,
        "uid": owner.uid,
        # By this the operator knows that somebody drives the migration and will say how it ends.
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
            "ownerReferences": [reference(owner)],
        },
        "spec": spec,
    }
