"""Our host routes in the kernel: encoded, observed, and asked who wins.

A delete always names device, metric, table, protocol and scope: one device's end never takes
another one's route, and a foreign route of the same prefix is never ours to take.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel import messages, netlink
from handover_nodeagent.network import IPAddress, Route

BODY: Final = struct.Struct("=BBBBBBBBI")
"""Family, destination and source prefix length, TOS, table, protocol, scope, type, flags."""
ATTRIBUTES_AT: Final = messages.HEADER.size + BODY.size

DESTINATION: Final = 1
DEVICE: Final = 4
GATEWAY: Final = 5
PRIORITY: Final = 6
MULTIPATH: Final = 9
TABLE: Final = 15
VIA: Final = 18

UNICAST: Final = 1
SCOPE_LINK: Final = 253
_FIB_MATCH: Final = 0x2000
_HOST: Final = {messages.INET: 32, messages.INET6: 128}


@dataclass(frozen=True, slots=True)
class Winner:
    """The route by which the node reaches an address, whoever made it.

    ``gateway`` is None for a direct one; ``oif`` is 0 for one that spreads over several devices.
    """

    network: str
    oif: int
    metric: int
    table: int
    protocol: int
    gateway: IPAddress | None = None

    def is_route(self, route: Route) -> bool:
        """Tell whether it is *route*."""
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError


def encode_add(route: Route) -> bytes:
    """Return the message that adds *route*; EEXIST when its (prefix, metric) is taken."""
    return _encode(messages.NEWROUTE, messages.CREATE | messages.EXCLUSIVE, route)


def encode_replace(route: Route) -> bytes:
    """Return the message that puts *route* in the place of its (prefix, metric), atomically.

    It overrides another device's and another protocol's route; there is no moment without one.
    """
    return _encode(messages.NEWROUTE, messages.CREATE | messages.REPLACE, route)


def encode_remove(route: Route) -> bytes:
    """Return the message that removes exactly *route*; ESRCH when it is not there."""
    return _encode(messages.DELROUTE, 0, route)


def _encode(kind: int, flags: int, route: Route) -> bytes:
    address = route.address
    family = messages.family_of(address)
    # The table stands in its attribute, where it may have more than 8 bits.
    body = BODY.pack(family, address.max_prefixlen, 0, 0, 0, route.protocol, SCOPE_LINK, UNICAST, 0)
    return messages.compose(
        kind,
        flags,
        body
        + messages.attribute(DESTINATION, address.packed)
        + messages.number(DEVICE, route.oif)
        + messages.number(PRIORITY, route.metric)
        + messages.number(TABLE, route.table),
    )


def observe(protocol: int, tables: Iterable[int]) -> tuple[Route, ...]:
    """Return the direct host routes that carry our *protocol*, in the kernel's order.

    The kernel filters, so that 10,000 foreign ones cost nothing. Runs in a thread, never in the
    loop. Raises ObservationError.
    """
    raise NotImplementedError


def winner(channel: netlink.Channel, address: IPAddress) -> Winner | None:
    """Ask which route the node itself would take to *address*; None when there is none."""
    raise NotImplementedError
