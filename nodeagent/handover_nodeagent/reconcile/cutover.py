"""From an announcement to its route: all that happens between the two, in the order it happens.

``prepare``  A Target's netlink messages are encoded before its guest announces itself.
``heard``    A listener has judged a frame (``sniff/verdict.py``) and calls this, without a task or
             an await since the frame was read. The prepared bytes leave in one send, the kernel's
             one answer is read, and the routes are in.
``catch_up`` A moment later the endpoint's machine steps, and all else follows it (``loop.py``).
``measure``  The status says how long the network's share of the switchover took.

Where nothing is prepared (Withdrawn, Asking) the machine steps at once, and what is desired then
is applied as after any other event. On the way from ``heard`` to the route nothing touches the API,
a log, a metric, a thread or a disk.
"""

import asyncio
import dataclasses
import datetime as dt
import errno
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from handover_api.configuration import Mode
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, Signal, State
from handover_nodeagent import faults, metrics
from handover_nodeagent.fsm.events import Announced, Event, Unaskable
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.kernel.netlink import ndmsg, rtmsg
from handover_nodeagent.network import desired
from handover_nodeagent.network.model import Neigh, Route
from handover_nodeagent.reconcile.endpoint import Announcement, Endpoint, Prepared
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.exports import Exports
from handover_nodeagent.reconcile.peers import Peers
from handover_nodeagent.sniff.verdict import Accepted

QUIET: Final = 0.001
"""Seconds without another announcement after which a machine steps: of guests that resume at one
instant, each has its route before the first one's step, log line and status."""
ROUNDS: Final = 5
"""So many waits at most: guests that go on announcing themselves do not hold up a step for ever."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Loop(Protocol):
    """Who steps the machines, and lets the world follow them."""

    def feed(self, endpoint: Endpoint, event: Event, received_ns: int = 0) -> None:
        """Step an endpoint's machine on what the kernel received at *received_ns*."""

    def settle(self, endpoint: Endpoint) -> None:
        """Let the world follow a machine that has not changed."""

    def report(self, keys: Iterable[ObjectKey]) -> None:
        """Bring statuses up to date."""


