"""Foreign direct host routes for our addresses: kept aside in table 5254 while we program those.

With metric 0 such a route beats every metric of ours and hides our route from BIRD; in IPv6, with
the kernel's own 1024, it collides with ours. The parked copy is made of the kernel's own bytes,
so that it keeps what we do not know; it goes with its interface and is the memory across restarts.
"""

import dataclasses
import errno
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from handover_nodeagent.kernel import routes
from handover_nodeagent.kernel.netlink import codec, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Route, RouteKey

PARKING_TABLE: Final = 5254

# RTA_CACHEINFO, RTA_EXPIRES and RTA_NH_ID of linux/rtnetlink.h.
_CACHE: Final = 12
_EXPIRES: Final = 23
_NEXTHOP_OBJECT: Final = 30
_CACHE_LAYOUT: Final = struct.Struct("=IIi")
"""How struct rta_cacheinfo begins: references, last use, expiry."""
# USER_HZ, in which the kernel shows an expiry that it takes in seconds.
_TICKS_PER_SECOND: Final = 100
_SETTABLE_FLAGS: Final = 0x2 | 0x4
"""RTNH_F_PERVASIVE and RTNH_F_ONLINK; the others tell a state and may not be set."""
# Beside what is there: a table holds several of one metric, and none of them may go for it.
_NEW_FLAGS: Final = codec.CREATE | codec.APPEND
_THERE: Final = frozenset({0, errno.EEXIST})
# RT_SCOPE_NOWHERE: in a delete it stands for any (fib_table_delete in net/ipv4/fib_trie.c).
_ANY_SCOPE: Final = 255


@dataclass(frozen=True, slots=True)
class Foreign:
    """A direct host route of another owner; ``message`` is how the kernel showed it."""

    route: Route
    message: bytes


@dataclass(frozen=True, slots=True)
class Others:
    """Others' host routes to some addresses: direct ones, and the places of those by a gateway."""

    direct: tuple[Foreign, ...] = ()
    gateways: frozenset[RouteKey] = frozenset()


def observe_others(
    addresses: Iterable[IPAddress], table: int, protocol: int, *, oif: int = 0
) -> Others:
    """Return the host routes to *addresses* whose protocol is not ours.

    With *oif* only those on that device: the kernel filters. Runs in a thread, never in the loop.
    Raises ObservationError.
    """
    wanted = frozenset(address.packed for address in addresses)
    # Of 10,000 routes nearly all end here, before anything is decoded.
    found = (
        message
        for message in _host_routes(table, oif)
        if codec.find(message, rtmsg.ATTRIBUTES_AT, rtmsg.DESTINATION) in wanted
    )
    direct: list[Foreign] = []
    gateways: set[RouteKey] = set()
    for message in found:
        entry = rtmsg.decode(message)
        if not entry.direct:
            gateways.add(entry.route.key)
        elif entry.route.protocol != protocol:
            direct.append(Foreign(entry.route, message))
    return Others(tuple(direct), frozenset(gateways))


def observe_parked() -> tuple[Foreign, ...]:
    """Return all parked copies, of both families; ``route.table`` is 5254.

    Runs in a thread, never in the loop. Raises ObservationError.
    """
    return tuple(_direct(_host_routes(PARKING_TABLE)))


def park(channel: Channel, foreign: Foreign) -> int:
    """Copy *foreign* to table 5254, then delete it from its own; return an errno.

    A copy that fails leaves the original alone. Again, it changes nothing. ESRCH: its owner removed
    it meanwhile, and nothing is parked. A few microseconds: for the loop.
    """
    message = foreign.message
    if foreign.route.protocol == 0 and not routes.is_certain(channel, foreign.route):
        # Nobody can name it but by a delete that may take ours.
        return errno.ESRCH
    copy = _rewrite(message, codec.NEWROUTE, _NEW_FLAGS, PARKING_TABLE)
    copied = channel.transact([copy])[0]
    if copied not in _THERE:
        return copied
    removed = channel.transact([_rewrite(message, codec.DELROUTE, 0, foreign.route.table)])[0]
    if removed == 0:
        # A copy of what its owner had there before is outdated. If there is none, this one goes
        # and comes back: in one exchange, which not even a SIGKILL divides.
        channel.transact([_forget(foreign), copy])
    elif removed == errno.ESRCH and copied == 0:
        channel.transact([_rewrite(message, codec.DELROUTE, 0, PARKING_TABLE)])
    elif removed == errno.ESRCH:
        return 0
    return removed


def copy_anew(channel: Channel, parked: Foreign) -> int:
    """Write the copy of *parked* once more, which somebody removed; return an errno."""
    copy = _rewrite(parked.message, codec.NEWROUTE, _NEW_FLAGS, PARKING_TABLE)
    result = channel.transact([copy])[0]
    return 0 if result in _THERE else result


