"""PURE: how a plan goes into the kernel so that no guest is cut off: in which steps, what may go.

``route_writer`` carries them out.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Address

from handover_nodeagent.network.desired import DesiredNetwork
from handover_nodeagent.network.model import Route
from handover_nodeagent.network.plan import Plan
from handover_nodeagent.routes.collisions import Collisions
from handover_nodeagent.routes.observed import ObservedRoutes
from handover_nodeagent.routes.observed_foreign import ObservedForeign


@dataclass(frozen=True, slots=True)
class Steps:
    """A plan in this order: add, replace, put beside, remove.

    What is put beside others of its key goes in behind them; what of ours it is to replace is
    among those to remove.
    """

    add: tuple[Route, ...]
    replace: tuple[Route, ...]
    beside: tuple[Route, ...]
    remove: tuple[Route, ...]


def order(plan: Plan, ours: ObservedRoutes, collisions: Collisions) -> Steps:
    """Tell apart what may replace a route of ours and what has to be put beside it.

    In IPv4 a replace takes the first route of its key, and that may be a gateway's; and it is
    refused where the route is there already, behind that one.
    """
    beside = tuple(
        route
        for route in plan.replace
        if isinstance(route.address, IPv4Address)
        and (collisions.has_gateway(route) or ours.of(route.address).count(route) > 1)
    )
    keys = {route.key for route in beside}
    former = (
        other
        for route in beside
        for other in ours.of(route.address)
        if other.key in keys and other != route and other not in plan.remove
    )
    replace = tuple(route for route in plan.replace if route not in beside)
    return Steps(plan.add, replace, beside, (*plan.remove, *former))


def may_go(
    route: Route,
    removable: AbstractSet[int] | None,
    desired: DesiredNetwork,
    foreign: ObservedForeign,
) -> bool:
    """Tell whether a route that nobody wants may go, so that no guest is cut off.

    Before the first sync somebody may come who wants it: until then only what is on *removable*
    devices goes, and what was meant for a moment that is over. And where an endpoint is no longer
    ours to serve, or its interface is unknown, somebody else must have a route to it, in the latter
    case on the same device.
    """
    is_known = removable is None or route.oif in removable
    if not (is_known or desired.is_held(route)):
        return False
    if desired.is_unplaced(route.address):
        return foreign.has(route.address, oif=route.oif)
    return foreign.has(route.address) or not desired.is_not_owned(route.address)