class Cutovers:
    """The cutovers of all endpoints; the sink of their listeners."""

    def __init__(
        self,
        endpoints: Mapping[ObjectKey, Endpoint],
        enforcer: Enforcer,
        loop: Loop,
        peers: Peers,
    ) -> None:
        """Tell *peers* when all of an endpoint's routes are in."""
        self._endpoints = endpoints
        self._enforcer = enforcer
        self._routes = enforcer.routes
        self._loop = loop
        self._sent = deque[Endpoint]()
        self._sent_at = 0.0
        self._peers = peers
        self.exports = Exports(endpoints, enforcer, peers, loop.report)

    # Before the guest announces itself.

    def prepare(self, endpoint: Endpoint) -> None:
        """Encode what a Target's announcement is to send; of any other state nothing.

        Anew after each step and each change of what is encoded: the routes' attributes, the MAC.
        """
        is_target = endpoint.machine.state is State.TARGET
        endpoint.prepared = self._encode(endpoint) if is_target else None

    def drop(self, endpoint: Endpoint) -> None:
        """Send nothing for an endpoint any more."""
        # What was heard and is still to count was taken in before (``catch_up``).
        endpoint.prepared = endpoint.announcement = None
        self.exports.end(endpoint.key)

    def prepare_anew(self, keys: Iterable[ObjectKey]) -> None:
        """Have cutovers carry what their owners' routes are known to carry by now."""
        for key in keys:
            endpoint = self._endpoints.get(key)
            if endpoint and endpoint.prepared:
                endpoint.prepared = self._encode(endpoint)

    def _encode(self, endpoint: Endpoint) -> Prepared | None:
        settings = self._enforcer.settings
        local = endpoint.local(settings)
        if settings.mode is not Mode.ACTIVE or not local.is_owned or local.link is None:
            return None
        withheld = self.exports.withheld(endpoint)
        local = dataclasses.replace(local, is_exported=not withheld)
        requests: list[bytes] = []
        asked: list[Route | None] = []
        for bare in desired.routes_at(local, RouteLevel.ELEVATED, settings):
            route = self._routes.known.complete(bare)
            if local.mac:
                # Its neighbor's entry goes before it: the first packet need not wait for an answer.
                requests.append(ndmsg.encode_seed(Neigh(route.address, route.oif, local.mac)))
                asked.append(None)
            requests.append(rtmsg.encode_add(route))
            asked.append(route)
        return Prepared(tuple(requests), tuple(asked), withheld) if requests else None

    # From the announcement to the route.

    def heard(self, key: ObjectKey, episode: int, accepted: Accepted, received_at: int) -> None:
        """Take an announcement that the kernel received at *received_at*, in realtime ns.

        What is prepared goes out at once. The machine steps a moment later, or before anything else
        happens to it: twenty guests that announce at the same instant all get their routes first.
        """
        endpoint = self._endpoints.get(key)
        # A listener's last word from an episode that is over says nothing of this one.
        if endpoint is None or endpoint.machine.episode != episode:
            return
        # Taken off first: what a second frame finds is that the first one was served.
        prepared, endpoint.prepared = endpoint.prepared, None
        if prepared is None:
            self._step(endpoint, _announcement(episode, accepted, received_at))
        # A second frame before the machine's step finds all done, and says nothing new.
        elif endpoint.announcement is None:
            try:
                self._cut_over(endpoint, prepared)
            except Exception as error:  # noqa: BLE001  the root of a cutover; costs nothing else
                faults.note("cutover", error, endpoint=str(key))
                self._step(endpoint, _announcement(episode, accepted, received_at))
                return
            endpoint.announcement = _announcement(episode, accepted, received_at, prepared)
            self._step_soon(endpoint)

    def _cut_over(self, endpoint: Endpoint, prepared: Prepared) -> None:
        """Send what was prepared, and tell the peers once all routes are in.

        What the kernel refused is for ``HostRoutes.apply`` to mend.
        """
        results = self._send(prepared)
        # The kernel's answer is in: this is when the routes were.
        now = time.time_ns()
        try:
            # A neighbor's entry that was refused costs the first packet an answer, and no more.
            if not any(map(_is_refused, prepared.asked, results)):
                # The peer's late packets come by this route: not a moment sooner.
                self._peers.tell_at_once(endpoint)
                if prepared.withheld:
                    self.exports.wait(endpoint, prepared.withheld)
        finally:
            self._take_in(prepared, results, now)

    def _send(self, prepared: Prepared) -> Sequence[int]:
        """Send all at once: who is killed then has moved the guest's whole network."""
        return self._routes.tables.send(prepared.requests)

    def _take_in(self, prepared: Prepared, results: Sequence[int], now: int) -> None:
        """Know what the kernel did, and when."""
        for route, result in zip(prepared.asked, results, strict=True):
            if route is None:
                continue
            if result == 0:
                self._routes.known.ours.put(route, now)
            # Until the machine steps an apply would take them out again.
            self._routes.set_ahead(route.address)
        if errno.ENOBUFS in results:
            self._enforcer.request_resync()

    # After the route.

    def _step_soon(self, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        self._sent.append(endpoint)
        # One timer for all of them, which goes on until the last one has stepped.
        if len(self._sent) == 1:
            loop.call_later(QUIET, self._step_next, ROUNDS - 1)

    def _step_next(self, rounds: int) -> None:
        """Let one machine step, unless other guests have just announced themselves.

        Their routes go first, also between two steps.
        """
        loop = asyncio.get_running_loop()
        if rounds and loop.time() - self._sent_at < QUIET:
            loop.call_later(QUIET, self._step_next, rounds - 1)
            return
        try:
            self.catch_up(self._sent.popleft())
        finally:
            # Whatever one of them meets, the others have their turn.
            if self._sent:
                loop.call_soon(self._step_next, rounds)

    def catch_up(self, endpoint: Endpoint) -> None:
        """Step on what was heard, unless something else was faster to ask for it.

        Whatever happens to an endpoint calls this first, so that its machine knows what its routes
        show already.
        """
        announcement, endpoint.announcement = endpoint.announcement, None
        if announcement is None:
            return
        if announcement.sent:
            self._end_lead(announcement.sent)
        if self._endpoints.get(endpoint.key) is endpoint:
            self._step(endpoint, announcement)

    def _end_lead(self, sent: Prepared) -> None:
        """Know that what is desired is about to include what was *sent*, or never will."""
        self._routes.clear_ahead(route.address for route in sent.routes)
        ours = self._routes.known.ours
        # By its place: where speakers have heard of it, it has another number by now.
        places = {(one.key, one.oif) for route in sent.routes for one in ours.of(route.address)}
        there = [route for route in sent.routes if (route.key, route.oif) in places]
        metrics.ROUTES.labels("add").inc(len(there))

    def _step(self, endpoint: Endpoint, announcement: Announcement) -> None:
        """Step the machine; learn the guest's MAC from its frame where nobody had told it."""
        is_news = endpoint.mac is None
        if is_news:
            endpoint.learned_mac = announcement.mac
        before = endpoint.machine
        self._loop.feed(endpoint, announcement.event, announcement.received_ns)
        if is_news:
            self._routes.seed(endpoint.local(self._enforcer.settings))
            if endpoint.machine is before:
                # The guest can be asked from now on.
                self._loop.settle(endpoint)

    def measure(self, endpoint: Endpoint, signal: Signal, received_ns: int) -> Cutover:
        """Say when the last of the guest's routes was in, by its own acknowledgment.

        One that was in before the announcement took no time; where none is, there is only now.
        """
        oif = endpoint.link.index if endpoint.link else 0
        known = self._routes.acknowledged_ns(endpoint.admission.allowed, oif)
        last = max(*known, received_ns) if known else time.time_ns()
        return Cutover(
            signal=signal,
            announcement_to_route_microseconds=max(0, last - received_ns) // 1000,
            time=_EPOCH + dt.timedelta(microseconds=last // 1000),
            migration_uid=endpoint.machine.uid,
        )

    # What else listeners say.

    def unaskable(self, key: ObjectKey, episode: int) -> None:
        """Take that a guest cannot be asked."""
        endpoint = self._endpoints.get(key)
        if endpoint is not None:
            self._loop.feed(endpoint, Unaskable(episode))

    def listening_changed(self, key: ObjectKey) -> None:
        """Report that a listener was lost or is back."""
        self._loop.report((key,))


def _is_refused(route: Route | None, result: int) -> bool:
    return route is not None and result != 0


def _announcement(
    episode: int, accepted: Accepted, received_ns: int, sent: Prepared | None = None
) -> Announcement:
    event = Announced(episode, accepted.signal, accepted.is_answer)
    return Announcement(event, accepted.mac, received_ns, sent)
