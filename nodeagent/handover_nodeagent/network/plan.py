"""The difference between desired and observed routes, in the order that leaves no gap."""

from collections.abc import Iterable
from dataclasses import dataclass

from handover_nodeagent.network.model import Route, RouteKey


@dataclass(frozen=True, slots=True)
class Plan:
    """Applied in this order: add, replace, remove.

    A route that is there but carries something else is replaced by itself.
    A replace takes the place of the first observed route of the same key, atomically. A remove
    names its route's device, so that it never takes another one's route of the same key.
    """

    add: tuple[Route, ...] = ()
    replace: tuple[Route, ...] = ()
    remove: tuple[Route, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.replace or self.remove)


def diff(desired: Iterable[Route], observed: Iterable[Route]) -> Plan:
    """Plan the fewest changes from *observed*, which are all ours, to *desired*.

    *observed* is in the kernel's order; it may hold several routes of one key, on several
    devices, as IPv6 allows. One that is desired is never removed, however often it was seen.
    """
    wanted = frozenset(desired)
    # By what a replace goes by: the kernel looks at no device.
    by_key: dict[RouteKey, list[Route]] = {}
    for route in observed:
        by_key.setdefault(route.key, []).append(route)
    add: list[Route] = []
    replace: list[Route] = []
    # Sorted, so that the same difference is always applied in the same order.
    for route in sorted(wanted, key=_order):
        same_key = by_key.get(route.key, [])
        twin = next((other for other in same_key if other == route), None)
        if twin and twin.carried == route.carried:
            continue
        if twin:
            replace.append(route)
        elif same_key:
            # The kernel's replace takes this one out; a remove would find nothing.
            same_key.pop(0)
            replace.append(route)
        else:
            add.append(route)
    remove = tuple(
        route for same_key in by_key.values() for route in same_key if route not in wanted
    )
    return Plan(tuple(add), tuple(replace), remove)


def _order(route: Route) -> tuple[int, int, int, int]:
    return route.address.version, int(route.address), route.metric, route.table
