"""API objects → facts. An object that breaks the contract becomes a value that names its field."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from handover_api.assignment import Assignment
from handover_api.conditions import EndpointCondition
from handover_api.configuration import HandoverConfiguration
from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import WorkloadEndpoint
from handover_operator.facts import Endpoint

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
        model = WorkloadEndpoint.model_validate(raw)
    except pydantic.ValidationError as error:
        return _unreadable(raw, error)
    status = model.status
    return Endpoint(
        key=model.key,
        uid=model.metadata.uid,
        node=model.spec.node,
        workload=model.spec.workload,
        labels=model.metadata.labels,
        assignment=Assignment.from_annotations(model.metadata.annotations),
        state=status.state,
        acted_uid=status.migration_uid,
        listening=any(
            condition.type == EndpointCondition.LISTENING and condition.status == "True"
            for condition in status.conditions
        ),
        routed=bool(status.routes),
        cutover=status.last_cutover,
        resource_version=model.metadata.resource_version,
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
    return ObjectKey(metadata.get("namespace", ""), metadata["name"])


def field_path(location: Iterable[int | str]) -> str:
    """Write where an error is; pydantic's names for the members of a union say nothing."""
    return ".".join(str(part) for part in location if isinstance(part, int) or "[" not in part)


def _unreadable(raw: RawObject, error: pydantic.ValidationError) -> Unreadable:
    first = error.errors(include_url=False)[0]
    spec = raw.get("spec")
    named = spec.get("id") if isinstance(spec, dict) else None
    return Unreadable(
        key=key(raw),
        field=field_path(first["loc"]),
        message=first["msg"],
        migration_uid=named if isinstance(named, str) else raw["metadata"].get("uid", ""),
    )
