"""Runs the distribution while the configuration wants it, and joins it to this node's endpoints.

What the rest of the agent knows of it is here: which of its own endpoints other nodes are told of,
what stands in the way, and that a HAVE was heard. Where nothing is distributed all of that is void.
"""

import asyncio
import contextlib
import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Final

from handover_api import names
from handover_api.configuration import Advertise, Mode, Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, State, WorkloadEndpoint, WorkloadEndpointStatus
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.watch import Watch
from handover_nodeagent.distribution import advertised, sinks
from handover_nodeagent.distribution.distribution import Distribution
from handover_nodeagent.distribution.place import Place, Speakers
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.codec import ObservationError
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import IPAddress

_NODES: Final = "/api/v1/nodes"
_ENDPOINTS: Final = f"/apis/{names.GROUP}/{names.VERSION}/{names.WORKLOAD_ENDPOINTS}"


class Course(enum.Enum):
    """What a configuration asks for."""

    RUN = enum.auto()
    LEAVE = enum.auto()
    REMOVE = enum.auto()

    @classmethod
    def of(cls, settings: Settings) -> "Course":
        """Return what *settings* ask for; who may write nothing may remove nothing either."""
        if settings.mode is not Mode.ACTIVE:
            return cls.LEAVE
        return cls.RUN if settings.advertise is Advertise.AGENTS else cls.REMOVE


class Advertising:
    """The distribution of this node, running or not."""

    def __init__(self, place: Place) -> None:
        """Do nothing before :meth:`run`; the settings of *place* are those of the start."""
        self._place = place
        self._configured = asyncio.Event()
        self._current: Distribution | None = None
        self._speakers: Speakers | None = None
        self._decided: dict[ObjectKey, bool] = {}

    # Run.

    async def run(self, api: ApiServer) -> None:
        """Do what the configuration in force asks for, until cancelled."""
        while True:
            place = self._place
            self._configured.clear()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self._follow(api, place))
                while _concern(place.settings) == _concern(self._place.settings):
                    await self._configured.wait()
                    self._configured.clear()
                task.cancel()

    def configure(self, settings: Settings) -> None:
        """Follow other *settings*."""
        self._place = dataclasses.replace(self._place, settings=settings)
        self._configured.set()

    def speak(self, speakers: Speakers) -> None:
        """Tell the direct path, before :meth:`run`, who may speak and whom to speak to."""
        self._speakers = speakers

    def refresh(self) -> None:
        """Look at everything anew, as other namespaces are paused now."""
        if self._current:
            self._current.refresh()

    def look_soon(self) -> None:
        """Look at the ways to all nodes anew: the tunnel may be made now."""
        if self._current:
            self._current.look_soon()

    async def remove(self) -> None:
        """Take out all that was distributed here, at an uninstall. Raises ObservationError."""
        with Channel() as channel:
            await Distribution(self._place, channel).remove()

    async def _follow(self, api: ApiServer, place: Place) -> None:
        match Course.of(place.settings):
            case Course.RUN:
                await self._distribute(api, place)
            case Course.REMOVE:
                # A kernel that cannot tell of such objects (before 5.3) has none of ours.
                with contextlib.suppress(ObservationError):
                    await self.remove()
            case Course.LEAVE:
                pass

    async def _distribute(self, api: ApiServer, place: Place) -> None:
        # A socket of its own: by its number notifications tell whose change it was.
        with Channel() as channel:
            it = self._current = Distribution(place, channel, self._speakers)
            nodes = Watch(api, _NODES, sink=sinks.NodeSink(it))
            endpoints = Watch(
                api, _ENDPOINTS, sink=sinks.AdvertisedSink(it), field_selector=sinks.SELECTOR
            )
            # Our own are told by their reports.
            place.changed()
            try:
                async with asyncio.TaskGroup() as group:
                    for task in (it.run(), nodes.run(), endpoints.run()):
                        group.create_task(task)
            finally:
                self._current = None

    # What the rest of the agent says and asks.

    def bystander_has(self, key: ObjectKey, uid: str) -> bool:
        """Follow a HAVE of an endpoint of another node; tell whether the routes follow it now."""
        return self._current is not None and self._current.bystander_has(key, uid)

    def published(self, found: WorkloadEndpoint, status: WorkloadEndpointStatus) -> None:
        """Know an endpoint of this node as its agent reports it, before the API does."""
        if self._current:
            place = self._current.place
            own = advertised.describe(found, status, place.settings, place.api_servers)
            self._current.put(own)

    def removed(self, key: ObjectKey) -> None:
        """Know that an endpoint of this node is gone."""
        self._decided.pop(key, None)
        if self._current:
            self._current.drop(key)

    def decide(
        self, found: WorkloadEndpoint, state: State, role: Role | None, routed: Iterable[IPAddress]
    ) -> bool | None:
        """Decide whether other nodes are told of an endpoint of this node; None: nobody is."""
        if self._place.settings.advertise is not Advertise.AGENTS:
            return None
        if self._current is None or not self._current.knows_nodes:
            # Whether it is at home is not known so far: what was said before still counts, by us,
            # as our object is older than our own reports, or by an agent before this one. What is
            # but remembered may have been told of.
            said = self._decided.get(found.key, found.status.advertised)
            counted = routed if said is None else ()
            return bool(said) or advertised.is_advertised(state, role, counted, None)
        node = self._current.resolver.nodes.get(self._place.node)
        decided = advertised.is_advertised(state, role, routed, node)
        self._decided[found.key] = decided
        return decided

    def led(self) -> Iterable[tuple[IPAddress, int, str, NextHop | None]]:
        """Tell of each distributed route where it leads: its node, and the next hop."""
        return self._current.routes.known.led() if self._current else ()

    @property
    def nodes(self) -> Mapping[IPAddress, str]:
        """The cluster's nodes by their addresses, as far as they are known."""
        found = self._current.resolver.nodes.values() if self._current else ()
        return {address: node.name for node in found for address in node.addresses}

    @property
    def strict_devices(self) -> frozenset[str]:
        """The devices on which clients outside of the cluster would be lost."""
        return self._current.strict_devices if self._current else frozenset()

    @property
    def unreachable(self) -> tuple[str, ...]:
        """The nodes to which no next hop leads from here."""
        found = self._current.hops.unreachable if self._current else ()
        return tuple(sorted({name for name, _ in found}))


def _concern(settings: Settings) -> tuple[object, ...]:
    """Return what of a configuration the distribution goes by; all else changes nothing here."""
    return (
        Course.of(settings),
        settings.route_protocol,
        settings.route_table,
        settings.live_migration_route_convergence_time,
        settings.allowed_cidrs,
        settings.ipv4_normal_route_priority,
        settings.ipv6_normal_route_priority,
        settings.ipv4_elevated_route_priority,
        settings.ipv6_elevated_route_priority,
    )
