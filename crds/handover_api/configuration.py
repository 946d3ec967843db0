"""HandoverConfiguration: what a cluster's owner may set, for all nodes or for one."""

import datetime as dt
import enum
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Final, Self

import pydantic

from handover_api import names
from handover_api.model import Condition, Duration, Lenient, Metadata, Model

RESERVED_ROUTE_PROTOCOLS: Final = frozenset({11, 12, *range(186, 198)})
"""Those of zebra, BIRD and FRR's daemons; 0..4 are the kernel's (rtnetlink.h)."""

DEFAULT_ONLY: Final = frozenset(
    {
        "ipv4NormalRoutePriority",
        "ipv6NormalRoutePriority",
        "ipv4ElevatedRoutePriority",
        "ipv6ElevatedRoutePriority",
        "redirectPort",
        "peerPort",
    }
)
"""Fields of ``default`` alone: routers compare priorities, and a tunnel has one port for all."""

# An elevated route, another node's guest between, a normal route: private_metric.
_ROOMY: Final = 2
# A Linux metric has 32 bits, and in IPv6 a 0 would become 1024 (IP6_RT_PRIO_USER).
Metric = Annotated[int, pydantic.Field(ge=1, le=2147483646)]
# The highest port is left out, since the one after peerPort may be needed, too.
Port = Annotated[int, pydantic.Field(ge=1, le=65534)]


class Mode(enum.StrEnum):
    """active acts; observe decides and reports only; paused leaves everything as it is."""

    ACTIVE = "active"
    OBSERVE = "observe"
    PAUSED = "paused"


def is_braked(annotations: Mapping[str, str]) -> bool:
    """Return whether annotations hold a person's brake, handover.dev/paused.

    On ``default`` it is for all endpoints, on a namespace for those in it.
    """
    # Whatever else stands there brakes: who is in a hurry may mistype it.
    return annotations.get(names.PAUSED, "false") != "false"


class RouteOwnership(enum.StrEnum):
    """Which endpoints' routes are ours: all, or those that have had a role."""

    ALL = "all"
    MIGRATIONS = "migrations"


class OnUninstall(enum.StrEnum):
    """What an uninstall leaves in the kernel."""

    KEEP = "keep"
    HAND_BACK = "handBack"


class Advertise(enum.StrEnum):
    """Who tells other nodes where a guest is: a BGP speaker, the agents themselves, nobody."""

    BGP = "bgp"
    AGENTS = "agents"
    NONE = "none"


class SourceRedirect(enum.StrEnum):
    """How a source sends on what still arrives: by a tunnel, over one link only, not at all."""

    AUTO = "auto"
    LINK = "link"
    OFF = "off"


class HoldPackets(enum.StrEnum):
    """Whether a source keeps what its paused guest does not take, to send it again."""

    AUTO = "auto"
    OFF = "off"


def private_metric(metric: int) -> int:
    """Return the metric of a route that nobody exports, of the level whose own metric this is.

    It never collides with a route of the node's own, which wins at the same level.
    """
    return metric + 1


