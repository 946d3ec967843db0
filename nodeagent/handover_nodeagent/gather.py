"""API objects → values. One that breaks the contract becomes a value that names its field."""

from collections.abc import Mapping
from dataclasses import dataclass

import pydantic

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import WorkloadEndpoint


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An endpoint that does not keep to the contract, and the first field that does not."""

    key: ObjectKey
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def endpoint(raw: Mapping[str, object]) -> WorkloadEndpoint | Unreadable:
    """Read a WorkloadEndpoint."""
    try:
        return WorkloadEndpoint.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        return Unreadable(_key(raw), ".".join(map(str, first["loc"])), first["msg"])


def _key(raw: Mapping[str, object]) -> ObjectKey:
    metadata = raw.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    return ObjectKey(str(known.get("namespace", "")), str(known.get("name", "")))
