"""PURE: nodes, advertised endpoints and HAVE messages → one route for each address.

Kept up to date one change at a time: each returns the addresses whose routes may differ now, and
an index by address bounds its work by what changed. The order in which the API tells things does
not matter; the order of HAVE messages does, for they are news.

Of several endpoints that have an address, one is believed:

1. one whose HAVE was heard and that the API does not show yet; of several the last one;
2. not one that is itself redirected;
3. the one with the newest cutover, then the one with the higher level, then the newest object.

A source never wins against the target of the same migration that has arrived, whatever the clocks
of the two nodes say, unless a cutover of that migration is its own: then it has its guest back.
One whose object is gone counts for the grace as it was, but yields to whatever came after it.
"""

import datetime as dt
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from handover_api.names import ObjectKey
from handover_nodeagent.distribution.advertised import Endpoint
from handover_nodeagent.distribution.nodes import Node, succeed
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.network.model import IPAddress

Addresses = frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class Destination:
    """To which node an address leads, at which level, and whose word that is."""

    node: str
    level: RouteLevel
    key: ObjectKey


@dataclass(frozen=True, slots=True)
class Fired:
    """A HAVE that the API has not caught up with: of which migration, and the how manieth."""

    uid: str
    order: int


class Resolver:
    """What is known of the cluster, and to which node each address leads by that.

    Times are seconds of any clock that only grows.
    """

    def __init__(self, node: str, grace: float) -> None:
        """Decide for *node*; what is gone counts for *grace* seconds more."""
        self.node = node
        self.grace = grace
        self.nodes: dict[str, Node] = {}
        self.endpoints: dict[ObjectKey, Endpoint] = {}
        self.fired: dict[ObjectKey, Fired] = {}
        self.gone_nodes: dict[str, float] = {}
        self.gone_endpoints: dict[ObjectKey, float] = {}
        self._by_address: dict[IPAddress, set[ObjectKey]] = {}
        self._by_node: dict[str, set[ObjectKey]] = {}
        self._nodes_by_address: dict[IPAddress, set[str]] = {}
        self._order = 0

    # What the API says.

    def put_node(self, node: Node) -> Addresses:
        """Add or replace a node."""
        before = self.nodes.get(node.name)
        node = succeed(before, node)
        self.gone_nodes.pop(node.name, None)
        if node == before:
            return frozenset()
        self.nodes[node.name] = node
        touched = {*node.addresses, *(before.addresses if before else ())}
        for address in before.addresses if before else ():
            _discard(self._nodes_by_address, address, node.name)
        for address in node.addresses:
            self._nodes_by_address.setdefault(address, set()).add(node.name)
        # A guest's address that is a node's too, now or until now.
        shared = frozenset(touched & self._by_address.keys())
        # Its guests may be reached now, whose node came before its addresses.
        return shared | self._addresses_at(node.name)

    def drop_node(self, name: str, now: float) -> None:
        """Take the end of a node; its routes stay for the grace."""
        if name in self.nodes:
            self.gone_nodes[name] = now + self.grace

    def put(self, endpoint: Endpoint) -> Addresses:
        """Add or replace an endpoint: its newest version, or what this node knows of its own."""
        before = self.endpoints.get(endpoint.key)
        was_gone = self.gone_endpoints.pop(endpoint.key, None) is not None
        if endpoint == before and not was_gone:
            return frozenset()
        affected = self._forget(endpoint.key) | frozenset(endpoint.addresses)
        self.endpoints[endpoint.key] = endpoint
        self._by_node.setdefault(endpoint.node, set()).add(endpoint.key)
        for address in endpoint.addresses:
            self._by_address.setdefault(address, set()).add(endpoint.key)
        fired = self.fired.get(endpoint.key)
        if fired and (not before or before.uid != endpoint.uid or _knows(endpoint, fired.uid)):
            del self.fired[endpoint.key]
        if endpoint.node == self.node and before and endpoint.cutover != before.cutover:
            # Our own guest answered after whatever was heard of others until now.
            affected |= self._unfire(endpoint)
        return affected

    def drop(self, key: ObjectKey, now: float) -> Addresses:
        """Take the end of an endpoint; whoever else has its address goes before it from now on.

        Its route stays for the grace: somebody may have removed the CRD. Our own guests' routes
        are kept elsewhere.
        """
        endpoint = self.endpoints.get(key)
        if endpoint is None:
            return frozenset()
        fired = self.fired.get(key)
        if endpoint.node == self.node or not (endpoint.levels or fired):
            self.fired.pop(key, None)
            return self._forget(key)
        self.gone_endpoints[key] = now + self.grace
        return frozenset(endpoint.addresses)

    def expire(self, now: float) -> Addresses:
        """Forget what has been gone for the grace."""
        affected: Addresses = frozenset()
        for key in [key for key, until in self.gone_endpoints.items() if until <= now]:
            del self.gone_endpoints[key]
            self.fired.pop(key, None)
            affected |= self._forget(key)
        for name in [name for name, until in self.gone_nodes.items() if until <= now]:
            del self.gone_nodes[name]
            node = self.nodes.pop(name)
            for address in node.addresses:
                _discard(self._nodes_by_address, address, name)
            affected |= self._addresses_at(name) | self._by_address.keys() & node.addresses
        return affected

    def deadline(self) -> float | None:
        """Return when :meth:`expire` has something to do next."""
        return min((*self.gone_endpoints.values(), *self.gone_nodes.values()), default=None)

    # What a target's agent says.

    def fire(self, key: ObjectKey, uid: str) -> Addresses:
        """Take a HAVE of the endpoint's agent: the guest of migration *uid* is there.

        Where the API has shown that cutover already it is an echo, and the API may know more. One
        that was heard is not heard again, for it may be a repetition from before what came since.
        """
        endpoint, fired = self.endpoints.get(key), self.fired.get(key)
        if endpoint is None or not self._may_fire(endpoint, uid):
            return frozenset()
        if fired and fired.uid == uid:
            return frozenset()
        self._order += 1
        self.fired[key] = Fired(uid, self._order)
        return frozenset(endpoint.addresses)

    def prospects(self, key: ObjectKey) -> Mapping[IPAddress, Destination]:
        """Return where the addresses of an endpoint will lead if its HAVE comes next."""
        endpoint = self.endpoints.get(key)
        if endpoint is None or key in self.gone_endpoints or endpoint.has_arrived:
            return {}
        if key in self.fired or not any(
            self._may_fire(endpoint, uid) for uid in endpoint.migration_uids
        ):
            return {}
        destination = Destination(endpoint.node, RouteLevel.ELEVATED, key)
        return dict.fromkeys(filter(self._is_guests, endpoint.addresses), destination)

    # What follows.

    def destination(self, address: IPAddress) -> Destination | None:
        """Return where *address* leads by a route of this node's; None: by none."""
        if not self._is_guests(address):
            return None
        keys = self._by_address.get(address, ())
        found = {key: level for key in keys if (level := self._level(key, address))}
        credible = self._credible(found)
        winner = max(credible, key=lambda key: self._rank(key, found[key]), default=None)
        # Our own guests have routes of ours already.
        if winner is None or self.endpoints[winner].node == self.node:
            return None
        return Destination(self.endpoints[winner].node, found[winner], winner)

    def endpoints_with(self, addresses: Iterable[IPAddress]) -> frozenset[ObjectKey]:
        """Return the endpoints that have one of *addresses*."""
        none: frozenset[ObjectKey] = frozenset()
        return none.union(*(self._by_address.get(address, none) for address in addresses))

    def hosts(self) -> frozenset[str]:
        """Return the other nodes that have an endpoint; one that is gone has none to be reached."""
        return frozenset(self._by_node.keys() & self.nodes.keys()) - {self.node}

    def has_other_home(self, address: IPAddress) -> bool:
        """Tell whether the cluster's own routes lead to another node for *address*."""
        return any(one.is_home((address,)) for name, one in self.nodes.items() if name != self.node)

    def everything(self) -> Addresses:
        """Return all addresses that an endpoint has."""
        return frozenset(self._by_address)

    def _level(self, key: ObjectKey, address: IPAddress) -> RouteLevel | None:
        """Return at which level an endpoint attracts *address* now; None: it does not."""
        endpoint = self.endpoints[key]
        if endpoint.node != self.node and endpoint.node not in self.nodes:
            return None
        return RouteLevel.ELEVATED if key in self.fired else endpoint.levels.get(address)

    def _credible(self, found: Iterable[ObjectKey]) -> list[ObjectKey]:
        """Leave out the sources that have lost their guest, and what is gone and has a successor.

        Never all of them: the target that a source loses to is none of either.
        """
        keys = tuple(found)
        arrived = {uid for key in keys for uid in self._arrived(key)}
        living = [self.endpoints[key] for key in keys if key not in self.gone_endpoints]
        return [
            key
            for key in keys
            if not self._is_left(key, arrived)
            and not (key in self.gone_endpoints and self._has_successor(key, living))
        ]

    def _arrived(self, key: ObjectKey) -> frozenset[str]:
        """Return the migrations by which the guest has come to this endpoint, as a target."""
        endpoint, fired = self.endpoints[key], self.fired.get(key)
        if fired:
            return frozenset({fired.uid})
        is_target = endpoint.has_arrived and not endpoint.is_source
        return endpoint.migration_uids if is_target else frozenset()

    def _is_left(self, key: ObjectKey, arrived: set[str]) -> bool:
        """Tell whether the guest of this endpoint, a source, has arrived elsewhere."""
        endpoint = self.endpoints[key]
        if not endpoint.is_source or key in self.fired:
            return False
        return bool((endpoint.migration_uids & arrived) - {endpoint.cutover_uid})

    def _has_successor(self, key: ObjectKey, living: Iterable[Endpoint]) -> bool:
        gone = self.endpoints[key]
        return any(
            one.created_at > gone.created_at or one.cutover > gone.cutover or one.key in self.fired
            for one in living
        )

    def _rank(
        self, key: ObjectKey, level: RouteLevel
    ) -> tuple[int, bool, dt.datetime, bool, dt.datetime, ObjectKey]:
        """Order the endpoints that attract one address; the greatest has it."""
        endpoint, fired = self.endpoints[key], self.fired.get(key)
        return (
            fired.order if fired else 0,
            not endpoint.is_redirected,
            endpoint.cutover,
            level is RouteLevel.ELEVATED,
            endpoint.created_at,
            key,
        )

    def _may_fire(self, endpoint: Endpoint, uid: str) -> bool:
        """Tell whether a HAVE of this endpoint is news, and one that the API has prepared."""
        return (
            endpoint.node != self.node
            and endpoint.node in self.nodes
            and endpoint.key not in self.gone_endpoints
            and uid in endpoint.migration_uids
            and not _knows(endpoint, uid)
        )

    def _is_guests(self, address: IPAddress) -> bool:
        """Tell whether *address* may be a guest's: a route to a node's would cut that node off."""
        return address not in self._nodes_by_address

    def _unfire(self, endpoint: Endpoint) -> Addresses:
        """Let what was fired for an address of *endpoint* count no more."""
        rivals = {key for address in endpoint.addresses for key in self._by_address[address]}
        unfired = rivals & self.fired.keys()
        for key in unfired:
            del self.fired[key]
        none: Addresses = frozenset()
        return none.union(*(self.endpoints[key].addresses for key in unfired))

    def _forget(self, key: ObjectKey) -> Addresses:
        endpoint = self.endpoints.pop(key, None)
        if endpoint is None:
            return frozenset()
        _discard(self._by_node, endpoint.node, key)
        for address in endpoint.addresses:
            _discard(self._by_address, address, key)
        return frozenset(endpoint.addresses)

    def _addresses_at(self, name: str) -> Addresses:
        keys = self._by_node.get(name, ())
        return frozenset(one for key in keys for one in self.endpoints[key].addresses)


def _knows(endpoint: Endpoint, uid: str) -> bool:
    """Tell whether this version of an endpoint is one of after its cutover for *uid*.

    A version with which *uid* has nothing to do any more is younger than that, too.
    """
    if uid not in endpoint.migration_uids:
        return True
    return endpoint.cutover_uid == uid or endpoint.has_arrived


_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V", bound=Hashable)


def _discard(index: dict[_K, set[_V]], key: _K, value: _V) -> None:
    """Take *value* out and leave no empty entry behind: pods come and go for years."""
    index[key].discard(value)
    if not index[key]:
        del index[key]
