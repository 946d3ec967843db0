"""The difference between desired and observed routes, in the order that leaves no gap."""

from collections.abc import Iterable
from dataclasses import dataclass

from handover_nodeagent.network import IPAddress, Route


@dataclass(frozen=True, slots=True)
class Plan:
    """Applied in this order: add, replace, remove.

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
    devices, as IPv6 allows.
    """
    left = dict.fromkeys(observed)
    add: list[Route] = []
    replace: list[Route] = []
    missing = []
    for route in sorted(desired, key=_order):
        if route in left:
            del left[route]
        else:
            missing.append(route)
    for route in missing:
        rival = next((other for other in left if _key(other) == _key(route)), None)
        if rival is None:
            add.append(route)
        else:
            del left[rival]
            replace.append(route)
    return Plan(tuple(add), tuple(replace), tuple(left))


def _key(route: Route) -> tuple[IPAddress, int, int]:
    return route.address, route.metric, route.table


def _order(route: Route) -> tuple[int, int, int, int]:
    return route.address.version, int(route.address), route.metric, route.table
