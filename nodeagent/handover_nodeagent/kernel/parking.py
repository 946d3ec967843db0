"""Foreign direct host routes for our addresses: kept aside in table 5254 while we program those.

With metric 0 such a route beats every metric of ours and hides our route from BIRD; in IPv6, with
the kernel's own 1024, it collides with ours. The parked copy goes with its interface and is the
memory across restarts.
"""

import dataclasses
import errno
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from ipaddress import IPv6Address
from typing import Final

from handover_nodeagent.kernel import foreign_route, route_lookup
from handover_nodeagent.kernel.foreign_route import PARKING_TABLE, Foreign, Others
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Route

_THERE: Final = frozenset({0, errno.EEXIST})


def observe_others(
    addresses: Iterable[IPAddress], table: int, ours: AbstractSet[int], *, oif: int = 0
) -> Others:
    """Return the host routes to *addresses* whose protocol is none of *ours*.

    With *oif* only those on that device: the kernel filters. Runs in a thread, never in the loop.
    Raises ObservationError.
    """
    wanted = frozenset(address.packed for address in addresses)
    return foreign_route.find_others(_host_routes(table, oif), wanted, ours)


def observe_parked() -> tuple[Foreign, ...]:
    """Return all parked copies, of both families; ``route.table`` is 5254.

    Runs in a thread, never in the loop. Raises ObservationError.
    """
    return tuple(foreign_route.find_direct(_host_routes(PARKING_TABLE)))


def park(channel: Channel, foreign: Foreign) -> int:
    """Copy *foreign* to table 5254, then delete it from its own; return an errno.

    A copy that fails leaves the original alone. Again, it changes nothing. ESRCH: its owner removed
    it meanwhile, and nothing is parked. A few microseconds: for the loop.
    """
    if foreign.route.protocol == 0 and not route_lookup.is_certain(channel, foreign.route):
        # Nobody can name it but by a delete that may take ours.
        return errno.ESRCH
    copy = foreign_route.encode_beside(foreign, PARKING_TABLE)
    copied = channel.transact([copy])[0]
    if copied not in _THERE:
        return copied
    removed = channel.transact([foreign_route.encode_remove(foreign)])[0]
    if removed == 0:
        # A copy of what its owner had there before is outdated. If there is none, this one goes
        # and comes back: in one exchange, which not even a SIGKILL divides.
        channel.transact([foreign_route.encode_remove_oldest_copy(foreign), copy])
    elif removed == errno.ESRCH and copied == 0:
        parked = foreign_route.moved(foreign, PARKING_TABLE)
        channel.transact([foreign_route.encode_remove(parked)])
    elif removed == errno.ESRCH:
        return 0
    return removed


def copy_anew(channel: Channel, parked: Foreign) -> int:
    """Write the copy of *parked* once more, which somebody removed; return an errno."""
    result = channel.transact([foreign_route.encode_beside(parked, PARKING_TABLE)])[0]
    return 0 if result in _THERE else result


def supplant(channel: Channel, foreign: Foreign, ours: Route, *, crowded: bool = False) -> int:
    """Put *ours* into the place of *foreign*, which has the same metric; return an errno.

    There is no moment without a route. A copy that fails leaves the original alone. *crowded*: a
    route by a gateway has that place too, and in IPv4 a replace takes the first, whatever it is.
    """
    copied = channel.transact([foreign_route.encode_beside(foreign, PARKING_TABLE)])[0]
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
        channel.transact([foreign_route.encode_remove(foreign)])
    return added


def unpark(channel: Channel, parked: Foreign, table: int, ours: int) -> int:
    """Put *parked* back into *table*, then delete the copy; return an errno.

    Call it before our own route goes, of protocol *ours*. In IPv6, where it may have our route's
    metric and device, it takes that one's place; then the later delete of ours finds nothing,
    which is success. Where its owner has put it back already, that one stays, and so does ours.
    """
    put = foreign_route.encode_beside(parked, table)
    result = channel.transact([put])[0]
    if result == errno.EEXIST and isinstance(parked.route.address, IPv6Address):
        holder = dataclasses.replace(parked.route, table=table, protocol=ours, way=None)
        result = _take_place(channel, holder, foreign_route.encode_replace(parked, table), put)
    if result not in _THERE:
        return result
    channel.transact([foreign_route.encode_remove(parked)])
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
    if not route_lookup.is_certain(channel, holder):
        return errno.EBUSY
    return channel.transact([rtmsg.encode_remove(holder), beside])[1]


def _is_first(channel: Channel, route: Route, *, oif: int = 0) -> bool:
    first = route_lookup.winner(channel, route.address, oif=oif)
    return isinstance(first, rtmsg.Entry) and first.route == route


def _host_routes(table: int, oif: int = 0) -> Iterator[bytes]:
    for family, full in rtmsg.HOST.items():
        for message in route_lookup.read_table(family, table, oif=oif):
            if message[rtmsg.PREFIX_LENGTH_AT] == full:
                yield message
