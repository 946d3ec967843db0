"""The loop that joins the room: what the API and a HAVE say → what the kernel has.

Nothing is written before both lists are complete and the kernel was observed: until then routes
that an agent before this one left stay as they are, and only then those that nobody wants go.
"""

import asyncio
import contextlib
import enum
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import structlog

from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_nodeagent import metrics
from handover_nodeagent.distribution import advertised, notifications
from handover_nodeagent.distribution.advertised import Endpoint
from handover_nodeagent.distribution.forwarding import Forwarding
from handover_nodeagent.distribution.hops import Hops
from handover_nodeagent.distribution.known import ViaNextHop
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.notifications import Doubt
from handover_nodeagent.distribution.place import Heard, Nobody, Place, Speakers
from handover_nodeagent.distribution.resolver import Destination, Resolver
from handover_nodeagent.distribution.routes import DistributedRoutes, Prepared
from handover_nodeagent.distribution.underlay import Underlay
from handover_nodeagent.kernel import nexthops
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.codec import ObservationError
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
SURVEY: Final = 60.0
"""Seconds between two looks at how all nodes are reached, whether they have a guest or not."""
REFRESH: Final = 300.0
"""Seconds between two observations that nobody asks for."""
ATTEMPTS: Final = 8
"""So often our routes are observed anew because we changed some meanwhile."""

_log: Final = structlog.get_logger()


class Collection(enum.Enum):
    """What is listed and watched."""

    NODES = enum.auto()
    ENDPOINTS = enum.auto()


