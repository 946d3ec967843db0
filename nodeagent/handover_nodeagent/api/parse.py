"""PURE: API objects → values. One that breaks the contract becomes a value that names its field.

Nothing raises here: the API server enforces the schema of today, but an object may be older than
that, or newer than this agent.
"""

import contextlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pydantic

from handover_api.model import Lenient
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import WorkloadEndpoint, WorkloadEndpointStatus
from handover_nodeagent.network.model import IPAddress

# The agent writes statuses itself: what it cannot read of one is left out, not refused.
_STATUS: Final = pydantic.TypeAdapter[WorkloadEndpointStatus](Lenient[WorkloadEndpointStatus])


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An endpoint that does not keep to the contract, and the first field that does not.

    ``ips``: the addresses that can be read all the same; somebody may live there.
    """

    key: ObjectKey
    uid: str
    where: str
    message: str
    ips: tuple[IPAddress, ...] = ()
    generation: int = 0
    status: WorkloadEndpointStatus = field(default_factory=WorkloadEndpointStatus)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def endpoint(raw: Mapping[str, object]) -> WorkloadEndpoint | Unreadable:
    """Read a WorkloadEndpoint."""
    try:
        return WorkloadEndpoint.model_validate(raw)
    except pydantic.ValidationError as error:
        # The first is enough for a condition; who mends it sees the next.
        first = error.errors(include_url=False)[0]
        metadata = _mapping(raw, "metadata")
        generation = metadata.get("generation")
        return Unreadable(
            key(raw),
            str(metadata.get("uid", "")),
            ".".join(map(str, first["loc"])),
            first["msg"],
            addresses(raw),
            generation if isinstance(generation, int) else 0,
            _STATUS.validate_python(_mapping(raw, "status")),
        )


@dataclass(frozen=True, slots=True)
class Configuration:
    """A HandoverConfiguration; ``spec`` is None where it has one that is no object at all.

    ``paused_namespaces``: None where nobody has told which hold the brake.
    """

    name: str
    generation: int
    spec: Mapping[str, object] | None
    annotations: Mapping[str, str]
    paused_namespaces: frozenset[str] | None = None


def configuration(raw: Mapping[str, object]) -> Configuration:
    """Read a HandoverConfiguration, whatever is wrong with it."""
    metadata, spec = _mapping(raw, "metadata"), raw.get("spec")
    generation = metadata.get("generation")
    said = _mapping(metadata, "annotations")
    paused = _mapping(raw, "status").get("pausedNamespaces")
    return Configuration(
        key(raw).name,
        generation if isinstance(generation, int) else 0,
        # No spec at all says nothing; one that is a text, say, is a mistake to be told.
        {} if spec is None else spec if isinstance(spec, dict) else None,
        {name: value for name, value in said.items() if isinstance(value, str)},
        # None is not the empty set: it lets the pauses stand that were told before.
        frozenset(map(str, paused)) if isinstance(paused, list) else None,
    )


def key(raw: Mapping[str, object]) -> ObjectKey:
    """Read who it is, whatever else is wrong."""
    metadata = _mapping(raw, "metadata")
    return ObjectKey(str(metadata.get("namespace", "")), str(metadata.get("name", "")))


def addresses(raw: Mapping[str, object]) -> tuple[IPAddress, ...]:
    """Read those of spec.ips that are addresses, whatever else is wrong."""
    listed = _mapping(raw, "spec").get("ips")
    found: list[IPAddress] = []
    for text in listed if isinstance(listed, list) else ():
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_address(str(text)))
    return tuple(found)


def _mapping(raw: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = raw.get(name)
    return found if isinstance(found, dict) else {}