class Settings(Model):
    """A complete, valid configuration of one node; the schema tells the same defaults."""

    mode: Mode = Mode.ACTIVE
    ipv4_normal_route_priority: Metric = 1024
    ipv6_normal_route_priority: Metric = 1024
    ipv4_elevated_route_priority: Metric = 512
    ipv6_elevated_route_priority: Metric = 512
    live_migration_route_convergence_time: Duration = dt.timedelta(seconds=30)
    target_timeout: Duration = dt.timedelta(minutes=10)
    probe_interval: Duration = dt.timedelta(milliseconds=200)
    route_protocol: Annotated[int, pydantic.Field(ge=5, le=254)] = 88
    route_table: Annotated[int, pydantic.Field(ge=1, le=4294967295)] = 254
    route_ownership: RouteOwnership = RouteOwnership.ALL
    on_uninstall: OnUninstall = OnUninstall.KEEP
    allowed_cidrs: Annotated[
        tuple[IPv4Network | IPv6Network, ...], pydantic.Field(alias="allowedCIDRs")
    ] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
    gateways: Annotated[tuple[IPv4Address | IPv6Address, ...], pydantic.Field(max_length=64)] = ()
    advertise: Advertise = Advertise.AGENTS
    source_redirect: SourceRedirect = SourceRedirect.AUTO
    hold_packets: HoldPackets = HoldPackets.AUTO
    redirect_port: Port = 7472
    peer_port: Port = 7473

    @property
    def private_route_protocol(self) -> int:
        """The protocol of routes that are this node's own affair: no speaker's filter takes it."""
        return self.route_protocol + 1

    @property
    def route_protocols(self) -> frozenset[int]:
        """Both numbers: what has one of them is an agent's."""
        return frozenset({self.route_protocol, self.private_route_protocol})

    @property
    def distribution_port(self) -> int:
        """Where nodes tunnel to each other that have no other way; few clusters need it."""
        return self.peer_port + 1

    @property
    def _narrowest_step(self) -> int:
        """How far apart the two priorities of a family are, at least."""
        return min(
            self.ipv4_normal_route_priority - self.ipv4_elevated_route_priority,
            self.ipv6_normal_route_priority - self.ipv6_elevated_route_priority,
        )

    # What the schema's CEL rules say, once more: the environment of one node passes no API server.
    @pydantic.model_validator(mode="after")
    def _agree(self) -> Self:
        if self.ipv4_elevated_route_priority >= self.ipv4_normal_route_priority:
            message = "ipv4ElevatedRoutePriority must be lower than ipv4NormalRoutePriority"
            raise ValueError(message)
        if self.ipv6_elevated_route_priority >= self.ipv6_normal_route_priority:
            message = "ipv6ElevatedRoutePriority must be lower than ipv6NormalRoutePriority"
            raise ValueError(message)
        if RESERVED_ROUTE_PROTOCOLS & {self.route_protocol, self.private_route_protocol}:
            message = (
                "routeProtocol must not be one that BIRD or FRR uses (11, 12, 186..197), nor the"
                " one before it"
            )
            raise ValueError(message)
        if self.redirect_port in {self.peer_port, self.distribution_port}:
            message = "redirectPort must be neither peerPort nor the port after it"
            raise ValueError(message)
        if self.advertise is Advertise.AGENTS and self._narrowest_step < _ROOMY:
            message = (
                "advertise agents, the default, needs each normal priority 2 above the elevated one"
            )
            raise ValueError(message)
        convergence = self.live_migration_route_convergence_time
        if not dt.timedelta() < convergence <= dt.timedelta(hours=1):
            message = "liveMigrationRouteConvergenceTime must be above 0 and at most 1h"
            raise ValueError(message)
        if self.target_timeout <= dt.timedelta():
            message = "targetTimeout must be above 0"
            raise ValueError(message)
        # As far apart as the probes of an asking; faster ones would fill a paused guest's queue.
        fastest = dt.timedelta(milliseconds=20)
        if dt.timedelta() < self.probe_interval < fastest:
            message = "probeInterval must be 0 (off) or at least 20ms"
            raise ValueError(message)
        return self


class HandoverConfigurationStatus(Model):
    """Written by the operator only; ``mode`` is what the object comes to, the brake included.

    ``paused_namespaces``, of ``default`` only: those that hold the brake. None: nobody can tell.
    """

    mode: str | None = None
    paused_namespaces: tuple[str, ...] | None = None
    conditions: tuple[Condition, ...] = ()


class HandoverConfiguration(Model):
    """``default`` or ``node.<node name>``; *spec* holds only the fields that it sets."""

    metadata: Metadata
    spec: dict[str, object] = pydantic.Field(default_factory=dict)
    status: Lenient[HandoverConfigurationStatus] = HandoverConfigurationStatus()
