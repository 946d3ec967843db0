"""WorkloadEndpoint: one network interface of one workload on one node."""

import enum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated

import pydantic

from handover_api.model import Condition, Lenient, Metadata, Model, Moment
from handover_api.names import ObjectKey


class Role(enum.StrEnum):
    """What a migration makes of an endpoint."""

    SOURCE = "source"
    TARGET = "target"


class State(enum.StrEnum):
    """The states of an endpoint's machine in the node agent; docs/states.md draws them."""

    BASE = "Base"
    TARGET = "Target"
    LIVE = "Live"
    TIME_WAIT = "TimeWait"
    WITHDRAWN = "Withdrawn"
    ASKING = "Asking"


# The values are the API's own: a message may quote them, and kubectl prints them.
class Signal(enum.StrEnum):
    """The frame that proved the guest alive."""

    RARP = "RARP"
    GRATUITOUS_ARP = "GratuitousARP"
    NEIGHBOR_ADVERTISEMENT = "NeighborAdvertisement"
    PROBE = "Probe"


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


# Lower case with colons, however it was given: MACs are compared as text.
MacAddress = Annotated[
    str,
    pydantic.BeforeValidator(_lower),
    pydantic.StringConstraints(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$"),
]


class WorkloadEndpointSpec(Model):
    """Which interface, on which node, with which addresses.

    ``ips`` and ``gateways`` have no prefix length. ``await_role``: no routes before a role or an
    outcome was given.
    """

    node: str
    workload: str
    # Linux allows an interface's name 15 characters (IFNAMSIZ counts the final NUL).
    interface: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=15)] | None = None
    mac: MacAddress | None = None
    ips: tuple[IPv4Address | IPv6Address, ...]
    gateways: tuple[IPv4Address | IPv6Address, ...] = ()
    await_role: bool = False


class RouteStatus(Model):
    """A route of this endpoint that is in the node's kernel, in rtnetlink's own numbers."""

    address: IPv4Address | IPv6Address
    metric: int
    table: int
    protocol: int


class Cutover(Model):
    """What the agent measured when the route followed the guest.

    From the frame's arrival to the kernel's acknowledgment of the last route, at ``time``.
    """

    signal: Signal
    announcement_to_route_microseconds: int
    time: Moment
    migration_uid: str | None = pydantic.Field(default=None, alias="migrationUID")


class WorkloadEndpointStatus(Model):
    """Written by the node agent only.

    ``since``: when the state was entered; ``deadline``: when it ends by itself. Role and uid are
    those that the agent has acted upon, which may be older than the annotations.
    """

    state: State | None = None
    since: Moment | None = None
    deadline: Moment | None = None
    role: Role | None = None
    # The generated name would be migrationUid, which is not how Kubernetes writes abbreviations.
    migration_uid: str | None = pydantic.Field(default=None, alias="migrationUID")
    interface: str | None = None
    routes: tuple[RouteStatus, ...] = ()
    last_cutover: Cutover | None = None
    conditions: tuple[Condition, ...] = ()


class WorkloadEndpoint(Model):
    """One network interface of one workload on one node."""

    metadata: Metadata
    spec: WorkloadEndpointSpec
    status: Lenient[WorkloadEndpointStatus] = WorkloadEndpointStatus()

    @property
    def key(self) -> ObjectKey:
        """Namespace and name."""
        return ObjectKey(self.metadata.namespace, self.metadata.name)
