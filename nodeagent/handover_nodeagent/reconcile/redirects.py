"""From a peer's word, or the API's, to the route that leads to the peer's node.

``follow``    What a peer's word is to send is encoded before it comes, as a cutover is.
``peer_has``  A peer has the guest. The prepared bytes leave in one send, each route replaced in
              place; the kernel's one answer is read, and the peer is answered. The machine steps a
              moment later, or before anything else happens to it (``catch_up``). Where it asks its
              guest first nothing is sent, and the peer, unanswered, says it again.
``confirm``   The API says the same: nothing is lost where agents cannot reach each other.
``keep``      What a machine needs no more is left to senders that are late.

Nothing here is done where the machine would not do it: it is asked first, without any effect.
"""

import asyncio
import dataclasses
import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import structlog

from handover_api import peer as annotations
from handover_api.configuration import Mode
from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import Role, State
from handover_nodeagent import fsm
from handover_nodeagent.fsm.events import Event, PeerHas, PeerReleased
from handover_nodeagent.fsm.machine import Machine
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.network import desired
from handover_nodeagent.network.links import Links
from handover_nodeagent.network.model import IPAddress, Redirection, Route
from handover_nodeagent.peers.sink import Done
from handover_nodeagent.reconcile import cutover_figures
from handover_nodeagent.reconcile.endpoint import Endpoint, Redirected
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.peers import Peers
from handover_nodeagent.reconcile.remaining import RemainingRedirects
from handover_nodeagent.reconcile.side import Prepared, Side
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown

QUIET: Final = 0.001
"""Seconds until a machine steps whose redirect is in: those of other guests go first."""
HOLD: Final = 0.3
"""Seconds for which a redirect goes before what BGP brings here, so that routers beside this node
have it, too (``desired.held_metric``). No longer, or a strict reverse path filter would go on to
refuse what the guest sends to this node's own pods."""
_ROUTED: Final = frozenset({State.BASE, State.LIVE, State.TIME_WAIT})
"""What a peer's word may find with routes of its own in, and nothing else under way."""

_log: Final = structlog.get_logger()


class Loop(Protocol):
    """Who steps the machines."""

    def feed(self, endpoint: Endpoint, event: Event) -> None:
        """Step an endpoint's machine."""

    def last_frame(self, key: ObjectKey) -> LastFrame | Unknown:
        """Tell when the guest was last heard here."""

    def resend(self, endpoint: Endpoint) -> None:
        """Send on what a guest did not take."""


