"""From when on speakers hear of the routes of a guest that has come: once its source sends on.

Until then they have the private protocol, which no speaker takes, and serve the guest all the same.
BGP may be faster than the source's redirect, and lead what still arrives there to a router that
itself leads to the source: to and fro, past the port, until its hops are used up.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.kernel.netlink import rtmsg
from handover_nodeagent.network import desired
from handover_nodeagent.network.model import Route
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.reconcile.enforce import Enforcer
from handover_nodeagent.reconcile.peers import Peers

PATIENCE: Final = 0.05
"""Seconds after which speakers hear of a guest whatever its source says: that takes 1 ms, on a busy
machine 6. No longer, or BGP would be late by it where the source's agent has just died."""


class _Awaited(NamedTuple):
    """A guest of which no speaker has heard so far, and its routes as they are to."""

    endpoint: Endpoint
    routes: tuple[Route, ...]
    timer: asyncio.TimerHandle


class Exports:
    """The guests of which no speaker has heard so far."""

    def __init__(
        self,
        endpoints: Mapping[ObjectKey, Endpoint],
        enforcer: Enforcer,
        peers: Peers,
        report: Callable[[Iterable[ObjectKey]], None],
    ) -> None:
        """Call *report* with a guest of which speakers hear from now on."""
        self._report = report
        self._endpoints = endpoints
        self._enforcer = enforcer
        self._routes = enforcer.routes
        self._peers = peers
        self._awaited: dict[ObjectKey, _Awaited] = {}

    def withheld(self, endpoint: Endpoint) -> tuple[Route, ...]:
        """Return the routes of which speakers are to hear late, as they are to; none: at once.

        At once wherever nobody would answer, or no speaker could be before the redirect.
        """
        settings = self._enforcer.settings
        exported = dataclasses.replace(endpoint.local(settings), is_exported=True)
        routes = desired.routes_at(exported, RouteLevel.ELEVATED, settings)
        raced = [one for one in routes if desired.is_raced(one.address, settings)]
        if not (raced and self._peers.sends_on(endpoint)):
            return ()
        return tuple(map(self._routes.known.complete, raced))

    def wait(self, endpoint: Endpoint, routes: Iterable[Route]) -> None:
        """Have speakers hear of *routes* once the source has answered, or after a moment."""
        self.end(endpoint.key)
        endpoint.is_exported = False
        timer = asyncio.get_running_loop().call_later(PATIENCE, self.end, endpoint.key)
        self._awaited[endpoint.key] = _Awaited(endpoint, tuple(routes), timer)

    def acknowledged(self, key: ObjectKey, uid: str, node: str) -> None:
        """Know that *node* has followed: where that is the source, speakers hear of the guest."""
        if key in self._awaited and self._peers.names(key, uid, node):
            self.end(key)

    def end(self, key: ObjectKey) -> None:
        """Let speakers hear of a guest now; again, it changes nothing."""
        awaited = self._awaited.pop(key, None)
        if awaited is None:
            return
        awaited.timer.cancel()
        endpoint = awaited.endpoint
        endpoint.is_exported = True
        routes = [route for route in awaited.routes if self._is_plain(route)]
        results = self._routes.tables.send([rtmsg.encode_replace(route) for route in routes])
        ours = self._routes.known.ours
        for route, result in zip(routes, results, strict=True):
            if result == 0:
                # The guest has had it since then.
                ours.put(route, ours.acknowledged_ns(route))
                metrics.ROUTES.labels("add").inc()
        # What was not so simple. One that has not stepped so far is applied when it does.
        if self._endpoints.get(key) is endpoint and endpoint.announcement is None:
            local = endpoint.local(self._enforcer.settings)
            self._enforcer.apply(self._routes.desired.put(local))
        self._report((key,))

    def _is_plain(self, route: Route) -> bool:
        """Tell whether the withheld form of *route* is what a replacement would take."""
        known = self._routes.known
        there = [one for one in known.ours.of(route.address) if one.key == route.key]
        withheld = dataclasses.replace(
            route, protocol=self._enforcer.settings.private_route_protocol
        )
        return there == [withheld] and not known.collisions.has_gateway(route)
