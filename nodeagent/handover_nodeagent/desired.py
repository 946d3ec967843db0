"""The desired network of this node, kept up to date one endpoint at a time.

A route's key is (address, metric) over all endpoints of the node; its owner is Live before
TimeWait before Base, then the newest endpoint. An index by address bounds the work of each change
by the addresses of the endpoint that changed.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.machine import RouteLevel
from handover_nodeagent.network import IPAddress, Link, Neigh, Route


@dataclass(frozen=True, slots=True)
class Local:
    """One endpoint of this node, as far as the network is concerned.

    ``addresses`` are the allowed ones of its spec; ``link`` is None while nobody can name its
    interface; ``standing`` is the state that decides its routes (``machine.settled``);
    ``owned`` is false where another one programs its routes (``is_owned``).
    """

    key: ObjectKey
    addresses: tuple[IPAddress, ...]
    level: RouteLevel
    standing: State
    link: Link | None = None
    mac: str | None = None
    created_at: dt.datetime | None = None
    owned: bool = True


@dataclass(frozen=True, slots=True)
class Touched:
    """Where the desired network may differ after a change."""

    addresses: frozenset[IPAddress]
    interfaces: frozenset[str]


class Desired:
    """The desired network; deterministic and without effect outside of itself."""

    def __init__(self, settings: Settings) -> None:
        """Start empty; a change of *settings* means a new one, filled anew."""

    def put(self, local: Local) -> Touched:
        """Add or replace one endpoint; it claims its addresses from orphans."""
        raise NotImplementedError

    def drop(self, key: ObjectKey, *, orphan: bool = False) -> Touched:
        """Forget one endpoint; with *orphan* its routes stay until somebody claims them."""
        raise NotImplementedError

    def adopt(self, orphan: Route) -> Touched:
        """Take in an orphan of a former run of the agent."""
        raise NotImplementedError

    def lose_link(self, oif: int) -> Touched:
        """Forget the orphans of an interface that is gone."""
        raise NotImplementedError

    def orphans(self) -> frozenset[Route]:
        """Return the orphans, to be remembered."""
        raise NotImplementedError

    def routes(self, addresses: Iterable[IPAddress]) -> frozenset[Route]:
        """Return the routes wanted for *addresses*."""
        raise NotImplementedError

    def neighs(self, routes: Iterable[Route]) -> tuple[Neigh, ...]:
        """Return the neighbour entries to seed together with *routes*."""
        raise NotImplementedError

    def guard(self, interfaces: Iterable[str]) -> Mapping[str, frozenset[IPv4Address]]:
        """Return the guarded addresses of *interfaces*, those without any included."""
        raise NotImplementedError

    def claimed(self, addresses: Iterable[IPAddress]) -> frozenset[IPAddress]:
        """Return those for which a foreign host route is to be parked."""
        raise NotImplementedError

    def sharers(self, key: ObjectKey) -> Mapping[IPAddress, tuple[ObjectKey, ...]]:
        """Return the other endpoints of this node that name an address of *key*."""
        raise NotImplementedError


def routes_at(local: Local, at: RouteLevel, settings: Settings) -> tuple[Route, ...]:
    """Return the routes that *local* would have at a level, as if it were alone.

    What a Target's cutover is prepared from.
    """
    raise NotImplementedError
