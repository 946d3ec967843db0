"""API objects → values of model.py; one that breaks the contract → a value that names its field."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from handover_api import model, names
from handover_api.assignment import Assignment
from handover_api.conditions import EndpointCondition
from handover_api.configuration import HandoverConfiguration
from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import WorkloadEndpoint
from handover_operator.roles import labels
from handover_operator.roles.model import Endpoint

RawObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object that does not keep to the contract, and the first field that does not.

    ``migration_uid`` is what a LiveMigration would have stood for: its roles must not end because
    of a typing error.
    """

    key: ObjectKey
    field: str
    message: str
    migration_uid: str = ""


def endpoint(raw: RawObject) -> Endpoint | Unreadable:
    """Read a WorkloadEndpoint."""
    try:
        found = WorkloadEndpoint.model_validate(raw)
    except pydantic.ValidationError as error:
        return _unreadable(raw, error)
    status, annotations = found.status, found.metadata.annotations
    conditions = {condition.type: condition for condition in status.conditions}
    listening = conditions.get(EndpointCondition.LISTENING)
    return Endpoint(
        key=found.key,
        uid=found.metadata.uid,
        node=found.spec.node,
        workload=found.spec.workload,
        labels=labels.share(found.metadata.labels),
        ips=found.spec.ips,
        assignment=Assignment.from_annotations(annotations),
        state=status.state,
        acted_uid=status.migration_uid,
        acted_role=status.role,
        # An agent that cannot listen says why in this condition; there is no field for it.
        listening=listening is not None and listening.status == "True",
        routed=bool(status.routes),
        cutover=status.last_cutover,
        shared=annotations.get(names.ADDRESS_SHARED, ""),
        agent=status.agent,
        peers=annotations.get(names.PEER, ""),
        peer_live=annotations.get(names.PEER_LIVE, ""),
        redirect=status.redirect,
        redirectable=conditions.get(EndpointCondition.REDIRECTABLE),
        resource_version=found.metadata.resource_version,
    )


def migration(raw: RawObject) -> LiveMigration | Unreadable:
    """Read a LiveMigration."""
    try:
        return LiveMigration.model_validate(raw)
    except pydantic.ValidationError as error:
        return _unreadable(raw, error)


def configuration(raw: RawObject) -> HandoverConfiguration | Unreadable:
    """Read a HandoverConfiguration; its spec is checked elsewhere."""
    try:
        return HandoverConfiguration.model_validate(raw)
    except pydantic.ValidationError as error:
        return _unreadable(raw, error)


def key(raw: RawObject) -> ObjectKey:
    """Return namespace and name; the namespace of a cluster-scoped object is empty."""
    metadata = raw["metadata"]
    # Kinds have objects of the same name, and all of a namespace name that.
    return ObjectKey(sys.intern(metadata.get("namespace", "")), sys.intern(metadata["name"]))


def _unreadable(raw: RawObject, error: pydantic.ValidationError) -> Unreadable:
    # One is enough to mend the object, and a hostile one may have thousands.
    first = error.errors(include_url=False)[0]
    spec = raw.get("spec")
    # Nothing of an object that breaks the contract is certain, not even that its spec is a mapping.
    named = spec.get("id") if isinstance(spec, dict) else None
    return Unreadable(
        key=key(raw),
        field=model.field_path(first["loc"]),
        message=first["msg"],
        migration_uid=named if isinstance(named, str) else raw["metadata"].get("uid", ""),
    )
