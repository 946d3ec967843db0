"""PURE: what the kernel's notifications say of links, addresses, host routes, default routes."""

import struct
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel.foreign_route import PARKING_TABLE
from handover_nodeagent.kernel.netlink import codec, ifinfomsg, rtmsg
from handover_nodeagent.network.links import AddressChanged, LinkChanged, LinkRemoved
from handover_nodeagent.network.model import Route

# ifinfomsg and rtmsg of linux/rtnetlink.h and ifaddrmsg of linux/if_addr.h begin alike, with the
# family.
_FAMILY: Final = struct.Struct("=B")


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """Somebody else added or removed a host route, or a parked copy.

    The route is ours, or a direct one: ``direct`` is false for one of ours that leads on,
    and for another's that took one's place, perhaps ours; ``replaced`` tells that it took
    one. ``message`` is the kernel's, for ``foreign_route.Foreign``.
    """

    route: Route
    present: bool
    direct: bool
    message: bytes
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class DefaultRouteChanged:
    """A default route came or went; :func:`links.observe` tells which are left."""


Change = LinkChanged | LinkRemoved | AddressChanged | RouteChanged | DefaultRouteChanged


def decode(message: bytes, table: int) -> Change | None:
    """Read one notification; None for what concerns nobody, routes of other tables included.

    Raises codec.MalformedError.
    """
    kind = codec.kind_of(message)
    if kind in {codec.NEWROUTE, codec.DELROUTE}:
        return _decode_route(message, table, present=kind == codec.NEWROUTE)
    if kind in {codec.NEWADDR, codec.DELADDR}:
        index, address = ifinfomsg.decode_address(message)
        return AddressChanged(index, address, kind == codec.NEWADDR, ifinfomsg.is_host(message))
    if kind in {codec.NEWLINK, codec.DELLINK} and _family_of(message) == 0:
        link = ifinfomsg.decode_link(message)
        if kind == codec.DELLINK:
            return LinkRemoved(link.index, link.name)
        return LinkChanged(link.index, link.name, link.mac, link.up, link.carrier)
    return None


def _family_of(message: bytes) -> int:
    """Return the family: a bridge tells of its ports in link messages of its own one."""
    return codec.unpack(_FAMILY, message, codec.HEADER.size)[0]


def _decode_route(message: bytes, table: int, *, present: bool) -> Change | None:
    if _family_of(message) not in rtmsg.HOST or not rtmsg.is_made(message):
        return None
    entry = rtmsg.decode(message)
    # Nobody but us puts a copy there, but it goes with its interface, or by somebody's hand.
    if entry.route.table == PARKING_TABLE and not present:
        return RouteChanged(entry.route, present, entry.direct, message)
    if entry.route.table != table:
        return None
    # Which are left is observed, not reckoned: the same one may be there twice.
    if entry.prefix_length == 0:
        return DefaultRouteChanged()
    # The kernel tells of the new route alone; what it replaced is not told as removed.
    replaced = bool(codec.HEADER.unpack_from(message)[2] & codec.REPLACE)
    return RouteChanged(entry.route, present, entry.direct, message, present and replaced)
