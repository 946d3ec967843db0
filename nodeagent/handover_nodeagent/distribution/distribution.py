"""The loop that joins the room: what the API and a HAVE say → what the kernel has.

Nothing is written before both lists are complete and the kernel was observed: until then routes
that an agent before this one left stay as they are, and only then those that nobody wants go.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import structlog

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.distribution import advertised, lookup, notifications
from handover_nodeagent.distribution.advertised import Endpoint
from handover_nodeagent.distribution.known import Slot, ViaNextHop
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.notifications import Doubt
from handover_nodeagent.distribution.resolver import Destination, Resolver
from handover_nodeagent.distribution.routes import DistributedRoutes, Prepared
from handover_nodeagent.kernel import nexthops
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.codec import ObservationError
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.retry.timers import Retry

SLICE: Final = 32
"""Addresses whose routes are written in one turn of the loop: a guest may announce itself."""
NODES: Final = 16
"""Nodes for which the kernel is asked in one turn of the loop."""
REST: Final = 0.1
"""Seconds between two looks, however much happens."""
LOOKUP: Final = 10.0
"""Seconds between two looks at how nodes are reached: a BGP speaker's routes are not heard of."""
REFRESH: Final = 300.0
"""Seconds between two observations that nobody asks for."""
ATTEMPTS: Final = 8
"""So often our routes are observed anew because we changed some meanwhile."""

_log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent distributes: which node it is, and what of others' it must leave alone."""

    node: str
    settings: Settings
    api_servers: AbstractSet[IPAddress] = frozenset()
    is_paused: Callable[[ObjectKey], bool] = field(default=lambda _: False)


