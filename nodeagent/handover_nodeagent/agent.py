"""The parts of a running agent, and how they are joined; nothing is decided here."""

import asyncio
import contextlib
import datetime as dt
import gc
import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from handover_api import __version__, names
from handover_api.configuration import Settings
from handover_nodeagent import faults, metrics
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.watch import Watch
from handover_nodeagent.configuration import Layers
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers.direct_path import DirectPath
from handover_nodeagent.peers.keys import Key
from handover_nodeagent.reconcile.configuration_sink import ConfigurationSink
from handover_nodeagent.reconcile.endpoint_sink import EndpointSink
from handover_nodeagent.reconcile.lifecycle import Lifecycle
from handover_nodeagent.reconcile.loop import Reconciler, Start
from handover_nodeagent.reconcile.observe import Observation
from handover_nodeagent.reconcile.own_node import OwnNodeSink
from handover_nodeagent.reconcile.peer_sink import PeerSink
from handover_nodeagent.reconcile.reconfigure import Reconfiguration
from handover_nodeagent.settings import AgentSettings
from handover_nodeagent.status import inspection, local_socket
from handover_nodeagent.status.report import Reporter
from handover_nodeagent.supervision import Supervisor
from handover_nodeagent.uninstall import Uninstall

CONFIGURATION_PATIENCE: Final = 3.0
"""Seconds for which a start waits for the configuration; then it goes by what it remembers.

Where it remembers none it waits for as long as it takes: built-in defaults are no answer."""
LAST_WORDS: Final = 2.0
"""Seconds for which a stop waits for the reports to leave."""
SHOWN: Final = 64
"""Routes to guests of other nodes that are shown in one turn of the loop."""
_ROOT: Final = f"/apis/{names.GROUP}/{names.VERSION}"

_log: Final = structlog.get_logger()


