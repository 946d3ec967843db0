"""Who may speak for a guest beside us, by which way its node is reached, and what it hears of us.

The API names the peers of an endpoint while a migration concerns it. Each is told to the direct
path, which proves that it answers; the way to its node is found beforehand, so that nothing has to
be found when the guest moves. Whether all of that would do is said before.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from handover_api import names
from handover_api import peer as annotations
from handover_api.configuration import Advertise, Mode, SourceRedirect
from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import AgentAddress, State
from handover_nodeagent.kernel.tunnel import Refusal
from handover_nodeagent.network.model import IPAddress, Redirection
from handover_nodeagent.peers.inner_routes import InnerRoutes
from handover_nodeagent.peers.messages import Way
from handover_nodeagent.peers.repeats import GIVE_UP
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.side import Path, Readiness, Side, judge
from handover_nodeagent.reconcile.ways import Ways


class Loop(Protocol):
    """Who brings statuses up to date, measures, and lets the firewall follow."""

    def peers_changed(self) -> None:
        """Know that other nodes may send on to guests here than before."""

    def asked(self, key: ObjectKey, uid: str, count: int) -> None:
        """Know to how many nodes it was said that an endpoint has the guest."""

    def report(self, keys: Iterable[ObjectKey]) -> None:
        """Report these soon."""

    def prepare_anew(self, keys: Iterable[ObjectKey]) -> None:
        """Have their cutovers as those are by what is known now."""


class Peers:
    """The peers of all endpoints, and what our agent says to theirs."""

    def __init__(self, enforcer: Enforcer, loop: Loop) -> None:
        """Say nothing to anybody before there is a *path*."""
        self.path: Path | None = None
        self.ways = Ways(enforcer.routes.tables.channel, enforcer.redirect_table.encloses)
        self._open: Callable[[], Path] | None = None
        self._addresses: tuple[IPAddress, ...] = ()
        self._tunnel: int | None = None
        self._enforcer = enforcer
        self._loop = loop
        self._sides: dict[ObjectKey, Side] = {}
        self._left: dict[IPAddress, asyncio.TimerHandle] = {}
        self._is_closed = False

    def converse(self, addresses: Iterable[IPAddress], open_path: Callable[[], Path]) -> None:
        """Be reached at *addresses* from the first :meth:`configure` on that wants it."""
        self._open = open_path
        self.move(addresses)

    def move(self, addresses: Iterable[IPAddress]) -> bool:
        """Be reached at other *addresses* from the next :meth:`listen` on; tell if they are."""
        before, self._addresses = self._addresses, tuple(addresses)
        # The way through the tunnel is another one: it is to be proved anew.
        self._tunnel = self._tunnel if before == self._addresses else None
        self.ways.know_own(self._addresses)
        self._enforcer.routes.known.speak_from(self._addresses)
        return before != self._addresses

    def configure(self) -> None:
        """Follow the configuration: whom an endpoint speaks to is found anew by :meth:`follow`."""
        self._sides.clear()
        if self._wants_path and self.path is None and self._open:
            self.path = self._open()
        self.listen()

    def listen(self) -> None:
        """Have sockets at our addresses; by the tunnel, too, once those are its own."""
        if self.path:
            addresses = self._addresses if self._wants_path else ()
            self.path.listen(addresses, self._enforcer.settings.peer_port)

    def close(self) -> None:
        """Say and hear nothing more, and make no tunnel again whose end is about to be told."""
        self._is_closed = True
        for alarm in self._left.values():
            alarm.cancel()
        if self.path:
            self.path.close()

    @property
    def is_on(self) -> bool:
        """Tell whether anything is sent on here."""
        settings = self._enforcer.settings
        is_off = settings.source_redirect is SourceRedirect.OFF or self._is_closed
        return settings.mode is Mode.ACTIVE and not is_off

    @property
    def is_speaking(self) -> bool:
        """Tell whether other nodes hear of our guests: to send on, or to distribute."""
        return self.path is not None and self._wants_path

    @property
    def _wants_path(self) -> bool:
        settings = self._enforcer.settings
        is_distributed = settings.advertise is Advertise.AGENTS and settings.mode is Mode.ACTIVE
        return (is_distributed or self.is_on) and not self._is_closed

    def side(self, key: ObjectKey) -> Side | None:
        """Return what is known of an endpoint's other side."""
        return self._sides.get(key)

    def follow(self, endpoint: Endpoint) -> Side | None:
        """Know an endpoint's peers and the ways to them; None where nobody speaks to any."""
        if endpoint.is_paused or not (self.is_on or self.is_speaking):
            self.forget(endpoint.key)
            return None
        assignment = endpoint.machine.assignment
        role = assignment.role or assignment.ended_role
        said = endpoint.object.metadata.annotations
        text, side = said.get(names.PEER, ""), self._sides.get(endpoint.key)
        if not text:
            self.forget(endpoint.key)
            return None
        own_uid = assignment.migration_uid
        if side is None or (side.role, side.uid, side.text) != (role, own_uid, text):
            if side:
                self._leave(side)
            named = annotations.peers_from_annotations(said)
            ways = self._find_ways(named)
            side = self._sides[endpoint.key] = Side(role, own_uid, text, named, ways)
            if self.path and self.is_speaking:
                self.path.know_peers(endpoint.key, role, named, own_uid)
            self._loop.report((endpoint.key,))
        uid = endpoint.machine.uid
        if self.path and self.is_speaking and endpoint.machine.state is State.TARGET and uid:
            self.path.prepare(endpoint.key, uid)
        return side

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """The addresses of nodes that may send on to guests here."""
        named = (each for side in self._sides.values() for each in side.peers)
        return frozenset(self._left) | {one for each in named for one in each.addresses}

    @property
    def nodes(self) -> Mapping[IPAddress, str]:
        """The nodes of all peers by their addresses."""
        named = (each for side in self._sides.values() for each in side.peers)
        return {one: each.node for each in named for one in each.addresses}

    def _leave(self, side: Side) -> None:
        """Take what a peer sends on until its redirect is over, whose object may be gone."""
        time = self._enforcer.settings.live_migration_route_convergence_time.total_seconds()
        loop = asyncio.get_running_loop()
        for address in {one for each in side.peers for one in each.addresses}:
            if address in self._left:
                self._left.pop(address).cancel()
            self._left[address] = loop.call_later(time, self._end, address)

    def _end(self, address: IPAddress) -> None:
        del self._left[address]
        self._loop.peers_changed()

    def find_again(self) -> Iterable[tuple[ObjectKey, Side]]:
        """Find all ways anew, and return whose they are."""
        for side in self._sides.values():
            side.ways = self._find_ways(side.peers)
        self._changed(*self._sides)
        return tuple(self._sides.items())

    @property
    def is_refused(self) -> bool:
        """Tell whether there is no way to some peer's node."""
        ways = (way for side in self._sides.values() for way in side.ways.values())
        return self.is_on and any(isinstance(way, Refusal) for way in ways)

    def _find_ways(self, named: Iterable[Peer]) -> Mapping[Peer, Redirection | Refusal]:
        if not self.is_on:
            return {}
        settings = self._enforcer.settings
        found = {each: self.ways.find(each.addresses, settings) for each in named}
        self._prove_tunnel()
        return found

    def _prove_tunnel(self) -> None:
        """Have the peers asked through the tunnel once there is one, or another one."""
        device = self.ways.device
        if self.path is None or device == self._tunnel:
            return
        self._tunnel = device
        protocol = self._enforcer.settings.private_route_protocol
        channel, own = self._enforcer.routes.tables.channel, self._addresses
        self.path.use_tunnel(InnerRoutes(channel, device, protocol, own) if device else None)

    def forget(self, key: ObjectKey) -> None:
        """Know no peer of an endpoint any more."""
        gone = self._sides.pop(key, None)
        if gone:
            self._leave(gone)
            self._loop.report((key,))
            # What was said last is repeated until then.
            asyncio.get_running_loop().call_later(GIVE_UP, self._forget_path, key)

    def _forget_path(self, key: ObjectKey) -> None:
        if self.path and key not in self._sides:
            self.path.forget(key)

    # Of other nodes' guests the path is told whom to believe, and whom to tell of ours.

    def know_advertised(self, key: ObjectKey, speaker: Peer | None) -> None:
        """Know who hosts an advertised endpoint of another node; None: it is none any more."""
        if self.path:
            self.path.know_advertised(key, speaker)

    def know_nodes(self, nodes: Mapping[str, tuple[IPAddress, ...]]) -> None:
        """Know the other nodes."""
        if self.path:
            self.path.know_nodes(nodes)

    def sends_on(self, endpoint: Endpoint) -> bool:
        """Tell whether the other side is expected to send on what arrives there."""
        found = self.readiness(endpoint)
        return found is not None and found[0]

    def names(self, key: ObjectKey, uid: str, node: str) -> bool:
        """Tell whether *node* is the other side of an endpoint's migration."""
        side = self._sides.get(key)
        peer = side.find(uid) if side else None
        return peer is not None and peer.node == node

    # What the peers hear.

    def tell_at_once(self, endpoint: Endpoint) -> None:
        """Say that we have the guest, in the instant in which its routes are in."""
        uid = endpoint.machine.uid
        if self.path and self.is_speaking and uid:
            self._loop.asked(endpoint.key, uid, self.path.have(endpoint.key, uid))
            endpoint.is_told = True

    def tell(self, endpoint: Endpoint, *, has_guest: bool) -> None:
        """Say what a step has made of our routes, unless that was said at once."""
        uid, is_told = endpoint.machine.uid, endpoint.is_told
        endpoint.is_told = False
        if not (self.path and self.is_speaking and uid):
            return
        if not has_guest:
            self.path.released(endpoint.key, uid)
        elif not is_told:
            self._loop.asked(endpoint.key, uid, self.path.have(endpoint.key, uid))

    # What a person hears.

    def proved(self, key: ObjectKey, node: str, way: Way) -> None:
        """Know that a peer has answered by *way*."""
        side = self._sides.get(key)
        if side:
            side.proved |= {(node, way)}
            side.silent -= {node}
            self._changed(key)

    def silent(self, key: ObjectKey, node: str) -> None:
        """Know that a peer answers nothing."""
        side = self._sides.get(key)
        if side:
            side.silent |= {node}
            self._changed(key)

    def _changed(self, *keys: ObjectKey) -> None:
        self._loop.report(keys)
        self._loop.prepare_anew(keys)

    def agent_of(self, endpoint: Endpoint) -> AgentAddress | None:
        """Return how the peers of an endpoint reach us, while it may have any."""
        if not (self.path and self.is_speaking):
            return None
        is_concerned = endpoint.machine.assignment.role or endpoint.machine.underlying.redirect
        return self.path.agent if is_concerned else None

    def readiness(self, endpoint: Endpoint) -> Readiness | None:
        """Say whether what arrives here could be sent on; None where nobody asks."""
        if not self.is_on or endpoint.machine.assignment.role is None:
            return None
        # Where the tunnel has no address inside, nobody can be asked through it.
        way = Way.TUNNEL if self.path and self.path.has_tunnel else Way.PLAIN
        trouble = self._enforcer.redirect_table.trouble
        refused = self.path.refusals if self.path and not self.path.agent else ()
        if refused:
            # Nobody can ask us either, so the other side knows no more than that.
            return False, refused[0].reason, refused[0].message
        return judge(self._sides.get(endpoint.key), endpoint.machine.uid, way, trouble)
