"""PURE: what is compared: who carries the routes, what the source does about late packets, where.

The source sends on what still comes to it (redirect) or not, and sends again what the guest did not
take while it was paused (resend) or not; the latter needs the former.
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
    resend: bool = False

    @property
    def words(self) -> frozenset[str]:
        """What a person may call it by."""
        source = "resend" if self.resend else "redirect" if self.redirect else "plain"
        return frozenset({self.topology, self.carrier, source})

    @property
    def title(self) -> str:
        """Name it in tables and pictures."""
        added = added_by(redirect=self.redirect, resend=self.resend)
        return f"{NAMES[self.carrier]}{added}, {self.topology}"


def added_by(*, redirect: bool, resend: bool) -> str:
    """Say what the source does, behind the name of who carries the routes."""
    return " + redirect" * redirect + " + resend" * resend


SOURCES: Final = ((False, False), (True, False), (True, True))
"""Redirect and resend."""
ROWS: Final = tuple(
    Row(topology, carrier, *source)
    for topology, carrier, source in itertools.product(TOPOLOGIES, CARRIERS, SOURCES)
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
        frozenset({"plain", "redirect", "resend"}),
    )
    if unknown := set(words) - frozenset().union(*kinds):
        known = ", ".join(sorted(frozenset().union(*kinds)))
        message = f"{' '.join(sorted(unknown))}: no row is called so, but {known}"
        raise ValueError(message)
    wanted = [kind & set(words) or kind for kind in kinds]
    return tuple(row for row in ROWS if all(row.words & kind for kind in wanted))