class Redirects:
    """The redirects of all endpoints."""

    def __init__(
        self,
        endpoints: Mapping[ObjectKey, Endpoint],
        enforcer: Enforcer,
        peers: Peers,
        remaining: RemainingRedirects,
        loop: Loop,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._endpoints = endpoints
        self._enforcer = enforcer
        self._routes = enforcer.routes
        self._peers = peers
        self._remaining = remaining
        self._loop = loop
        self._clock = clock
        self._sent_on: dict[ObjectKey, frozenset[IPAddress]] = {}
        self._leaving: dict[ObjectKey, frozenset[IPAddress]] = {}
        self._holds: dict[ObjectKey, asyncio.TimerHandle] = {}
        self._turn: asyncio.Handle | None = None

    # Before a peer has a guest.

    def follow(self, endpoint: Endpoint) -> None:
        """Know an endpoint's peers, and have ready what their word is to send."""
        side = self._peers.follow(endpoint)
        self._follow_table(endpoint)
        if side:
            side.prepared = self._encode_each(endpoint, side)
            # In a turn of its own: the step that this follows is not done yet.
            asyncio.get_running_loop().call_soon(self.confirm, endpoint)

    def _follow_table(self, endpoint: Endpoint) -> None:
        """Have the firewall's table follow, in a turn of its own: the routes are in by then."""
        machine, addresses = endpoint.machine, frozenset(endpoint.admission.allowed)
        is_redirected = machine.underlying.redirect is not None and endpoint.redirection
        self._forget_table(endpoint.key)
        if is_redirected:
            self._sent_on[endpoint.key] = addresses
        elif machine.assignment.role is Role.SOURCE and machine.assignment.armed:
            self._leaving[endpoint.key] = addresses
        self.enclose_soon()

    def forget(self, key: ObjectKey) -> None:
        """Know that an endpoint is gone, or is left as it is."""
        self._peers.forget(key)
        self._forget_table(key)
        self.enclose_soon()

    def _forget_table(self, key: ObjectKey) -> None:
        self._sent_on.pop(key, None)
        self._leaving.pop(key, None)

    def enclose_soon(self) -> None:
        """Bring the table up to date soon, once for all that happens until then."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._enclose)

    def _enclose(self) -> None:
        self._turn = None
        # Never before its route: the guest's own answers from here would go untracked.
        sent_on = frozenset[IPAddress]().union(*self._sent_on.values())
        sent_on |= {
            route.address for route in self._remaining.routes if not self._expects(route.address)
        }
        leaving = frozenset[IPAddress]().union(*self._leaving.values())
        table, has_tunnel = self._enforcer.redirect_table, self._peers.ways.has_tunnel
        table.want(self._peers.addresses, sent_on, leaving, has_tunnel=has_tunnel)

    def _expects(self, address: IPAddress) -> bool:
        """Tell whether the guest may be here any moment, or is: then its answers are tracked.

        The table follows late: a set that still had the address would have them dropped as invalid.
        """
        return bool(self._routes.desired.endpoints_with([address]) - self._sent_on.keys())

    def refresh(self) -> None:
        """Find all ways anew: a device, an address or a route is not what it was."""
        self._peers.ways.lose_device()
        self._find_ways()

    def observed(self, links: Links) -> None:
        """Follow what the kernel was found to have."""
        shown = links.by_name.get(tunnel.REDIRECT)
        if shown:
            self._peers.ways.tidy(shown.addresses)
        self.retry()

    def retry(self) -> None:
        """Find all ways anew where one was refused: what stood in its way may be gone."""
        if self._peers.is_refused:
            self.refresh()

    def move(self, addresses: Iterable[IPAddress]) -> None:
        """Be reached at other *addresses* of this node from now on."""
        if not self._peers.move(addresses):
            return
        _log.info("node_moved", addresses=[str(one) for one in addresses])
        # The tunnel has its new addresses first: a socket is bound to each of them, too.
        self._find_ways()
        self._peers.listen()
        # What leads on names the address that the node itself speaks from.
        self._enforcer.reapply_all()

    def _find_ways(self) -> None:
        peers = self._peers
        if self._remaining.routes and peers.is_on:
            peers.ways.ensure(self._enforcer.settings)
        for key, side in peers.find_again():
            endpoint = self._endpoints.get(key)
            if endpoint:
                self._lead_on(endpoint, side)
                side.prepared = self._encode_each(endpoint, side)
                # What the API said of a peer to which there was no way counts now.
                asyncio.get_running_loop().call_soon(self.confirm, endpoint)
        self._remaining.renew(peers.ways.renew)
        self.enclose_soon()

    def lost_link(self, oif: int) -> None:
        """Know that a link is gone: where it was the tunnel, there is another one at once."""
        if oif == self._peers.ways.device:
            self.refresh()

    def _lead_on(self, endpoint: Endpoint, side: Side) -> None:
        """Have a redirect lead to its peer by the way of now, replaced in place.

        The peer's node has another address, or this one; or the tunnel another index: with the old
        device the routes went.
        """
        redirect, led = endpoint.machine.underlying.redirect, endpoint.redirection
        if redirect is None or led is None:
            return
        peer = side.led_to(redirect, led)
        way = side.ways.get(peer) if peer else None
        # To one that nobody names any more, or that nothing leads to, what it had is the way.
        if not isinstance(way, Redirection):
            way = self._peers.ways.renew(led)
        if way != led:
            endpoint.redirection = way
            settings = self._enforcer.settings
            self._enforcer.apply(self._routes.desired.put(endpoint.local(settings)))

    def _encode_each(self, endpoint: Endpoint, side: Side) -> Mapping[tuple[str, str], Prepared]:
        if endpoint.machine.state not in _ROUTED or endpoint.link is None:
            return {}
        found = [
            self._encode(endpoint, each, way)
            for each, way in side.ways.items()
            if isinstance(way, Redirection)
        ]
        # A peer itself is slow to find by.
        return {(one.peer.uid, one.peer.endpoint): one for one in found if one}

    def _encode(self, endpoint: Endpoint, peer: Peer, way: Redirection) -> Prepared | None:
        """Encode what the peer's word would replace; None where that is no mere replacement."""
        settings = self._enforcer.settings
        step = fsm.step(endpoint.machine, _word(peer), self._clock(), settings)
        after = step.machine
        # Of another level, as where the API has said so already: then its key is another one, too.
        if after is None or not after.redirect or after.level is not endpoint.machine.level:
            return None
        local = dataclasses.replace(
            endpoint.local(settings), state=State.REDIRECTED, redirection=way, is_holding=True
        )
        if not local.is_owned:
            return None
        wanted = desired.routes_at(local, after.level, settings)
        routes = tuple(self._routes.known.complete(route) for route in wanted if route.way)
        if not routes:
            return None
        requests = tuple(map(rtmsg.encode_replace, routes))
        return Prepared(peer, way, requests, routes, self._version(routes, endpoint))

    def _version(self, routes: Iterable[Route], endpoint: Endpoint) -> tuple[int, int] | None:
        """Return by what *routes* were seen to be plain; None where that is to be seen anew."""
        # Of some nobody is notified (``Tables.would_join``).
        is_told = not any(map(self._routes.tables.may_join, routes))
        is_plain = is_told and all(self._is_plain(one, endpoint) for one in routes)
        return self._routes.known.version if is_plain else None

    # A peer has the guest.

    def peer_has(self, key: ObjectKey, uid: str, named: str) -> Done | None:
        """Send on what arrives here: the peer of that name has it; None: that could not be."""
        endpoint, side = self._endpoints.get(key), self._peers.side(key)
        if endpoint is None or side is None or endpoint.is_paused or not self._peers.is_on:
            return None
        if not self._fire(endpoint, side.prepared.get((uid, named))):
            peer = side.find(uid, named)
            if peer is None:
                return None
            self._step(endpoint, side, peer, _word(peer))
        # Gone: by this very word, as its object was, and with the redirect left.
        is_gone = self._endpoints.get(key) is not endpoint
        if not (endpoint.redirected or endpoint.machine.underlying.redirect or is_gone):
            return None
        return cutover_figures.done(time.time_ns(), self._loop.last_frame(key))

    def _fire(self, endpoint: Endpoint, prepared: Prepared | None) -> bool:
        """Send what is prepared, where it replaces what we know to be there; tell whether."""
        # What happened before comes first, so that the machine knows what its routes show already.
        if prepared is None or endpoint.redirected or endpoint.announcement:
            return False
        is_as_seen = prepared.version == self._routes.known.version
        if not (is_as_seen or all(self._is_plain(one, endpoint) for one in prepared.routes)):
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
        endpoint.redirection = prepared.way
        self.hold(endpoint)
        endpoint.redirected = Redirected(_word(prepared.peer), prepared.routes)
        loop = asyncio.get_running_loop()
        # Once the peer is answered.
        loop.call_soon(self._loop.resend, endpoint)
        loop.call_later(QUIET, self.catch_up, endpoint)
        return True

    def _is_plain(self, route: Route, endpoint: Endpoint) -> bool:
        """Tell whether *route* would take the place of one of the endpoint's own alone."""
        there = [one for one in self._routes.known.ours.of(route.address) if one.key == route.key]
        if self._routes.desired.is_held(route):
            # What holds BGP's back takes nobody's place.
            return not there
        oif = endpoint.link.index if endpoint.link else 0
        is_own = [one.oif for one in there] == [oif] and there[0].way is None
        if not is_own or self._routes.known.collisions.has_gateway(route):
            return False
        return not self._routes.tables.would_join(route)

    def hold(self, endpoint: Endpoint) -> None:
        """Have the redirect go before what BGP brings, for a moment from now on."""
        endpoint.is_holding = True
        before = self._holds.pop(endpoint.key, None)
        if before:
            before.cancel()
        loop = asyncio.get_running_loop()
        self._holds[endpoint.key] = loop.call_later(HOLD, self._end_hold, endpoint)

    def _end_hold(self, endpoint: Endpoint) -> None:
        endpoint.is_holding = False
        del self._holds[endpoint.key]
        if self._endpoints.get(endpoint.key) is endpoint:
            local = endpoint.local(self._enforcer.settings)
            self._enforcer.apply(self._routes.desired.put(local))

    def catch_up(self, endpoint: Endpoint) -> None:
        """Step the machine on what was heard, unless something else was faster to ask for it."""
        redirected, endpoint.redirected = endpoint.redirected, None
        if redirected is None:
            return
        self._routes.clear_ahead(route.address for route in redirected.routes)
        if self._endpoints.get(endpoint.key) is endpoint:
            self._loop.feed(endpoint, redirected.event)

    def _step(self, endpoint: Endpoint, side: Side, peer: Peer, event: PeerHas) -> None:
        """Step the machine on the peer's word, by the way to that peer where it takes it."""
        way = side.ways.get(peer)
        if not isinstance(way, Redirection):
            return
        self.catch_up(endpoint)
        before = endpoint.machine.underlying.redirect
        after = fsm.step(endpoint.machine, event, self._clock(), self._enforcer.settings).machine
        # Gone with its redirect kept, or led to this peer: from now on, or when no guest answers.
        if after is None or _is_taken(after, event):
            is_elsewhere = before is not None and endpoint.redirection not in {None, way}
            endpoint.redirection = way
            if is_elsewhere and after is endpoint.machine:
                # The very same peer, by another address.
                self.hold(endpoint)
                local = endpoint.local(self._enforcer.settings)
                self._enforcer.apply(self._routes.desired.put(local))
        self._loop.feed(endpoint, event)

    def peer_released(self, key: ObjectKey, uid: str) -> Done | None:
        """Have the guest asked: no peer has it any more."""
        endpoint = self._endpoints.get(key)
        if endpoint is None or endpoint.is_paused or not self._peers.is_on:
            return None
        self._loop.feed(endpoint, PeerReleased(uid))
        return Done(time.time_ns())

    def confirm(self, endpoint: Endpoint) -> None:
        """Believe the API where a peer is, and that it has the guest: once for each such word."""
        uid = annotations.peer_live_from_annotations(endpoint.object.metadata.annotations)
        side = self._peers.side(endpoint.key)
        is_current = self._endpoints.get(endpoint.key) is endpoint and not endpoint.is_paused
        if side and is_current and self._peers.is_on:
            self._lead_on(endpoint, side)
        peer = side.find(uid) if side and uid else None
        # Another peer of the same migration may have it by now: the first of its name has.
        said = (peer.uid, peer.endpoint) if peer else None
        if said is None:
            endpoint.confirmed = None
        is_news = said != endpoint.confirmed and is_current and self._peers.is_on
        if side is None or peer is None or not is_news:
            return
        # Without a way nothing follows from it; it counts when there is one.
        if not isinstance(side.ways.get(peer), Redirection):
            return
        endpoint.confirmed = said
        self._step(endpoint, side, peer, _word(peer))

    def keep(self, endpoint: Endpoint, addresses: Iterable[IPAddress]) -> None:
        """Leave the redirect of a machine that needs it no more to senders that are late."""
        if endpoint.redirection and self._enforcer.settings.mode is Mode.ACTIVE:
            settings = self._enforcer.settings
            kept = desired.redirects_at(addresses, endpoint.redirection, settings)
            self._remaining.keep(kept)
            self.enclose_soon()

    def adopt(self, route: Route) -> None:
        """Keep what an agent before this one left, whose endpoint nobody remembers."""
        led = Redirection(route.oif, route.way, route.way)
        kept = desired.redirects_at([route.address], led, self._enforcer.settings)
        self._remaining.keep(kept)


def _is_taken(machine: Machine, event: PeerHas) -> bool:
    """Tell whether a machine is to lead to that peer, or is asking because of its word."""
    redirect, asking = machine.underlying.redirect, machine.asking
    if asking and asking.peer == event:
        return True
    return redirect is not None and (redirect.uid, redirect.peer) == (event.uid, event.role)


def _word(peer: Peer) -> PeerHas:
    return PeerHas(peer.uid, peer.role)