class Distribution:
    """Keeps this node's routes to guests on other nodes, while :meth:`run` runs."""

    def __init__(self, place: Place, channel: Channel, speakers: Speakers | None = None) -> None:
        """Write by *channel*; tell *speakers* whom to believe."""
        settings = place.settings
        grace = settings.live_migration_route_convergence_time.total_seconds()
        protocol = settings.private_route_protocol
        self.place = place
        self.resolver = Resolver(place.node, grace)
        self.routes = DistributedRoutes(channel, settings.route_table, protocol)
        port = settings.distribution_port
        self._underlay = Underlay(channel, port, place.let, self._published, place.is_enclosed)
        self.hops = Hops(channel, self.resolver.nodes, self.routes, self._underlay)
        self._forwarding = Forwarding(self.routes.known, self.resolver, self.hops, place.forward)
        self.refused: dict[IPAddress, str] = {}
        self.strict_devices: frozenset[str] = frozenset()
        self._channel = channel
        self._speakers = speakers or Nobody()
        self._spoken_for: dict[ObjectKey, Peer] = {}
        self._prepared: dict[ObjectKey, Prepared] = {}
        self._remembered: tuple[Heard, ...] = ()
        self._dirty: dict[IPAddress, None] = {}
        self._turn: asyncio.Handle | None = None
        self._retry = Retry(self._try_again)
        self._synced: set[Collection] = set()
        self._outages: set[Collection] = set()
        self._observed_at: float | None = None
        self._surveyed: tuple[Mapping[str, Node], AbstractSet[int]] = {}, frozenset()
        self._surveyed_at = 0.0
        self._must_observe = True
        self._wanted = asyncio.Event()

    # What the lists say.

    @property
    def is_ready(self) -> bool:
        """Tell whether enough is known to write anything."""
        return self._observed_at is not None and len(self._synced) == len(Collection)

    @property
    def knows_nodes(self) -> bool:
        """Tell whether the list of nodes was complete once."""
        return Collection.NODES in self._synced

    def synced(self, collection: Collection) -> None:
        """Know that a list is complete."""
        self._outages.discard(collection)
        if collection not in self._synced:
            self._synced.add(collection)
            self.place.changed()
            self._get_ready()
        # What has been gone meanwhile may be over its grace by now.
        self._wanted.set()

    def outage(self, collection: Collection) -> None:
        """Know that changes may be missed: nothing expires until the list is complete again."""
        self._outages.add(collection)

    def put_node(self, node: Node) -> None:
        """Take a node that is new or has changed."""
        before = self.resolver.nodes.get(node.name)
        affected = self.resolver.put_node(node)
        if self.resolver.nodes[node.name] == before:
            return
        is_own = node.name == self.place.node
        if is_own and self.knows_nodes:
            self.place.changed()
        if self.is_ready:
            # One message moves all routes to a node whose address is another one now. Ours is what
            # we send from, to each that the tunnel leads to.
            slots = self.hops.slots
            self.hops.look_up([slot for slot in slots if is_own or slot[0] == node.name])
        self._wanted.set()
        self._touch(affected)

    def _published(self) -> tuple[IPAddress, ...]:
        own = self.resolver.nodes.get(self.place.node)
        return own.published if own else ()

    def drop_node(self, name: str) -> None:
        """Take the end of a node."""
        self.resolver.drop_node(name, self._now())
        self._wanted.set()

    def put(self, endpoint: Endpoint, speaker: Peer | None = None) -> None:
        """Take an advertised endpoint, and who speaks for it; or one of our own as it is now."""
        affected = self.resolver.put(endpoint)
        if endpoint.node != self.place.node:
            self._let_speak(endpoint.key, speaker)
        if {address.version for address in endpoint.addresses} - self._surveyed[1]:
            # For the first guest of a family others may have the tunnel alone.
            self._wanted.set()
        self._touch(affected)

    def drop(self, key: ObjectKey) -> None:
        """Take the end of an endpoint."""
        self._touch(self.resolver.drop(key, self._now()))
        self._prepared.pop(key, None)
        self._expect()
        self._let_speak(key, None)
        self._wanted.set()

    def _let_speak(self, key: ObjectKey, speaker: Peer | None) -> None:
        """Have an endpoint's HAVE believed by whom the API names; None: by nobody's word."""
        if speaker:
            self._spoken_for[key] = speaker
        else:
            self._spoken_for.pop(key, None)
        self._speakers.know_advertised(key, speaker)

    # What a target's agent says.

    def bystander_has(self, key: ObjectKey, uid: str) -> bool:
        """Fire what was prepared: the guest of migration *uid* is at endpoint *key* now.

        Return whether its addresses lead there.
        """
        affected = self.resolver.fire(key, uid)
        if affected:
            prepared = self._prepared.pop(key, ())
            if self.is_ready and prepared:
                self.routes.fire(prepared)
            metrics.FIRED.inc()
            # What was not prepared, what was refused, and what has to go now.
            self._touch(affected)
        return self.is_ready and self._is_followed(key)

    def _is_followed(self, key: ObjectKey) -> bool:
        endpoint = self.resolver.endpoints.get(key)
        for address in endpoint.addresses if endpoint else ():
            destination = self._destination(address)
            route = self._route(address, destination) if destination else None
            if route and self.routes.known.change(route):
                return False
        return endpoint is not None

    def _prepare(self, addresses: Iterable[IPAddress]) -> None:
        """Encode anew what a HAVE would fire for those that have one of *addresses*."""
        for key in self.resolver.endpoints_with(addresses):
            found = {
                address: one
                for address, one in self.resolver.prospects(key).items()
                if not self._is_left_to_home(address, one)
            }
            routes = [self._route(address, one) for address, one in found.items()]
            if found and None not in routes and not self.place.is_paused(key):
                self._prepared[key] = self.routes.prepare(route for route in routes if route)
            else:
                self._prepared.pop(key, None)
        self._expect()

    def _expect(self) -> None:
        self.place.expect(is_expected=bool(self._prepared))

    def _remember(self) -> None:
        fired = sorted(self.resolver.fired.items(), key=lambda item: item[1].order)
        heard = tuple((key, one.uid) for key, one in fired)
        if heard != self._remembered:
            self._remembered = heard
            self.place.remember(heard)

    # From what is known to the kernel.

    def refresh(self) -> None:
        """Compare all that is known with what is wanted."""
        self._touch(self.resolver.everything() | self.routes.known.addresses())

    def _get_ready(self) -> None:
        """Begin to write, once all is known; what was heard before a restart counts as before."""
        if not self.is_ready:
            return
        for key, uid in self.place.recall():
            self.resolver.fire(key, uid)
        self.refresh()

    def _touch(self, addresses: Iterable[IPAddress]) -> None:
        self._dirty.update(dict.fromkeys(addresses))
        if self._dirty and self.is_ready and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._work)

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

    def _apply(self, addresses: list[IPAddress]) -> None:
        wanted: dict[IPAddress, ViaNextHop | None] = {}
        for address in addresses:
            self.refused.pop(address, None)
            destination = self._destination(address)
            if any(map(self.place.is_paused, self.resolver.endpoints_with([address]))):
                continue
            route = self._route(address, destination) if destination else None
            # Nobody knows how its node is reached now: what is there stays.
            if destination is None or route:
                wanted[address] = route
        refused = self.routes.apply(wanted)
        if self.hops.has_new_devices():
            # Whether their filters let through what others send is looked at soon.
            self._wanted.set()
        self._forwarding.follow(addresses)
        self._prepare(addresses)
        self._remember()
        if refused:
            self.refused.update(refused)
            self._observe_soon()
            self._retry.failed()
        elif not self.refused:
            self._retry.succeeded()
        metrics.DISTRIBUTED.set(len(self.routes.known.addresses()))

    def _destination(self, address: IPAddress) -> Destination | None:
        """Return where *address* is to lead by a route of this node's; None: by none."""
        found = self.resolver.destination(address)
        return None if found and self._is_left_to_home(address, found) else found

    def _is_left_to_home(self, address: IPAddress, destination: Destination) -> bool:
        """Tell whether the CNI's route is better: its packets are answered, by way of the home."""
        is_one_way = self.hops.is_one_way((destination.node, address.version))
        return is_one_way and self.resolver.has_other_home(address)

    def _route(self, address: IPAddress, destination: Destination) -> ViaNextHop | None:
        """Return the route to *address*; None while its node is reached by nothing."""
        number = self.hops.number((destination.node, address.version))
        metric = advertised.metric(address, destination.level, self.place.settings)
        return None if number is None else ViaNextHop(address, metric, number)

    def _try_again(self) -> None:
        self._touch(tuple(self.refused))

    # In step with the kernel.

    async def run(self) -> None:
        """Keep the kernel at what is wanted, until cancelled; what is there stays then."""
        protocol = self.place.settings.private_route_protocol
        listening = notifications.listen(self._heard, self._channel.port, protocol)
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
            self.place.expect(is_expected=False)
            self._fall_silent()

    async def remove(self) -> None:
        """Remove all routes and nexthop objects of this room, known so far or not.

        Raises ObservationError.
        """
        await self._observe()
        self.routes.remove_all()
        self._forwarding.forget()
        self._underlay.remove()
        metrics.DISTRIBUTED.set(0)

    def _fall_silent(self) -> None:
        """Have nobody's HAVE believed, and nobody hear of ours: nothing follows it here."""
        self._speakers.know_nodes({})
        for key in tuple(self._spoken_for):
            self._let_speak(key, None)

    def _rest(self) -> float:
        deadline = self.resolver.deadline()
        if deadline is None or self._outages:
            return LOOKUP
        return min(LOOKUP, max(0.0, deadline - self._now()))

    async def _look(self) -> None:
        self._wanted.clear()
        is_old = self._observed_at is None or self._now() >= self._observed_at + REFRESH
        if self._must_observe or is_old:
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
        nodes = self.resolver.nodes
        others = {name: one.addresses for name, one in nodes.items() if name != self.place.node}
        self._speakers.know_nodes(others)
        # Told again now and then: the path may be another one by now.
        for key, speaker in self._spoken_for.items():
            self._speakers.know_advertised(key, speaker)
        metrics.NODES.set(len(others))
        await self._look_up()
        guests = {address.version for address in self.resolver.everything()}
        seen = dict(nodes), guests
        if self._now() >= self._surveyed_at + SURVEY or self._surveyed != seen:
            self._surveyed, self._surveyed_at = seen, self._now()
            await self._survey(*seen)
        self._forwarding.tell()
        self._observe_reverse_path()

    async def _look_up(self) -> None:
        """Ask for all nodes that have an advertised endpoint, some in each turn of the loop."""
        self.hops.keep(self.resolver.hosts())
        self._underlay.try_again()
        before, slots = set(self.hops.unreachable), self.hops.slots
        one_way = set(self.hops.one_way)
        for start in range(0, len(slots), NODES):
            self.hops.look_up(slots[start : start + NODES])
            await asyncio.sleep(0)
        if before - self.hops.unreachable or one_way != self.hops.one_way:
            # Their routes waited for that.
            self.refresh()
        metrics.UNREACHABLE.set(len(self.hops.unreachable))
        self.routes.remove_unused()

    async def _survey(self, nodes: Mapping[str, Node], guests: AbstractSet[int]) -> None:
        """See from which nodes nothing but the second tunnel can lead here.

        Also those without a guest: they are to send to ours.
        """
        far = []
        for number, node in enumerate(nodes.values()):
            if node.name != self.place.node and self._underlay.is_far(node, guests):
                far.append(node)
            if number % NODES == NODES - 1:
                await asyncio.sleep(0)
        self._underlay.admit(far)

    async def _observe(self) -> None:
        """Read what is there. Raises ObservationError."""
        settings, protocol = self.place.settings, self.place.settings.private_route_protocol
        for _ in range(ATTEMPTS):
            self._must_observe = False
            self._underlay.look_again()
            before = self.routes.writes
            # In a thread: a dump of many routes takes longer than a guest may wait.
            found = await asyncio.to_thread(nexthops.observe, settings.route_table, protocol)
            if before == self.routes.writes:
                break
        else:
            self._observe_soon()
        is_first = self._observed_at is None
        self._observed_at = self._now()
        # At other metrics this protocol has the redirects that nobody exports; but by our objects
        # also what other priorities have left, which would win over the guest's own by now.
        ours = (
            one
            for one in map(ViaNextHop.of, found.routes)
            if one.nexthop or advertised.is_metric(one.metric, settings)
        )
        changed = self.routes.known.load(found.nexthops, ours)
        if is_first:
            # What an agent before this one forwarded, whatever is known of homes so far.
            self._forwarding.follow(self.routes.known.addresses())
            self._get_ready()
        # What somebody took away comes back, and what somebody changed is changed back.
        self._touch(changed)

    def _observe_reverse_path(self) -> None:
        """See on which devices clients outside of the cluster would be lost."""
        strict = self.hops.strict_devices()
        if strict != self.strict_devices:
            self.strict_devices = strict
            self.place.changed()

    def look_soon(self) -> None:
        """Look at the ways to all nodes anew, and at who has no other than the tunnel."""
        self._surveyed_at = -SURVEY
        self._wanted.set()

    def _observe_soon(self) -> None:
        self._must_observe = True
        self._wanted.set()

    def _heard(self, doubt: Doubt) -> None:
        # Others may send by it, also where nothing of ours does.
        is_tunnel = bool(doubt.link) and self._underlay.is_at(doubt.link)
        if is_tunnel:
            self._surveyed_at = -SURVEY
        # With a link that goes down the kernel takes what uses it, and tells nobody.
        if doubt.are_ours or self.hops.uses(doubt.link):
            self._must_observe = True
        elif doubt.link and not is_tunnel:
            return
        self._wanted.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
