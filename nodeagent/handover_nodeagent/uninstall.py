"""Gives the node back: what ``onUninstall: handBack`` asks for, once an uninstall says so.

The request is an annotation on HandoverConfiguration ``default`` that changes while the agent
runs: one that it finds at its start is that of an earlier installation. The loop stands still by
then, and nobody but this room writes to the kernel.
"""

import asyncio
import dataclasses
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import structlog

from handover_api import names
from handover_api.configuration import OnUninstall, Settings
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.kernel import nexthops, parking, route_lookup, tunnel
from handover_nodeagent.kernel.arp_guard.table import GuardTable
from handover_nodeagent.kernel.netlink import answers, nhmsg, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.kernel.redirect_table.table import RedirectTable
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile.loop import Reconciler
from handover_nodeagent.reconcile.reconfigure import Reconfiguration
from handover_nodeagent.routes import host_routes

_log: Final = structlog.get_logger()


class Requests:
    """Tells a request for the hand-back from the trace of an earlier one."""

    def __init__(self) -> None:
        self._first: str | None = None

    def is_new(self, metadata: Mapping[str, Any]) -> bool:
        """Take in the metadata of ``default``, {} where there is none; tell if it asks us."""
        mark = (metadata.get("annotations") or {}).get(names.UNINSTALL, "")
        # That there is no such object is a first look, too: any mark after it is a new one.
        if self._first is None:
            self._first = mark
        return mark not in {"", self._first}


class Uninstall:
    """An uninstall of the chart, and what it asks of this node; ``asked`` is set when it does."""

    def __init__(self, reconciler: Reconciler, reconfiguration: Reconfiguration) -> None:
        self.asked = asyncio.Event()
        self._requests = Requests()
        self._reconciler = reconciler
        self._reconfiguration = reconfiguration

    def consider(self, annotations: Mapping[str, str]) -> None:
        """See whether the *annotations* of ``default`` tell of an uninstall that concerns us."""
        is_new = self._requests.is_new({"annotations": annotations})
        if is_new and self._reconciler.settings.on_uninstall is OnUninstall.HAND_BACK:
            self.asked.set()

    def unready(self) -> str:
        """Say why nobody may rely on this agent any more; "" when all may."""
        if self.asked.is_set():
            return "the node has been handed back, as the uninstall asked"
        return ""

    async def hand_back(self) -> None:
        """Stop all that writes to the kernel, give the node back, and report it as it is then."""
        reconciler, settings = self._reconciler, self._reconciler.settings
        # From here on the loop desires, but nothing of it reaches the kernel.
        reconciler.enforcer.hold()
        endpoints = tuple(reconciler.endpoints.values())
        reconciler.orphans.close()
        reconciler.remaining.close()
        # Nobody is to send on to a node that answers for nothing any more.
        reconciler.peers.close()
        for endpoint in endpoints:
            reconciler.retire(endpoint)
        silent = {
            address
            for local in (endpoint.local(settings) for endpoint in endpoints)
            if local.level is RouteLevel.NONE
            for address in local.addresses
        }
        returned = await hand_back(settings, silent)
        # The nexthop objects are left of what leads to other nodes' guests.
        await reconciler.advertising.remove()
        # Read back: statuses tell what is left in the kernel, not what it was asked to do.
        observed = await asyncio.to_thread(host_routes.observe, settings, silent)
        reconciler.routes.load(observed)
        reconciler.enforcer.handed_back = True
        # The same settings: it reports all endpoints, and changes nothing.
        self._reconfiguration.configure(settings, reconciler.misconfigured)
        _log.info("handed_back", **dataclasses.asdict(returned))


@dataclass(frozen=True, slots=True)
class Returned:
    """What was done; ``trouble`` is "" or says what could not be.

    ``kept``: so many routes of ours stay, for nothing else leads to their addresses.
    """

    parked: int
    ours: int
    kept: int
    trouble: str


async def hand_back(settings: Settings, silent: AbstractSet[IPAddress]) -> Returned:
    """Put parked routes back, then take out what is ours; again, it changes nothing.

    A route of ours stays where nobody else has one: a guest that it serves would be cut off.
    The foreign routes of *silent* addresses stay parked: their guests are elsewhere, and a route
    here would draw what is meant for them. Raises ObservationError.
    """
    returned = await asyncio.to_thread(_hand_back_routes, settings, silent)
    # A thread and a process anew: those of the guard's task have ended with it.
    writer = Writer()
    removed = await GuardTable(writer).remove()
    # After the tunnels: until then nobody else may send into them.
    bounds = await RedirectTable(writer).remove()
    writer.close()
    troubles = (returned.trouble, removed.trouble, bounds.trouble)
    return dataclasses.replace(returned, trouble=next(filter(None, troubles), ""))


def _hand_back_routes(settings: Settings, silent: AbstractSet[IPAddress]) -> Returned:
    table = settings.route_table
    with Channel() as channel:
        parked = [each for each in parking.observe_parked() if each.route.address not in silent]
        # Before ours go, so that no guest that stays here is without a route in between.
        results = [parking.unpark(channel, each, table, settings.route_protocol) for each in parked]
        ours = [
            route
            for protocol in sorted(settings.route_protocols)
            for route in route_lookup.observe(protocol, [table])
        ]
        addresses = {route.address for route in ours}
        others = parking.observe_others(addresses, table, settings.route_protocols).direct
        # Only these have another route, or need none; a guest must not lose its last one. One that
        # leads on is no guest's of this node.
        free = silent | {each.route.address for each in others}
        going = [route for route in ours if route.way or route.address in free]
        channel.transact([rtmsg.encode_remove(route) for route in going])
        objects = nexthops.observe(table, settings.private_route_protocol).nexthops
        channel.transact([nhmsg.encode_remove(number) for number in objects])
        for name in (tunnel.REDIRECT, tunnel.DISTRIBUTION):
            tunnel.remove(channel, name)
    refused = next((result for result in results if result), 0)
    trouble = f"a parked route stays: {answers.describe(refused)}" if refused else ""
    return Returned(results.count(0), len(going), len(ours) - len(going), trouble)
