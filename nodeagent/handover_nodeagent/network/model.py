"""What of a node's network is ours, as values; the middle between the machines and the kernel."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

IPAddress = IPv4Address | IPv6Address

# Six octets as text: what Ethernet has, and what neither a tunnel's IPv4 address nor "" is.
_MAC_LENGTH: Final = 17

RouteKey = tuple[IPAddress, int, int]
"""Address, metric and table of a route."""


TUNNEL_ID: Final = 88
"""The VXLAN network identifier of all that goes through a tunnel of ours, and by which our routes
into one are told from others': the peers agree on it, so it is no setting."""


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """Into a tunnel device, for the node that has address *remote* in the underlay.

    *source* is the node's own there, of the same family, which that node takes packets from; None:
    whichever the kernel chooses.
    """

    remote: IPAddress
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Via:
    """By a gateway on the link; an IPv4 route may have an IPv6 one."""

    gateway: IPAddress


@dataclass(frozen=True, slots=True)
class Nexthop:
    """As nexthop object *number* says, which names the device: the route's own ``oif`` is 0."""

    number: int


Way = Encapsulated | Via | Nexthop


@dataclass(frozen=True, slots=True)
class Route:
    """A host route, /32 or /128 by the address's family: direct, scope link, unless it has a way.

    The kernel's key is (address, metric, table); ``oif`` is an interface index. ``carried`` are
    further attributes in the kernel's form; two routes that differ in them alone are one.
    """

    address: IPAddress
    oif: int
    metric: int
    table: int
    protocol: int
    # plan.diff looks at it by itself: it is a reason to replace a route, never to add one.
    carried: bytes = dataclasses.field(default=b"", compare=False)
    way: Way | None = None

    @property
    def key(self) -> RouteKey:
        """What a table of the kernel has once, or in order if routes stand side by side."""
        return self.address, self.metric, self.table


@dataclass(frozen=True, slots=True)
class Redirection:
    """The way to the node that has a guest, by IP version, and the device on it."""

    oif: int
    ipv4: Way | None = None
    ipv6: Way | None = None

    def way(self, address: IPAddress) -> Way | None:
        """Return the way of a route to *address*; None where there is none for its family."""
        return self.ipv4 if isinstance(address, IPv4Address) else self.ipv6


@dataclass(frozen=True, slots=True)
class Neigh:
    """A neighbor entry seeded REACHABLE, never permanent: a wrong MAC must heal."""

    address: IPAddress
    oif: int
    mac: str


ArpGuard = Mapping[str, frozenset[IPv4Address]]
"""Interface name to the addresses for which this host must never answer ARP there."""


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface of the node; ``addresses`` are the node's own on it.

    ``hosts`` are those of them that have no network: of a /32 or /128. ``carrier``: somebody is at
    the other end; without, its routes stay and are "linkdown".
    """

    index: int
    name: str
    mac: str
    up: bool
    addresses: frozenset[IPAddress] = frozenset()
    default_route: bool = False
    hosts: frozenset[IPAddress] = frozenset()
    carrier: bool = True

    @property
    def is_ethernet(self) -> bool:
        """Tell whether it has a MAC: tun and wireguard have none, ipip and sit an IPv4 address."""
        return len(self.mac) == _MAC_LENGTH
