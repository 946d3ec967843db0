"""What changes in the kernel without us: links, addresses, direct host routes, default routes.

A filter in the kernel lets through what somebody here could care about: not our own changes, no
network routes, no host routes by a gateway. So 10,000 flapping routes of a BGP speaker wake nobody.
"""

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel import links, parking
from handover_nodeagent.kernel.netlink import codec, rtmsg, subscription, wakeup_filter
from handover_nodeagent.network.links import AddressChanged, LinkChanged, LinkRemoved
from handover_nodeagent.network.model import Route

BUDGET: Final = 64
"""Notifications per wake-up; then the loop's other descriptors have their turn."""

# ifinfomsg and rtmsg of linux/rtnetlink.h and ifaddrmsg of linux/if_addr.h begin alike, with the
# family.
_FAMILY: Final = struct.Struct("=B")
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE of linux/rtnetlink.h."""


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """Somebody else added or removed a direct host route, ours or foreign, or a parked copy.

    ``direct`` is false for a route by a gateway that took another one's place, perhaps ours;
    ``replaced`` tells that it took one. ``message`` is the kernel's, for :class:`parking.Foreign`.
    """

    route: Route
    present: bool
    direct: bool
    message: bytes
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class DefaultRouteChanged:
    """A default route came or went; :func:`links.observe` tells which are left."""


Notification = LinkChanged | LinkRemoved | AddressChanged | RouteChanged | DefaultRouteChanged


class Notifications:
    """Listens on the running loop from its making on, until ``close``.

    What *own_port* (``Channel.port``) caused is not told. ``overflow``: the kernel dropped some;
    observe everything.
    """

    def __init__(
        self,
        heard: Callable[[Notification], None],
        overflow: Callable[[], None],
        *,
        table: int,
        own_port: int = 0,
        receive_buffer: int = 1 << 20,
    ) -> None:
        self._heard = heard
        self._table = table
        program = wakeup_filter.compile_filter(own_port)
        subject = subscription.Subject(
            socket.NETLINK_ROUTE, _GROUPS, BUDGET, receive_buffer, program
        )
        self._subscription = subscription.Subscription(subject, self._take, overflow)

    def follow(self, table: int) -> None:
        """Tell of the routes of another *table* from now on."""
        self._table = table

    def close(self) -> None:
        """Stop listening; again, it changes nothing."""
        self._subscription.close()

    def _take(self, message: bytes) -> None:
        # The filter knows no table, for which one counts may change with the configuration.
        notification = decode(message, self._table)
        if notification:
            self._heard(notification)


def decode(message: bytes, table: int) -> Notification | None:
    """Read one notification; None for what concerns nobody, routes of other tables included.

    Raises codec.MalformedError.
    """
    kind = codec.kind_of(message)
    if kind in {codec.NEWROUTE, codec.DELROUTE}:
        return _decode_route(message, table, present=kind == codec.NEWROUTE)
    if kind in {codec.NEWADDR, codec.DELADDR}:
        index, address = links.decode_address(message)
        return AddressChanged(index, address, kind == codec.NEWADDR, links.is_host(message))
    if kind in {codec.NEWLINK, codec.DELLINK} and _family_of(message) == 0:
        link = links.decode(message)
        if kind == codec.DELLINK:
            return LinkRemoved(link.index, link.name)
        return LinkChanged(link.index, link.name, link.mac, link.up, link.carrier)
    return None


def _family_of(message: bytes) -> int:
    """Return the family: a bridge tells of its ports in link messages of its own one."""
    return codec.unpack(_FAMILY, message, codec.HEADER.size)[0]


def _decode_route(message: bytes, table: int, *, present: bool) -> Notification | None:
    if _family_of(message) not in rtmsg.HOST or not rtmsg.is_made(message):
        return None
    entry = rtmsg.decode(message)
    # Nobody but us puts a copy there, but it goes with its interface, or by somebody's hand.
    if entry.route.table == parking.PARKING_TABLE and not present:
        return RouteChanged(entry.route, present, entry.direct, message)
    if entry.route.table != table:
        return None
    # Which are left is observed, not reckoned: the same one may be there twice.
    if entry.prefix_length == 0:
        return DefaultRouteChanged()
    # The kernel tells of the new route alone; what it replaced is not told as removed.
    replaced = bool(codec.HEADER.unpack_from(message)[2] & codec.REPLACE)
    return RouteChanged(entry.route, present, entry.direct, message, present and replaced)