def supplant(channel: Channel, foreign: Foreign, ours: Route, *, crowded: bool = False) -> int:
    """Put *ours* into the place of *foreign*, which has the same metric; return an errno.

    There is no moment without a route. A copy that fails leaves the original alone. *crowded*: a
    route by a gateway has that place too, and in IPv4 a replace takes the first, whatever it is.
    """
    copied = channel.transact(
        [_rewrite(foreign.message, codec.NEWROUTE, _NEW_FLAGS, PARKING_TABLE)]
    )[0]
    if copied not in _THERE:
        return copied
    if isinstance(ours.address, IPv6Address):
        result = _take_place(
            channel,
            foreign.route,
            rtmsg.encode_replace(ours),
            rtmsg.encode_beside(ours),
        )
        return 0 if result == errno.EEXIST and _is_first(channel, ours, oif=ours.oif) else result
    if not crowded:
        return channel.transact([rtmsg.encode_replace(ours)])[0]
    added = channel.transact([rtmsg.encode_beside(ours)])[0]
    if added in _THERE:
        channel.transact([_rewrite(foreign.message, codec.DELROUTE, 0, foreign.route.table)])
    return added


def unpark(channel: Channel, parked: Foreign, table: int, ours: int) -> int:
    """Put *parked* back into *table*, then delete the copy; return an errno.

    Call it before our own route goes, of protocol *ours*. In IPv6, where it may have our route's
    metric and device, it takes that one's place; then the later delete of ours finds nothing,
    which is success. Where its owner has put it back already, that one stays, and so does ours.
    """
    message = parked.message
    put = _rewrite(message, codec.NEWROUTE, _NEW_FLAGS, table)
    result = channel.transact([put])[0]
    if result == errno.EEXIST and isinstance(parked.route.address, IPv6Address):
        flags = codec.CREATE | codec.REPLACE
        replace = _rewrite(message, codec.NEWROUTE, flags, table)
        holder = dataclasses.replace(parked.route, table=table, protocol=ours)
        result = _take_place(channel, holder, replace, put)
    if result not in _THERE:
        return result
    channel.transact([_rewrite(message, codec.DELROUTE, 0, PARKING_TABLE)])
    return 0


def _take_place(channel: Channel, holder: Route, replace: bytes, beside: bytes) -> int:
    """Put another route into the place of *holder*, in IPv6; return an errno.

    A replace takes the first direct route of its metric, whatever its device (fib6_add_rt2node in
    net/ipv6/ip6_fib.c): it is for *holder* where that one is the first. Else another route leads
    there while *holder* is exchanged. EEXIST: somebody else has the place. EBUSY: a delete of
    *holder* may take another one.
    """
    if _is_first(channel, holder):
        return channel.transact([replace])[0]
    if not routes.is_certain(channel, holder):
        return errno.EBUSY
    return channel.transact([rtmsg.encode_remove(holder), beside])[1]


def _is_first(channel: Channel, route: Route, *, oif: int = 0) -> bool:
    first = routes.winner(channel, route.address, oif=oif)
    return isinstance(first, rtmsg.Entry) and first.direct and first.route == route


def parked_form(foreign: Foreign) -> Foreign:
    """Return *foreign* as :func:`observe_parked` would show it, to be given back later."""
    return Foreign(dataclasses.replace(foreign.route, table=PARKING_TABLE), foreign.message)


def _host_routes(table: int, oif: int = 0) -> Iterator[bytes]:
    for family, full in rtmsg.HOST.items():
        for message in routes.read_table(family, table, oif=oif):
            if message[rtmsg.PREFIX_LENGTH_AT] == full:
                yield message


def _direct(found: Iterable[bytes]) -> Iterator[Foreign]:
    for message in found:
        entry = rtmsg.decode(message)
        if entry.direct:
            yield Foreign(entry.route, message)


def _forget(foreign: Foreign) -> bytes:
    """Return the message that removes the oldest copy of this device and metric."""
    route = foreign.route
    family, length, source, tos, *_ = rtmsg.BODY.unpack_from(foreign.message, rtmsg.BODY_AT)
    return codec.compose(
        codec.DELROUTE,
        0,
        rtmsg.BODY.pack(family, length, source, tos, 0, 0, _ANY_SCOPE, rtmsg.UNICAST, 0)
        + codec.attribute(rtmsg.DESTINATION, route.address.packed)
        + codec.number(rtmsg.DEVICE, route.oif)
        + codec.number(rtmsg.PRIORITY, route.metric)
        + codec.number(rtmsg.TABLE, PARKING_TABLE),
    )


def _rewrite(message: bytes, kind: int, flags: int, table: int) -> bytes:
    """Turn what the kernel showed into a request for the same route in *table*."""
    family, length, source, tos, _, protocol, scope, route_type, state = rtmsg.BODY.unpack_from(
        message, rtmsg.BODY_AT
    )
    settable = state & _SETTABLE_FLAGS
    body = rtmsg.BODY.pack(family, length, source, tos, 0, protocol, scope, route_type, settable)
    return codec.compose(kind, flags, body + _settable(message) + codec.number(rtmsg.TABLE, table))


def _settable(message: bytes) -> bytes:
    """Return the attributes without those that the kernel shows but does not take."""
    found = dict(codec.attributes(message, rtmsg.ATTRIBUTES_AT))
    del found[rtmsg.TABLE]
    cache = found.pop(_CACHE, b"")
    # The kernel shows its device, and refuses a request that names both.
    if _NEXTHOP_OBJECT in found:
        del found[rtmsg.DEVICE]
    kept = b"".join(codec.attribute(kind, payload) for kind, payload in found.items())
    if len(cache) >= _CACHE_LAYOUT.size:
        ticks = _CACHE_LAYOUT.unpack_from(cache)[2]
        kept += codec.number(_EXPIRES, ticks // _TICKS_PER_SECOND) if ticks > 0 else b""
    return kept
