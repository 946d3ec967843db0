"""The difference between desired and observed routes, in the order that leaves no gap."""

from collections.abc import Iterable
from dataclasses import dataclass

from handover_nodeagent.network import Route


@dataclass(frozen=True, slots=True)
class Plan:
    """Applied in this order: add, replace, remove. A remove names its route's device."""

    add: tuple[Route, ...] = ()
    replace: tuple[Route, ...] = ()
    remove: tuple[Route, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.replace or self.remove)


def diff(desired: Iterable[Route], observed: Iterable[Route]) -> Plan:
    """Plan the fewest changes from *observed*, which are all ours, to *desired*."""
    raise NotImplementedError
