"""From a peer's word to the route that leads to it, and from our own routes to the peer.

``follow``    Whom the API names as peers is told to the direct path, and the way to each is found;
              what its word is to send is encoded before it comes, as a cutover is.
``peer_has``  A peer has the guest. The prepared bytes leave in one send, each route replaced in
              place; the kernel's one answer is read, and the peer is answered. The machine steps a
              moment later, or before anything else happens to it (``catch_up``).
``confirm``   The API says the same: nothing is lost where agents cannot reach each other.
``tell``      Our own routes are in, or out: the peers hear of it. Nobody waits for them.

Nothing here is done where the machine would not do it: it is asked first, without any effect.
"""

import asyncio
import dataclasses
import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from handover_api import names
from handover_api import peer as peers
from handover_api.conditions import EndpointReason
from handover_api.configuration import Advertise, Mode, SourceRedirect
from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import AgentAddress, Role, State
from handover_nodeagent import fsm
from handover_nodeagent.fsm.events import Event, PeerHas, PeerReleased
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.kernel.tunnel import Refusal
from handover_nodeagent.network import desired
from handover_nodeagent.network.model import IPAddress, Redirection, Route
from handover_nodeagent.peers.repeats import GIVE_UP
from handover_nodeagent.peers.sink import Done
from handover_nodeagent.reconcile.endpoint import Endpoint, Redirected
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.remaining import RemainingRedirects
from handover_nodeagent.reconcile.ways import Ways

QUIET: Final = 0.001
"""Seconds until a machine steps whose redirect is in: those of other guests go first."""
_ROUTED: Final = frozenset({State.BASE, State.LIVE, State.TIME_WAIT})
"""What a peer's word may find with routes of its own in, and nothing else under way."""

Readiness = tuple[bool, EndpointReason, str]
"""Whether what arrives here would be sent on, and why or why not."""


class Loop(Protocol):
    """Who steps the machines."""

    def feed(self, endpoint: Endpoint, event: Event) -> None:
        """Step an endpoint's machine."""

    def report(self, keys: Iterable[ObjectKey]) -> None:
        """Bring statuses up to date."""


class Path(Protocol):
    """How agents speak with each other (``peers/direct_path.py``)."""

    @property
    def agent(self) -> AgentAddress | None:
        """How others reach us; None while nobody can."""

    def know_peers(self, key: ObjectKey, role: Role | None, peers: Iterable[Peer]) -> None:
        """Know who may speak to the endpoint *key*, which has or had *role*."""

    def forget(self, key: ObjectKey) -> None:
        """Know that the endpoint *key* is gone."""

    def prepare(self, key: ObjectKey, uid: str) -> None:
        """Have a HAVE ready."""

    def have(self, key: ObjectKey, uid: str) -> object:
        """Say that we have the guest."""

    def released(self, key: ObjectKey, uid: str) -> object:
        """Say that we have it no more."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A redirect as bytes; all of them leave in one send."""

    requests: tuple[bytes, ...]
    routes: tuple[Route, ...]


@dataclass(slots=True)
class _Side:
    """What is known of the other side of one endpoint; *ways* and *prepared* are by peer."""

    role: Role | None
    text: str
    peers: tuple[Peer, ...]
    ways: Mapping[Peer, Redirection | Refusal]
    prepared: Mapping[Peer, Prepared]
    proved: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()


