"""WorkloadEndpoint: one network interface of one workload on one node."""

import base64
import enum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Final

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
    REDIRECTED = "Redirected"


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
    """A route of this endpoint that is in the node's kernel, in rtnetlink's own numbers.

    Of those that other nodes may be told of: one that is the node's own affair (a redirect after
    the migration) is none of them, or targets would wait for it.
    """

    address: IPv4Address | IPv6Address
    metric: int
    table: int
    protocol: int


class HoldReason(enum.StrEnum):
    """Why not everything that a guest missed was sent again.

    NoRing: the kernel gives no ring; NoRoom: the node's bound of 64 MiB is used up; TooMuch: more
    came than the bounds hold; NotRedirected: nothing leads to the target; Refused: by the kernel.
    """

    OFF = "Off"
    NO_RING = "NoRing"
    NO_ROOM = "NoRoom"
    TOO_MUCH = "TooMuch"
    NOT_REDIRECTED = "NotRedirected"
    REFUSED = "Refused"


class Hold(Model):
    """What a guest did not take while it was paused, and what became of that, in packets.

    ``held``: kept at the switch, and sent after the guest's last sign of life. ``doubled``: of
    those sent again, how many the guest may have had already, at most. ``dropped``: known to be
    lost, past the bounds or refused.
    """

    held: int
    resent: int
    doubled: int
    dropped: int
    reason: HoldReason | None = None


class Cutover(Model):
    """What the agent measured when the route followed the guest.

    From the frame's arrival to the kernel's acknowledgment of the last route, at ``time``. What is
    None was not measured: others did not answer, or nothing had to follow.
    """

    signal: Signal
    announcement_to_route_microseconds: int
    time: Moment
    migration_uid: str | None = pydantic.Field(default=None, alias="migrationUID")
    announcement_to_redirect_microseconds: int | None = None
    announcement_to_last_node_microseconds: int | None = None
    nodes_followed: int | None = None
    nodes_silent: int | None = None
    guest_silence_microseconds: int | None = None
    clock_error_microseconds: int | None = None
    roll_backs: int | None = None
    forwarded: int | None = None
    hold: Lenient[Hold] | None = None


def _check_key(value: str) -> str:
    # Canonical, so that two keys are the same where their texts are.
    if base64.b64encode(base64.b64decode(value, validate=True)).decode() != value:
        message = "is not 32 bytes in base64"
        raise ValueError(message)
    return value


def _check_node_address(value: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    wrong = value.is_loopback, value.is_link_local, value.is_multicast, value.is_unspecified
    if any(wrong) or value == _BROADCAST:
        message = "is not the address of a node"
        raise ValueError(message)
    return value


_BROADCAST: Final = IPv4Address("255.255.255.255")
# 32 bytes, the key of RFC 8032, are 44 characters.
PublicKey = Annotated[
    str,
    pydantic.StringConstraints(min_length=44, max_length=44, pattern="^[A-Za-z0-9+/]{43}=$"),
    pydantic.AfterValidator(_check_key),
]
NodeAddress = Annotated[IPv4Address | IPv6Address, pydantic.AfterValidator(_check_node_address)]


class AgentAddress(Model):
    """Where a node's agent is reached, and the Ed25519 key that its messages are told by."""

    public_key: PublicKey
    addresses: Annotated[tuple[NodeAddress, ...], pydantic.Field(min_length=1, max_length=4)]
    port: Annotated[int, pydantic.Field(ge=1, le=65535)]

    @property
    def key(self) -> bytes:
        """The key's 32 bytes."""
        return base64.b64decode(self.public_key)


class RedirectStatus(Model):
    """What a node has sent on or again in one migration, and how often its guest came back there.

    What is None was not counted, so far or at all.
    """

    migration_uid: str | None = pydantic.Field(default=None, alias="migrationUID")
    forwarded: int | None = None
    roll_backs: int | None = None
    hold: Lenient[Hold] | None = None


class WorkloadEndpointStatus(Model):
    """Written by the node agent only.

    ``since``: when the state was entered; ``deadline``: when it ends by itself. Role and uid are
    those that the agent has acted upon, which may be older than the annotations. ``advertised``:
    other nodes need a route of their own; a node that knows only this hears it by a field selector.
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
    agent: AgentAddress | None = None
    advertised: bool | None = None
    redirect: RedirectStatus | None = None
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
