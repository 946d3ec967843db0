"""PURE: what is compared: who carries the routes, with the source's redirect or without, and where.

Each row is a number of migrations, half of them there and half back.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from handover_lab.network.carriers import Carrier
from handover_lab.network.topology import Topology

CARRIERS: Final[tuple[Carrier, ...]] = ("none", "bird", "frr", "agents")
"""With "none" a person leads everybody to the VM, LATE_S after it has moved."""
TOPOLOGIES: Final[tuple[Topology, ...]] = ("segment", "routed")
LATE_S: Final = 1.0

NAMES: Final = {"none": "1 s late", "bird": "BIRD", "frr": "FRR", "agents": "agents"}


@dataclass(frozen=True, slots=True)
class Row:
    """One way in which a cluster can follow a guest."""

    topology: Topology
    carrier: Carrier
    redirect: bool

    @property
    def words(self) -> frozenset[str]:
        """What a person may call it by."""
        redirect = "redirect" if self.redirect else "plain"
        return frozenset({self.topology, self.carrier, redirect})

    @property
    def title(self) -> str:
        """Name it in tables and pictures."""
        redirect = " + redirect" if self.redirect else ""
        return f"{NAMES[self.carrier]}{redirect}, {self.topology}"


ROWS: Final = tuple(
    Row(topology, carrier, redirect)
    for topology, carrier, redirect in itertools.product(TOPOLOGIES, CARRIERS, (False, True))
)
"""In the order in which they cost least to measure: a cluster per topology, a mesh per carrier."""


def choose(words: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows that all *words* of the same kind leave: "bird frr routed", say.

    Raises:
        ValueError: a word is of no row.
    """
    kinds: tuple[frozenset[str], ...] = (
        frozenset(TOPOLOGIES),
        frozenset(CARRIERS),
        frozenset({"plain", "redirect"}),
    )
    if unknown := set(words) - frozenset().union(*kinds):
        known = ", ".join(sorted(frozenset().union(*kinds)))
        message = f"{' '.join(sorted(unknown))}: no row is called so, but {known}"
        raise ValueError(message)
    wanted = [kind & set(words) or kind for kind in kinds]
    return tuple(row for row in ROWS if all(row.words & kind for kind in wanted))