class Redirects:
    """The redirects of all endpoints, and what their agents say to others'."""

    def __init__(
        self,
        endpoints: Mapping[ObjectKey, Endpoint],
        enforcer: Enforcer,
        loop: Loop,
        remaining: RemainingRedirects,
        clock: Callable[[], dt.datetime],
    ) -> None:
        """Say nothing to anybody before there is a *path*."""
        self.path: Path | None = None
        self.last_frame: Callable[[ObjectKey], Done] = lambda _: Done(0)
        self.ways = Ways(enforcer.routes.tables.channel)
        self._endpoints = endpoints
        self._enforcer = enforcer
        self._routes = enforcer.routes
        self._loop = loop
        self._remaining = remaining
        self._clock = clock
        self._sides: dict[ObjectKey, _Side] = {}

    @property
    def is_on(self) -> bool:
        """Tell whether anything is sent on here."""
        settings = self._enforcer.settings
        is_off = settings.source_redirect is SourceRedirect.OFF
        return settings.mode is Mode.ACTIVE and not is_off

    @property
    def is_speaking(self) -> bool:
        """Tell whether other nodes hear of our guests: to send on, or to distribute."""
        settings = self._enforcer.settings
        is_heard = settings.advertise is Advertise.AGENTS or self.is_on
        return self.path is not None and settings.mode is Mode.ACTIVE and is_heard

    # Before a peer has a guest.

    def follow(self, endpoint: Endpoint) -> None:
        """Know an endpoint's peers, and have ready what their word is to send."""
        if endpoint.is_paused or not (self.is_on or self.is_speaking):
            self.forget(endpoint.key)
            return
        assignment = endpoint.machine.assignment
        role = assignment.role or assignment.ended_role
        annotations = endpoint.object.metadata.annotations
        text, side = annotations.get(names.PEER, ""), self._sides.get(endpoint.key)
        if side is None or (side.role, side.text) != (role, text):
            named = peers.peers_from_annotations(annotations)
            side = _Side(role, text, named, self._find_ways(named), {})
            self._sides[endpoint.key] = side
            if self.path and self.is_speaking:
                self.path.know_peers(endpoint.key, role, named)
            self._loop.report((endpoint.key,))
        side.prepared = self._encode_each(endpoint, side)
        uid = endpoint.machine.uid
        if self.path and self.is_speaking and endpoint.machine.state is State.TARGET and uid:
            self.path.prepare(endpoint.key, uid)
        # In a turn of its own: the step that this follows is not done yet.
        asyncio.get_running_loop().call_soon(self.confirm, endpoint)

    def _find_ways(self, named: Iterable[Peer]) -> Mapping[Peer, Redirection | Refusal]:
        if not self.is_on:
            return {}
        return {each: self.ways.find(each.addresses, self._enforcer.settings) for each in named}

    def forget(self, key: ObjectKey) -> None:
        """Know no peer of an endpoint any more."""
        if self._sides.pop(key, None):
            # What was said last is repeated until then.
            asyncio.get_running_loop().call_later(GIVE_UP, self._forget_path, key)

    def _forget_path(self, key: ObjectKey) -> None:
        if self.path and key not in self._sides:
            self.path.forget(key)

    def refresh(self) -> None:
        """Find all ways anew: a device, an address or a route is not what it was."""
        before = self.ways.device
        self.ways.lose_device()
        if self._remaining.routes and self.is_on:
            self.ways.ensure(self._enforcer.settings)
        for key, side in self._sides.items():
            side.ways = self._find_ways(side.peers)
            endpoint = self._endpoints.get(key)
            if endpoint:
                self._relocate(endpoint, before)
                side.prepared = self._encode_each(endpoint, side)
        if before is not None and self.ways.device not in {None, before}:
            self._remaining.relocate(before, self.ways.device or 0)
        self._loop.report(tuple(self._sides))

    def lost_link(self, oif: int) -> None:
        """Know that a link is gone: where it was the tunnel, there is another one at once."""
        if oif == self.ways.device:
            self.refresh()

    def _relocate(self, endpoint: Endpoint, before: int | None) -> None:
        """Follow the tunnel to another index: with the old device the routes went."""
        device, led = self.ways.device, endpoint.redirection
        if led is None or device is None or led.oif != before or device == before:
            return
        endpoint.redirection = dataclasses.replace(led, oif=device)
        settings = self._enforcer.settings
        self._enforcer.apply(self._routes.desired.put(endpoint.local(settings)))

    def _encode_each(self, endpoint: Endpoint, side: _Side) -> Mapping[Peer, Prepared]:
        if endpoint.machine.state not in _ROUTED or endpoint.link is None:
            return {}
        found = {
            each: self._encode(endpoint, each, way)
            for each, way in side.ways.items()
            if isinstance(way, Redirection)
        }
        return {each: prepared for each, prepared in found.items() if prepared}

    def _encode(self, endpoint: Endpoint, peer: Peer, way: Redirection) -> Prepared | None:
        """Encode what the peer's word would replace; None where that is no mere replacement."""
        settings = self._enforcer.settings
        step = fsm.step(endpoint.machine, _word(peer), self._clock(), settings)
        after = step.machine
        # Of another level, as where the API has said so already: then its key is another one, too.
        if after is None or not after.redirect or after.level is not endpoint.machine.level:
            return None
        local = dataclasses.replace(
            endpoint.local(settings), state=State.REDIRECTED, redirection=way
        )
        if not local.is_owned:
            return None
        wanted = desired.routes_at(local, after.level, settings)
        routes = tuple(self._routes.known.complete(route) for route in wanted if route.way)
        return Prepared(tuple(map(rtmsg.encode_replace, routes)), routes) if routes else None

    # A peer has the guest.

    def peer_has(self, key: ObjectKey, uid: str, endpoint_name: str = "") -> Done | None:
        """Send on what arrives here; return None where that could not be."""
        endpoint, side = self._endpoints.get(key), self._sides.get(key)
        if endpoint is None or side is None or endpoint.is_paused or not self.is_on:
            return None
        peer = _find(side, uid, endpoint_name)
        if peer is None:
            return None
        # What happened before comes first, so that the machine knows what its routes show already.
        if not self._fire(endpoint, side, peer):
            self._step(endpoint, side, peer, _word(peer))
        if endpoint.redirected or endpoint.machine.underlying.redirect or self._is_kept(key):
            return self.last_frame(key)._replace(done_ns=time.time_ns())
        return None

    def _fire(self, endpoint: Endpoint, side: _Side, peer: Peer) -> bool:
        """Send what is prepared, where it replaces what we know to be there; tell whether."""
        prepared, way = side.prepared.get(peer), side.ways.get(peer)
        if prepared is None or not isinstance(way, Redirection) or endpoint.redirected:
            return False
        if endpoint.announcement or not all(
            self._is_plain(one, endpoint) for one in prepared.routes
        ):
            return False
        results = self._routes.tables.send(prepared.requests)
        # The kernel's answer is in: this is when the routes were.
        now = time.time_ns()
        for route, result in zip(prepared.routes, results, strict=True):
            if result == 0:
                self._routes.known.ours.put(route, now)
        if any(results):
            return False
        for route in prepared.routes:
            # Until the machine steps an apply would lead them back.
            self._routes.set_ahead(route.address)
        endpoint.redirection = way
        endpoint.redirected = Redirected(_word(peer), prepared.routes)
        asyncio.get_running_loop().call_later(QUIET, self.catch_up, endpoint)
        return True

    def _is_plain(self, route: Route, endpoint: Endpoint) -> bool:
        """Tell whether *route* would take the place of one of the endpoint's own alone."""
        there = [one for one in self._routes.known.ours.of(route.address) if one.key == route.key]
        oif = endpoint.link.index if endpoint.link else 0
        is_own = [one.oif for one in there] == [oif] and there[0].way is None
        return is_own and not self._routes.known.collisions.has_gateway(route)

    def catch_up(self, endpoint: Endpoint) -> None:
        """Step the machine on what was heard, unless something else was faster to ask for it."""
        redirected, endpoint.redirected = endpoint.redirected, None
        if redirected is None:
            return
        self._routes.clear_ahead(route.address for route in redirected.routes)
        if self._endpoints.get(endpoint.key) is endpoint:
            self._loop.feed(endpoint, redirected.event)

    def _step(self, endpoint: Endpoint, side: _Side, peer: Peer, event: PeerHas) -> None:
        """Step the machine on the peer's word, by the way to that peer where it takes it."""
        way = side.ways.get(peer)
        if not isinstance(way, Redirection):
            return
        self.catch_up(endpoint)
        before = endpoint.machine.underlying.redirect
        after = fsm.step(endpoint.machine, event, self._clock(), self._enforcer.settings).machine
        redirect = after.underlying.redirect if after else None
        is_taken = redirect is not None and (redirect.uid, redirect.peer) == (event.uid, event.role)
        # Gone with its redirect kept, or led to this peer from now on.
        if after is None or is_taken:
            is_elsewhere = before is not None and endpoint.redirection not in {None, way}
            endpoint.redirection = way
            if is_elsewhere and after is endpoint.machine:
                # The very same peer, by another address.
                local = endpoint.local(self._enforcer.settings)
                self._enforcer.apply(self._routes.desired.put(local))
        self._loop.feed(endpoint, event)

    def _is_kept(self, key: ObjectKey) -> bool:
        """Tell whether the endpoint ended by the very word, which has left its redirect."""
        return key not in self._endpoints

    def peer_released(self, key: ObjectKey, uid: str) -> Done | None:
        """Have the guest asked: no peer has it any more."""
        endpoint = self._endpoints.get(key)
        if endpoint is None or endpoint.is_paused or not self.is_on:
            return None
        self._loop.feed(endpoint, PeerReleased(uid))
        return Done(time.time_ns())

    def confirm(self, endpoint: Endpoint) -> None:
        """Believe the API that a peer has the guest: once for each time that it says so."""
        uid = peers.peer_live_from_annotations(endpoint.object.metadata.annotations)
        side = self._sides.get(endpoint.key)
        if uid is None:
            endpoint.confirmed_uid = None
        is_news = uid is not None and uid != endpoint.confirmed_uid
        is_current = self._endpoints.get(endpoint.key) is endpoint and not endpoint.is_paused
        if uid is None or side is None or not (is_news and is_current and self.is_on):
            return
        peer = _find(side, uid)
        # Without a way nothing follows from it; it counts when there is one.
        if peer is None or not isinstance(side.ways.get(peer), Redirection):
            return
        endpoint.confirmed_uid = uid
        self._step(endpoint, side, peer, dataclasses.replace(_word(peer), is_confirmed=True))

    def keep(self, endpoint: Endpoint, addresses: Iterable[IPAddress]) -> None:
        """Leave the redirect of a machine that needs it no more to senders that are late."""
        if endpoint.redirection and self._enforcer.settings.mode is Mode.ACTIVE:
            settings = self._enforcer.settings
            kept = desired.redirects_at(addresses, endpoint.redirection, settings)
            self._remaining.keep(kept)

    def adopt(self, route: Route) -> None:
        """Keep what an agent before this one left, whose endpoint nobody remembers."""
        led = Redirection(route.oif, route.way, route.way)
        kept = desired.redirects_at([route.address], led, self._enforcer.settings)
        self._remaining.keep(kept)

    # What the peers hear.

    def tell_at_once(self, endpoint: Endpoint) -> None:
        """Say that we have the guest, in the instant in which its routes are in."""
        uid = endpoint.machine.uid
        if self.path and self.is_speaking and uid:
            self.path.have(endpoint.key, uid)
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
            self.path.have(endpoint.key, uid)

    # What a person hears.

    def proved(self, key: ObjectKey, node: str, *, is_proved: bool) -> None:
        """Know whether a peer is reached."""
        side = self._sides.get(key)
        if side is None:
            return
        side.proved = side.proved | {node} if is_proved else side.proved - {node}
        side.silent = side.silent - {node} if is_proved else side.silent | {node}
        self._loop.report((key,))

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
        side = self._sides.get(endpoint.key)
        named = [each for each in side.peers if each.uid == endpoint.machine.uid] if side else []
        if side is None or not named:
            text = "the agent of the migration's other side is not known so far"
            return False, EndpointReason.NO_PEER, text
        refusals = [side.ways[each] for each in named if each in side.ways]
        refused = next((each for each in refusals if isinstance(each, Refusal)), None)
        if refused:
            return False, refused.reason, refused.message
        silent = [each.node for each in named if each.node in side.silent]
        if silent:
            text = f"the agent on {', '.join(silent)} does not answer; a firewall between nodes?"
            return False, EndpointReason.PEER_SILENT, text
        unproved = [each.node for each in named if each.node not in side.proved]
        if unproved:
            text = f"the way to {', '.join(unproved)} is not proved so far"
            return False, EndpointReason.NOT_PROVED, text
        return True, EndpointReason.READY, ""


def _word(peer: Peer) -> PeerHas:
    return PeerHas(peer.uid, peer.role)


def _find(side: _Side, uid: str, endpoint_name: str = "") -> Peer | None:
    """Return the peer that speaks; the API names first the one that it believes."""
    named = (each for each in side.peers if each.uid == uid)
    return next((each for each in named if endpoint_name in {"", each.endpoint}), None)