class Agent:
    """All parts of a running agent.

    Each is given those it needs when it is made, and none looks for another one here.
    """

    def __init__(
        self,
        settings: AgentSettings,
        memory: Memory,
        api: ApiServer,
        *,
        api_servers: frozenset[IPAddress] = frozenset(),
        expects: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Wire them; nothing runs so far but the task that sends reports.

        No endpoint can have one of *api_servers*. Call *expects* when the first guest may come
        or go (True), and when none may any more.
        """
        self.settings = settings
        self.memory = memory
        self.reporter = Reporter(api, _now, settings.node_name)
        # What is remembered holds until the API says otherwise: a start must not wait for it.
        self._layers = Layers(
            settings.node_name,
            settings.overrides,
            memory.load_configuration(),
            somebody_applies_default=settings.await_configuration,
        )
        effective = self._layers.effective(Settings())
        start = Start(*effective, memory.load_paused(), api_servers, settings.node_name)
        self.reconciler = Reconciler(start, self.reporter, memory, expects)
        self.observation = Observation(self.reconciler)
        lifecycle = Lifecycle(self.reconciler, memory)
        self.endpoints = EndpointSink(
            self.reconciler, lifecycle, self.reporter, memory, self._begun
        )
        reconfiguration = Reconfiguration(self.reconciler, lifecycle, self.endpoints)
        self.uninstall = Uninstall(self.reconciler, reconfiguration)
        self.configurations = ConfigurationSink(
            self._layers,
            memory,
            reconfiguration,
            consider_uninstall=self.uninstall.consider,
        )
        self._distribute = partial(self.reconciler.advertising.run, api)
        self.reconciler.peers.converse(settings.node_addresses, self._open_path)
        self.reconciler.advertising.speak(self.reconciler.peers)
        self._endpoint_watch = Watch(
            api,
            f"{_ROOT}/{names.WORKLOAD_ENDPOINTS}",
            sink=self.endpoints,
            field_selector=f"spec.node={settings.node_name}",
        )
        self._configuration_watch = Watch(
            api, f"{_ROOT}/{names.CONFIGURATIONS}", sink=self.configurations
        )
        # Not the distribution's list of all: that runs only where the agents carry the routes.
        self._own_node_watch = Watch(
            api,
            "/api/v1/nodes",
            sink=OwnNodeSink(settings.node_name, self.reconciler.redirects.move),
            field_selector=f"metadata.name={settings.node_name}",
        )
        self.supervisor = Supervisor(time.monotonic, lambda: self.reconciler.enforcer.blindness)
        # A task of its own, which outlives the work: the last reports leave when that has ended.
        self._reporting = asyncio.create_task(
            self.supervisor.keep("reports", self.reporter.run, is_vital=False)
        )
        self._count()

    def _count(self) -> None:
        """Let the metrics read what the parts count."""
        metrics.WATCH_RESTARTS.sources = {
            "WorkloadEndpoint": lambda: self._endpoint_watch.counts.restarts,
            "HandoverConfiguration": lambda: self._configuration_watch.counts.restarts,
        }
        metrics.REPORTS.sources = {
            "status": lambda: {"written": self.reporter.counts.written},
            "event": lambda: {"told": self.reporter.counts.created},
            "any": lambda: self.reporter.counts.failures,
        }

    async def run(self) -> None:
        """Work until cancelled; after an uninstall that asks for it, hand back and stand still."""
        async with asyncio.TaskGroup() as group:
            # Beats on after the work: a node that was handed back is no reason to start again.
            group.create_task(self.supervisor.beat())
            work = group.create_task(self._work())
            await self.uninstall.asked.wait()
            # Nobody but the hand-back writes to the kernel then.
            work.cancel()
            await asyncio.wait([work])
            await self.uninstall.hand_back()
            await asyncio.Event().wait()

    async def _work(self) -> None:
        """Start the tasks in the order in which each finds what it needs.

        First the configuration, then kernel and memory, and only then the endpoints.
        """
        records = await asyncio.to_thread(self.memory.load)
        configured = self.configurations.configured
        async with asyncio.TaskGroup() as group:
            keep = self.supervisor.keep
            group.create_task(keep("local socket", self._serve_locally, is_vital=False))
            if not self._layers.are_remembered:
                # After a boot nobody knows whether the kernel may be written to at all.
                group.create_task(keep("configurations", self._configuration_watch.run))
                await configured.wait()
            # Before the endpoints: each is to find its peers.
            self.reconciler.peers.configure()
            await self.observation.begin(self.endpoints, records)
            group.create_task(keep("guard", self.reconciler.enforcer.guard.run, is_vital=False))
            table = self.reconciler.enforcer.redirect_table
            group.create_task(keep("redirect_table", table.run, is_vital=False))
            group.create_task(keep("observation", self.observation.run))
            if self._layers.are_remembered:
                group.create_task(keep("configurations", self._configuration_watch.run))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(configured.wait(), CONFIGURATION_PATIENCE)
            group.create_task(keep("endpoints", self._endpoint_watch.run))
            group.create_task(keep("own node", self._own_node_watch.run, is_vital=False))
            group.create_task(keep("distribution", self._distribute, is_vital=False))

    def _open_path(self) -> DirectPath:
        """Speak with other agents, once the configuration wants it."""
        sink = PeerSink(self.reconciler, self.reconciler.advertising.bystander_has)
        return DirectPath(sink, Key.make(), time.time_ns(), self._reached)

    def _reached(self) -> None:
        """Tell how other agents reach this one by now."""
        self.reconciler.report(tuple(self.reconciler.endpoints))

    def _begun(self) -> None:
        """Make good for what a start left undone, once all endpoints are known."""
        # The lookup finds only routes that win; once all endpoints are known, find all.
        self.observation.request_resync()
        # What is known by now lives on; a collection that walks it would hold up the loop.
        gc.collect()
        gc.freeze()

    async def _serve_locally(self) -> None:
        """Let persons on this node ask, until cancelled."""
        try:
            server = await local_socket.serve(self.settings.state_directory, self.show)
        except OSError as error:
            _log.warning("no_local_socket", why=f"`status` cannot ask this agent: {error}")
            return
        async with server:
            await server.serve_forever()

    async def show(self) -> bytes:
        """Show all endpoints, one at a time: announcements go before."""
        reconciler, entries = self.reconciler, list[inspection.Entry]()
        nodes = {**reconciler.advertising.nodes, **reconciler.peers.nodes}
        for endpoint in tuple(reconciler.endpoints.values()):
            entries.append(inspection.entry(reconciler.describe(endpoint), _now(), nodes))
            await asyncio.sleep(0)
        led = [inspection.led(route, nodes) for route in reconciler.remaining.routes]
        for number, one in enumerate(tuple(reconciler.advertising.led())):
            led.append(inspection.distributed(*one))
            if number % SHOWN == SHOWN - 1:
                await asyncio.sleep(0)
        snapshot = inspection.Snapshot(
            node=self.settings.node_name,
            version=__version__,
            mode=reconciler.settings.mode,
            synced=self.endpoints.is_synced,
            outage=self.endpoints.outage_reason,
            endpoints=tuple(entries),
            led=tuple(led),
        )
        text = await asyncio.to_thread(snapshot.model_dump_json, exclude_none=True)
        return text.encode()

    def unready(self) -> str:
        """Say why nobody may rely on this agent so far; "" when all may."""
        parts = (self.uninstall, self.configurations, self.endpoints)
        return next(filter(None, (part.unready() for part in parts)), "")

    def heal(self) -> None:
        """Make up for whatever a callback of the loop left undone."""
        self.reconciler.heal()
        self.observation.request_resync()

    async def close(self) -> None:
        """Stop telling and listening; routes and guard stay."""
        # Each of them feeds the next: what was heard is told, remembered and reported.
        for what, end in (
            ("hearing", self.observation.close),
            ("endpoints", self.reconciler.close),
            ("memory", self.memory.flush),
            ("reports", partial(self.reporter.flush, LAST_WORDS)),
        ):
            await _end(what, end)
        self._reporting.cancel()
        await asyncio.gather(self._reporting, return_exceptions=True)
        # Until now its socket was in use: a status that is made asks the kernel which route wins.
        self.reconciler.enforcer.close()
        self.memory.close()


async def _end(what: str, end: Callable[[], object]) -> None:
    """Take one step of the end; whatever it meets, the next one is taken."""
    try:
        ended = end()
        if inspect.isawaitable(ended):
            await ended
    except Exception as error:  # noqa: BLE001  the root of the process's last steps
        faults.note(f"end of {what}", error)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  the clock of the reports
