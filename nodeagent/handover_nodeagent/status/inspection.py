"""PURE: what a running agent shows of itself, as a value, as JSON and as a table for a person.

It is made of the same facts as the statuses in the API, and says what the agent would report also
while the API cannot be reached.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from handover_api.conditions import EndpointCondition
from handover_api.model import Model
from handover_api.workloadendpoint import Cutover, WorkloadEndpointStatus
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import Encapsulated, IPAddress, Route, Via
from handover_nodeagent.status import conditions
from handover_nodeagent.status.conditions import Facts

_HEADINGS: Final = (
    *("ENDPOINT", "ROLE", "STATE", "INTERFACE", "ROUTES", "SINCE", "LAST CUTOVER", "TROUBLE"),
)
_LED_HEADINGS: Final = ("GUEST OF ANOTHER NODE", "METRIC", "NODE", "BY")
_NOTHING: Final = "-"
_ORDERLY: Final = frozenset(
    {
        EndpointCondition.PROGRAMMED,
        EndpointCondition.CONFIGURED,
        EndpointCondition.REDIRECTABLE,
        EndpointCondition.ADVERTISED,
        EndpointCondition.HOLDING,
    }
)
"""Condition types whose normal status is True; Listening may be either."""
# All others are there only while something is wrong, so that True is the trouble.
_TROUBLES: Final = frozenset(EndpointCondition) - _ORDERLY - {EndpointCondition.LISTENING}


class LedRoute(Model):
    """A route to a guest that another node has: to which one (""; nobody says), and by what."""

    address: IPAddress
    metric: int
    node: str
    way: str

    def __str__(self) -> str:
        """Write it for a person."""
        to = f" to {self.node}" if self.node else ""
        return f"{self.address} metric {self.metric}{to} by {self.way}"


class Entry(Model):
    """One endpoint, with the status that the agent reports, or would if it could."""

    namespace: str
    name: str
    status: WorkloadEndpointStatus
    redirects: tuple[LedRoute, ...] = ()
    """Its routes that lead to another node: of these the status has only what others may use."""


class Snapshot(Model):
    """All that a person may want to know of one agent at one moment."""

    node: str
    version: str
    mode: str
    synced: bool
    outage: str = ""
    """Why the API may know more than the agent since a while; "" when it does not."""
    endpoints: tuple[Entry, ...] = ()
    led: tuple[LedRoute, ...] = ()
    """The routes to guests of other nodes that are no endpoint's here: distributed ones, and what
    is left of redirects."""


def entry(facts: Facts, now: dt.datetime, nodes: Mapping[IPAddress, str]) -> Entry:
    """Show one endpoint; *nodes* are named by their addresses."""
    key = facts.endpoint.key
    # Without the conditions before: since when they hold is not shown.
    shown = conditions.status(facts, (), now)
    redirects = tuple(led(route, nodes) for route in facts.redirects)
    return Entry(namespace=key.namespace, name=key.name, status=shown, redirects=redirects)


def led(route: Route, nodes: Mapping[IPAddress, str]) -> LedRoute:
    """Show a route that sends on to another node."""
    way, node = "its device", ""
    match route.way:
        case Encapsulated():
            way, node = f"tunnel to {route.way.remote}", nodes.get(route.way.remote, "")
        case Via():
            way, node = f"gateway {route.way.gateway}", nodes.get(route.way.gateway, "")
    return LedRoute(address=route.address, metric=route.metric, node=node, way=way)


def distributed(address: IPAddress, metric: int, node: str, hop: NextHop | None) -> LedRoute:
    """Show a route of the distribution, by the next hop that its node has."""
    way = "a nexthop object that is gone"
    if hop:
        way = f"gateway {hop.gateway}" if hop.gateway else "its device"
        way = f"tunnel to {hop.tunnel.remote}" if hop.tunnel else way
    return LedRoute(address=address, metric=metric, node=node, way=way)


def table(snapshot: Snapshot, now: dt.datetime) -> str:
    """Write *snapshot* for a person."""
    synced = "in step with the API" if snapshot.synced else "not all endpoints are known yet"
    if snapshot.outage:
        synced = f"NOT in step with the API ({snapshot.outage})"
    title = f"node {snapshot.node}, agent {snapshot.version}, mode {snapshot.mode}, {synced}"
    # By name, for a person who looks twice; the agent has them in the order of their arrival.
    rows = [_row(one, now) for one in sorted(snapshot.endpoints, key=_order)]
    text = columns([_HEADINGS, *rows]) if rows else "No endpoint is on this node."
    if snapshot.led:
        ordered = sorted(snapshot.led, key=lambda one: (one.address.version, one.address))
        others = [
            (str(one.address), str(one.metric), one.node or _NOTHING, one.way) for one in ordered
        ]
        text += f"\n\n{columns([_LED_HEADINGS, *others])}"
    return f"{title}\n{text}"


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Set *rows* below each other."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def age(since: dt.datetime | None, now: dt.datetime) -> str:
    """Write how long ago something was, as kubectl does."""
    if since is None:
        return _NOTHING
    # A clock that was set back makes nothing younger than new.
    seconds = max(0, int((now - since).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _row(one: Entry, now: dt.datetime) -> tuple[str, ...]:
    status = one.status
    redirects = {(one.address, one.metric): str(one) for one in one.redirects}
    routes = [
        redirects.pop((route.address, route.metric), f"{route.address} metric {route.metric}")
        for route in status.routes
    ]
    # Of a metric that nobody exports: the status has none of them.
    routes += redirects.values()
    return (
        f"{one.namespace}/{one.name}",
        status.role or _NOTHING,
        status.state or _NOTHING,
        status.interface or _NOTHING,
        ", ".join(routes) or _NOTHING,
        age(status.since, now),
        _cutover(status.last_cutover, now),
        _trouble(status) or _NOTHING,
    )


def _cutover(cutover: Cutover | None, now: dt.datetime) -> str:
    if cutover is None:
        return _NOTHING
    microseconds = cutover.announcement_to_route_microseconds
    return f"{cutover.signal} {microseconds} µs, {age(cutover.time, now)} ago"


def _trouble(status: WorkloadEndpointStatus) -> str:
    return "; ".join(
        f"{condition.reason}: {condition.message}" if condition.message else condition.reason
        for condition in status.conditions
        if (condition.type in _ORDERLY and condition.status != "True")
        or (condition.type in _TROUBLES and condition.status == "True")
        # Listening is False for most endpoints and at most times; only this reason is a trouble.
        or condition.reason == "CannotListen"
    )


def _order(one: Entry) -> tuple[str, str]:
    return one.namespace, one.name
