"""PURE: another owner's direct host route, and the requests that move it to table 5254 and back.

They are made of the kernel's own bytes, so that a route keeps what we do not know: all that the
kernel shows of it and takes back.
"""

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.kernel.netlink import codec, rtmsg, ways
from handover_nodeagent.network.model import Route, RouteKey

PARKING_TABLE: Final = 5254

# RTA_CACHEINFO and RTA_EXPIRES of linux/rtnetlink.h.
_CACHE: Final = 12
_EXPIRES: Final = 23
_CACHE_LAYOUT: Final = struct.Struct("=IIi")
"""How struct rta_cacheinfo begins: references, last use, expiry."""
# USER_HZ, in which the kernel shows an expiry that it takes in seconds.
_TICKS_PER_SECOND: Final = 100
_SETTABLE_FLAGS: Final = 0x2 | 0x4
"""RTNH_F_PERVASIVE and RTNH_F_ONLINK; the others tell a state and may not be set."""
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


def moved(foreign: Foreign, table: int) -> Foreign:
    """Return *foreign* as the kernel would show it in *table*."""
    return Foreign(dataclasses.replace(foreign.route, table=table), foreign.message)


def find_others(
    shown: Iterable[bytes], wanted: AbstractSet[bytes], ours: AbstractSet[int]
) -> Others:
    """Find among the host routes that are *shown* those to packed addresses that are *wanted*.

    Those that have a protocol of *ours* are left out. Raises codec.MalformedError.
    """
    direct: list[Foreign] = []
    gateways: set[RouteKey] = set()
    for message in shown:
        # Of 10,000 routes nearly all end here, before anything is decoded.
        if codec.find(message, rtmsg.ATTRIBUTES_AT, rtmsg.DESTINATION) not in wanted:
            continue
        entry = rtmsg.decode(message)
        # Ours first: one of them may lead by a gateway, too, and is in nobody's way.
        if entry.route.protocol in ours and entry.as_ours():
            continue
        if entry.direct:
            direct.append(Foreign(entry.route, message))
        else:
            gateways.add(entry.route.key)
    return Others(tuple(direct), frozenset(gateways))


def find_direct(shown: Iterable[bytes]) -> Iterator[Foreign]:
    """Find the direct ones among the host routes that are *shown*. Raises codec.MalformedError."""
    for message in shown:
        entry = rtmsg.decode(message)
        if entry.direct:
            yield Foreign(entry.route, message)


def encode_beside(foreign: Foreign, table: int) -> bytes:
    """Return the message that adds *foreign* to *table*, beside what has its metric there.

    EEXIST when it is there already or, in IPv6, anybody's direct one on its device.
    """
    # A table holds several of one metric, and none of them may go for this one.
    return _rewrite(foreign.message, codec.NEWROUTE, codec.CREATE | codec.APPEND, table)


def encode_replace(foreign: Foreign, table: int) -> bytes:
    """Return the message that puts *foreign* in the place of the first one of its metric."""
    return _rewrite(foreign.message, codec.NEWROUTE, codec.CREATE | codec.REPLACE, table)


def encode_remove(foreign: Foreign) -> bytes:
    """Return the message that removes *foreign* from its table; ESRCH when it is not there."""
    return _rewrite(foreign.message, codec.DELROUTE, 0, foreign.route.table)


def encode_remove_oldest_copy(foreign: Foreign) -> bytes:
    """Return the message that removes the oldest parked copy of this device and metric.

    Unlike :func:`encode_remove` it goes by nothing else, as what the copy carries is not known.
    """
    route = foreign.route
    family, length, source, tos, *_ = rtmsg.BODY.unpack_from(foreign.message, rtmsg.BODY_AT)
    return codec.compose(
        codec.DELROUTE,
        0,
        rtmsg.BODY.pack(family, length, source, tos, 0, 0, _ANY_SCOPE, rtmsg.UNICAST, 0)
        + codec.attribute(rtmsg.DESTINATION, route.address.packed)
        + codec.number(ways.DEVICE, route.oif)
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
    if ways.NEXTHOP_OBJECT in found:
        del found[ways.DEVICE]
    kept = b"".join(codec.attribute(kind, payload) for kind, payload in found.items())
    if len(cache) >= _CACHE_LAYOUT.size:
        ticks = _CACHE_LAYOUT.unpack_from(cache)[2]
        kept += codec.number(_EXPIRES, ticks // _TICKS_PER_SECOND) if ticks > 0 else b""
    return kept