class Distribution:
    """Keeps this node's routes to guests on other nodes, while :meth:`run` runs."""

    def __init__(
        self, place: Place, channel: Channel, own_node_changed: Callable[[], None] = lambda: None
    ) -> None:
        """Call *own_node_changed* when what is at home on this node may be otherwise."""
        settings = place.settings
        self.place = place
        self.resolver = Resolver(
            place.node, settings.live_migration_route_convergence_time.total_seconds()
        )
        protocol = settings.route_protocol + 1
        self.routes = DistributedRoutes(channel, settings.route_table, protocol)
        self.refused: dict[IPAddress, str] = {}
        self.unreachable: set[Slot] = set()
        self._channel = channel
        self._protocol = protocol
        self._own_node_changed = own_node_changed
        self._hops: dict[Slot, NextHop] = {}
        self._prepared: dict[ObjectKey, Prepared] = {}
        self._dirty: dict[IPAddress, None] = {}
        self._turn: asyncio.Handle | None = None
        self._retry = Retry(self._try_again)
        self._synced: set[str] = set()
        self._outages: set[str] = set()
        self._is_observed = False
        self._wanted = asyncio.Event()
        self._must_observe = True

    # What the lists say; each has a name.

    @property
    def is_ready(self) -> bool:
        """Tell whether enough is known to write anything."""
        return self._is_observed and len(self._synced) == len(LISTS)

    def synced(self, collection: str) -> None:
        """Know that a list is complete."""
        self._outages.discard(collection)
        was_ready = self.is_ready
        self._synced.add(collection)
        if self.is_ready and not was_ready:
            self._touch_all()
        # What has been gone meanwhile may be over its grace by now.
        self._wanted.set()

    def outage(self, collection: str) -> None:
        """Know that changes may be missed: nothing expires until the list is complete again."""
        self._outages.add(collection)

    def put_node(self, node: Node) -> None:
        """Take a node that is new or has changed."""
        before = self.resolver.nodes.get(node.name)
        affected = self.resolver.put_node(node)
        if node.name == self.place.node:
            if before != self.resolver.nodes[node.name]:
                self._own_node_changed()
        elif self.is_ready:
            # One message moves all routes to a node whose address is another one now.
            self._look_up(slot for slot in tuple(self._hops) if slot[0] == node.name)
        self._touch(affected)

    def drop_node(self, name: str) -> None:
        """Take the end of a node."""
        self.resolver.drop_node(name, self._now())
        self._wanted.set()

    def put(self, endpoint: Endpoint) -> None:
        """Take an advertised endpoint, or one of our own as it stands now."""
        self._touch(self.resolver.put(endpoint))

    def drop(self, key: ObjectKey) -> None:
        """Take the end of an endpoint."""
        self._touch(self.resolver.drop(key, self._now()))
        self._prepared.pop(key, None)
        self._wanted.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # What a target's agent says.

    def bystander_has(self, key: ObjectKey, uid: str) -> None:
        """Fire what was prepared: the guest of migration *uid* is at endpoint *key* now."""
        affected = self.resolver.fire(key, uid)
        if not affected:
            return
        prepared = self._prepared.pop(key, ())
        if self.is_ready and prepared:
            self.routes.fire(prepared)
        metrics.FIRED.inc()
        # What was not prepared, what was refused, and what has to go now.
        self._touch(affected)

    def _prepare(self, addresses: Iterable[IPAddress]) -> None:
        """Encode anew what a HAVE would fire for those that have one of *addresses*."""
        for key in self.resolver.endpoints_with(addresses):
            found = self.resolver.prospects(key)
            routes = [self._route(address, one) for address, one in found.items()]
            if found and None not in routes and not self.place.is_paused(key):
                self._prepared[key] = self.routes.prepare(route for route in routes if route)
            else:
                self._prepared.pop(key, None)

    # From what is known to the kernel.

    def _touch(self, addresses: Iterable[IPAddress]) -> None:
        self._dirty.update(dict.fromkeys(addresses))
        if self._dirty and self.is_ready and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._work)

    def _touch_all(self) -> None:
        self._touch(self.resolver.everything() | self.routes.known.addresses())

    def _work(self) -> None:
        """Bring the routes to some addresses to what is wanted, and go on in the next turn."""
        self._turn = None
        addresses = [address for address, _ in zip(self._dirty, range(SLICE), strict=False)]
        for address in addresses:
            del self._dirty[address]
        try:
            self._apply(addresses)
        finally:
            self._touch(())

    def _apply(self, addresses: Iterable[IPAddress]) -> None:
        touched = tuple(addresses)
        wanted: dict[IPAddress, ViaNextHop | None] = {}
        for address in touched:
            self.refused.pop(address, None)
            destination = self.resolver.destination(address)
            if any(map(self.place.is_paused, self.resolver.endpoints_with([address]))):
                continue
            route = self._route(address, destination) if destination else None
            # Nobody knows how its node is reached now: what is there stays.
            if destination is None or route:
                wanted[address] = route
        refused = self.routes.apply(wanted)
        self._prepare(touched)
        if refused:
            self.refused.update(refused)
            self._observe_soon()
            self._retry.failed()
        elif not self.refused:
            self._retry.succeeded()
        self._count()

    def _route(self, address: IPAddress, destination: Destination) -> ViaNextHop | None:
        """Return the route to *address*; None while its node is reached by nothing."""
        slot = destination.node, address.version
        if not self._has_way(slot):
            self._look_up([slot])
        if not self._has_way(slot):
            return None
        metric = advertised.metric(address, destination.level, self.place.settings)
        return ViaNextHop(address, metric, self.routes.known.numbers[slot])

    def _has_way(self, slot: Slot) -> bool:
        """Tell whether a node's nexthop object is in the kernel."""
        number = self.routes.known.numbers.get(slot)
        return slot in self._hops and self.routes.known.nexthops.get(number or 0) is not None

    def _try_again(self) -> None:
        self._touch(tuple(self.refused))

    def _count(self) -> None:
        metrics.DISTRIBUTED.set(len(self.routes.known.addresses()))
        metrics.UNREACHABLE.set(len(self.unreachable))

    # How nodes are reached.

    def _look_up(self, slots: Iterable[Slot]) -> None:
        """Ask how nodes are reached; a way that is gone stays until there is another one."""
        for slot in slots:
            name, version = slot
            node = self.resolver.nodes.get(name)
            hop = lookup.to_node(self._channel, node, version) if node else None
            refusal = ""
            if isinstance(hop, NextHop):
                refusal = self.routes.put_nexthop(slot, hop)
                if not refusal:
                    self._hops[slot] = hop
            is_reached = isinstance(hop, NextHop) and not refusal
            if is_reached == (slot in self.unreachable):
                (self.unreachable.discard if is_reached else self.unreachable.add)(slot)
                _log.info("node_reached", node=name, family=version, by=str(hop), why=refusal)

    async def _look_up_all(self) -> None:
        """Ask for all nodes that have an advertised endpoint, some in each turn of the loop."""
        hosts = self.resolver.hosts()
        gone = [slot for slot in self._hops if slot[0] not in hosts]
        for slot in gone:
            del self._hops[slot]
        self.routes.known.forget(gone)
        self.unreachable = {slot for slot in self.unreachable if slot[0] in hosts}
        slots = tuple({*self._hops, *self.unreachable})
        before = set(self.unreachable)
        for start in range(0, len(slots), NODES):
            self._look_up(slots[start : start + NODES])
            await asyncio.sleep(0)
        if before - self.unreachable:
            # Their routes waited for that.
            self._touch_all()
        self.routes.remove_unused()

    # In step with the kernel.

    async def run(self) -> None:
        """Keep the kernel at what is wanted, until cancelled; what is there stays then."""
        listening = notifications.listen(self._heard, self._channel.port, self._protocol)
        try:
            while True:
                await self._look()
                # What comes together is looked at together.
                await asyncio.sleep(REST)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._rest()):
                        await self._wanted.wait()
        finally:
            listening.close()
            self._retry.cancel()
            if self._turn:
                self._turn.cancel()

    async def remove(self) -> None:
        """Remove all routes and nexthop objects of this room, known so far or not."""
        await self._observe()
        self.routes.remove_all()
        self._count()

    def _rest(self) -> float:
        deadline = self.resolver.deadline()
        if deadline is None or self._outages:
            return LOOKUP
        return min(LOOKUP, max(0.0, deadline - self._now()))

    async def _look(self) -> None:
        self._wanted.clear()
        if self._must_observe or self._now() >= self._observed_at + REFRESH:
            try:
                await self._observe()
            except ObservationError as error:
                _log.warning("cannot_observe", why=str(error))
                self._must_observe = True
        if not self.is_ready:
            return
        # While the API is out nobody knows whether what is gone came back.
        if not self._outages:
            self._touch(self.resolver.expire(self._now()))
        await self._look_up_all()

    _observed_at = 0.0

    async def _observe(self) -> None:
        """Read what is there. Raises ObservationError."""
        settings = self.place.settings
        for _ in range(ATTEMPTS):
            self._must_observe = False
            before = self.routes.writes
            # In a thread: a dump of many routes takes longer than a guest may wait.
            found = await asyncio.to_thread(nexthops.observe, settings.route_table, self._protocol)
            if before == self.routes.writes:
                break
        else:
            self._observe_soon()
        self._observed_at = self._now()
        was_ready = self.is_ready
        # At other metrics this protocol has the redirects that nobody exports.
        ours = (one for one in found.routes if advertised.is_metric(one.metric, settings))
        changed = self.routes.known.load(found.nexthops, map(ViaNextHop.of, ours))
        self._is_observed = True
        if self.is_ready and not was_ready:
            self._touch_all()
        # What somebody took away comes back, and what somebody changed is changed back.
        self._touch(changed)

    def _observe_soon(self) -> None:
        self._must_observe = True
        self._wanted.set()

    def _heard(self, doubt: Doubt) -> None:
        # With a link that goes down the kernel takes what uses it, and tells nobody.
        if doubt.are_ours or doubt.link in {hop.oif for hop in self._hops.values()}:
            self._must_observe = True
        elif doubt.link:
            return
        self._wanted.set()


LISTS: Final = ("nodes", "endpoints")
"""The collections that must be complete."""
