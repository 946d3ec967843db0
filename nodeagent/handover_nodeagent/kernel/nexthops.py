"""The kernel's nexthop objects that are ours, and the host routes that may use them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from handover_nodeagent.kernel import route_lookup
from handover_nodeagent.kernel.netlink import dump, nhmsg, rtmsg
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import Route


@dataclass(frozen=True, slots=True)
class Observed:
    """What there was; a nexthop object is None where it is of a kind that we never make."""

    nexthops: Mapping[int, NextHop | None] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()


def observe(table: int, protocol: int) -> Observed:
    """Return the objects with a number of ours, and the host routes of *protocol*.

    Among those may be others than distributed ones. Runs in a thread, never in the loop.
    Raises ObservationError.
    """
    shown = map(nhmsg.decode, dump.read(nhmsg.encode_dump()))
    nexthops = {number: nexthop for number, nexthop in shown if nhmsg.is_ours(number)}
    routes = (
        rtmsg.decode(message).as_ours()
        for family in rtmsg.HOST
        for message in route_lookup.read_table(family, table, protocol=protocol)
    )
    return Observed(nexthops, tuple(route for route in routes if route))
