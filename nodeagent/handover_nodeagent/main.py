"""Composition root of the agent: wiring and order of start and stop; nothing is decided here."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import gc
import inspect
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import structlog

from handover_api import __version__, names, wording
from handover_api.configuration import OnUninstall, Settings
from handover_api.names import ObjectKey
from handover_nodeagent import configuration, faults, metrics, uninstall
from handover_nodeagent.api import access, parse
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.watch import Watch
from handover_nodeagent.configuration import Invalid
from handover_nodeagent.fsm.machine import RouteLevel
from handover_nodeagent.kernel import capabilities, scheduling
from handover_nodeagent.memory import Memory
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile.intake import Intake
from handover_nodeagent.reconcile.loop import Reconciler, Start
from handover_nodeagent.reconcile.observe import Observation
from handover_nodeagent.routes import host_routes
from handover_nodeagent.settings import AgentSettings
from handover_nodeagent.status import health, inspection, local_socket
from handover_nodeagent.status.report import Reporter
from handover_nodeagent.supervision import ExceptionHandler, Supervisor

CONFIGURATION_PATIENCE: Final = 3.0
"""Seconds for which a start waits for the configuration; then it goes by what it remembers.

Where it remembers none it waits for as long as it takes: built-in defaults are no answer."""
LAST_WORDS: Final = 2.0
"""Seconds for which a stop waits for the reports to leave."""
_ROOT: Final = f"/apis/{names.GROUP}/{names.VERSION}"

_log: Final = structlog.get_logger()


class Unusable(Exception):  # noqa: N818  tells a person what to do
    """The agent cannot start with what it was given."""


class Broken(Exception):  # noqa: N818  tells a person what to do
    """A fault that belongs to all endpoints; a new process starts from what is remembered."""


class Agent:
    """All parts of a running agent."""

    def __init__(
        self,
        settings: AgentSettings,
        memory: Memory,
        api: ApiServer,
        *,
        api_servers: frozenset[IPAddress] = frozenset(),
        awaits: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Wire them; nothing runs so far.

        No endpoint can have one of *api_servers*. Call *awaits* when the first guest is awaited
        (True), and when none is any more.
        """
        self.settings = settings
        self.memory = memory
        remembered = memory.load_configuration()
        self.remembers = remembered is not None
        self.specs: dict[str, Mapping[str, object]] = remembered or {}
        self.configured = asyncio.Event()
        self.uninstalled = asyncio.Event()
        self._requests = uninstall.Requests()
        self.reporter = Reporter(api, _now, settings.node_name)
        # It outlives the work: the last words are said when that has ended.
        self.supervisor = Supervisor(time.monotonic, lambda: self.reconciler.enforcer.blindness)
        self._reporting = asyncio.create_task(
            self.supervisor.keep("reports", self.reporter.run, is_vital=False)
        )
        start, why = self.effective(Settings())
        begin = Start(start, why, memory.load_paused(), api_servers)
        self.reconciler = Reconciler(begin, self.reporter, memory, awaits)
        self.intake = Intake(self.reconciler, self.reporter, memory)
        self.observation = Observation(self.reconciler)
        selector = f"spec.node={settings.node_name}"
        self.endpoints = Watch(
            api,
            f"{_ROOT}/{names.WORKLOAD_ENDPOINTS}",
            sink=_Endpoints(self.intake, self.observation, self.reporter),
            field_selector=selector,
        )
        self.configurations = Watch(
            api, f"{_ROOT}/{names.CONFIGURATIONS}", sink=_Configurations(self)
        )

        metrics.WATCH_RESTARTS.sources = {
            "WorkloadEndpoint": lambda: self.endpoints.counts.restarts,
            "HandoverConfiguration": lambda: self.configurations.counts.restarts,
        }
        metrics.REPORTS.sources = {
            "status": lambda: {"written": self.reporter.counts.written},
            "event": lambda: {"told": self.reporter.counts.created},
            "any": lambda: self.reporter.counts.failures,
        }

    def effective(self, last: Settings) -> tuple[Settings, str]:
        """Return the settings in force, and why the newest ones are not: "" when they are."""
        found = configuration.effective(
            self.specs.get(names.DEFAULT_CONFIGURATION),
            self.specs.get(f"{names.NODE_CONFIGURATION_PREFIX}{self.settings.node_name}"),
            self.settings.overrides,
        )
        if isinstance(found, Invalid):
            default = self.specs.get(names.DEFAULT_CONFIGURATION)
            return configuration.braked(last, default), str(found)
        return found, ""

    def configure(self) -> None:
        """Bring the reconciler to the configuration that is in force."""
        settings, why = self.effective(self.reconciler.settings)
        if why:
            # The one that stays is the one to remember.
            _log.warning("configuration_refused", why=why)
        else:
            self.memory.keep_configuration(self.specs)
        self.intake.configure(settings, why)

    def pause(self, namespaces: frozenset[str] | None) -> None:
        """Leave the endpoints of *namespaces* as they are; None: what was told before holds."""
        if namespaces is not None and namespaces != self.reconciler.enforcer.paused:
            named = wording.name_few(namespaces) or "none any more"
            _log.warning("namespaces_paused", namespaces=named)
            self.memory.keep_paused(namespaces)
            self.intake.pause(namespaces)

    def consider_uninstall(self, metadata: Mapping[str, object]) -> None:
        """See whether HandoverConfiguration ``default`` tells of an uninstall."""
        is_asked = self._requests.is_new(metadata)
        if is_asked and self.reconciler.settings.on_uninstall is OnUninstall.HAND_BACK:
            self.uninstalled.set()

    async def run(self) -> None:
        """Work until cancelled; after an uninstall that asks for it, hand back and stand still."""
        async with asyncio.TaskGroup() as group:
            # It outlives the work: a node that was handed back is no reason to start again.
            group.create_task(self.supervisor.beat())
            work = group.create_task(self._work())
            await self.uninstalled.wait()
            work.cancel()
            await asyncio.wait([work])
            await self._hand_back()
            await asyncio.Event().wait()

    async def _hand_back(self) -> None:
        self.reconciler.enforcer.hold()
        endpoints = tuple(self.reconciler.endpoints.values())
        self.reconciler.orphans.close()
        for endpoint in endpoints:
            endpoint.retire()
        settings = self.reconciler.settings
        silent = {
            address
            for local in (endpoint.local(settings) for endpoint in endpoints)
            if local.level is RouteLevel.NONE
            for address in local.addresses
        }
        returned = await uninstall.hand_back(settings, silent)
        self.reconciler.routes.load(await asyncio.to_thread(host_routes.observe, settings, silent))
        self.reconciler.enforcer.handed_back = True
        # Told as it is now.
        self.intake.configure(settings, self.reconciler.misconfigured)
        _log.info("handed_back", **dataclasses.asdict(returned))

    async def _work(self) -> None:
        records = await asyncio.to_thread(self.memory.load)
        async with asyncio.TaskGroup() as group:
            keep = self.supervisor.keep
            group.create_task(keep("local socket", self._open_door, is_vital=False))
            if not self.remembers:
                # After a boot nobody knows whether the kernel may be written to at all.
                group.create_task(keep("configurations", self.configurations.run))
                await self.configured.wait()
            await self.observation.begin(self.intake, records)
            group.create_task(keep("guard", self.reconciler.enforcer.guard.run, is_vital=False))
            group.create_task(keep("observation", self.observation.run))
            if self.remembers:
                group.create_task(keep("configurations", self.configurations.run))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.configured.wait(), CONFIGURATION_PATIENCE)
            group.create_task(keep("endpoints", self.endpoints.run))

    async def _open_door(self) -> None:
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
        entries: list[inspection.Entry] = []
        for endpoint in tuple(self.reconciler.endpoints.values()):
            entries.append(inspection.entry(self.reconciler.describe(endpoint), _now()))
            await asyncio.sleep(0)
        snapshot = inspection.Snapshot(
            node=self.settings.node_name,
            version=__version__,
            mode=self.reconciler.settings.mode,
            synced=self.intake.is_synced,
            outage=self.intake.outage,
            endpoints=tuple(entries),
        )
        text = await asyncio.to_thread(snapshot.model_dump_json, exclude_none=True)
        return text.encode()

    def unready(self) -> str:
        """Say why nobody may rely on this agent so far; "" when all may."""
        if self.uninstalled.is_set():
            return "the node has been handed back, as the uninstall asked"
        if not (self.remembers or self.configured.is_set()):
            why = self.reconciler.misconfigured
            return why or "nobody has told so far how this node is configured"
        return "" if self.intake.is_synced else "the node's endpoints are not all known yet"

    def heal(self) -> None:
        """Make up for whatever a callback of the loop left undone."""
        self.reconciler.heal()
        self.observation.look()

    async def close(self) -> None:
        """Stop telling and listening; routes and guard stay."""
        for what, end in (
            ("hearing", self.observation.close),
            ("endpoints", self.reconciler.close),
            ("memory", self.memory.flush),
            ("reports", partial(self.reporter.flush, LAST_WORDS)),
        ):
            await _end(what, end)
        self._reporting.cancel()
        await asyncio.gather(self._reporting, return_exceptions=True)
        self.reconciler.enforcer.close()
        self.memory.close()


class _Endpoints:
    """The watch of this node's endpoints."""

    def __init__(self, intake: Intake, observation: Observation, reporter: Reporter) -> None:
        self._intake = intake
        self._observation = observation
        self._reporter = reporter

    def put(self, raw: Mapping[str, object]) -> None:
        self._intake.put(raw)

    def drop(self, key: ObjectKey, uid: str) -> None:
        self._intake.drop(key, uid)

    def synced(self) -> None:
        is_first = not self._intake.is_synced
        self._intake.synced()
        self._reporter.retry_now()
        if is_first:
            # The quick look finds only routes that win; once all endpoints are known, find all.
            self._observation.look()
            gc.collect()
            gc.freeze()

    def outage(self, reason: str, *, is_absent: bool) -> None:  # noqa: ARG002  the sink's form
        self._intake.outage = reason
        _log.warning("outage", kind="WorkloadEndpoint", why=reason)


class _Configurations:
    """The watch of the HandoverConfigurations, of which two concern this node."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        own = f"{names.NODE_CONFIGURATION_PREFIX}{agent.settings.node_name}"
        self._wanted = {names.DEFAULT_CONFIGURATION, own}
        self._listed: set[str] = set()
        self._is_complete = False

    def put(self, raw: Mapping[str, object]) -> None:
        found = parse.configuration(raw)
        if found.name == names.DEFAULT_CONFIGURATION:
            self._agent.pause(found.paused_namespaces)
        if found.name in self._wanted:
            self._listed.add(found.name)
            metrics.GENERATION.labels(found.name).set(found.generation)
            self._take(found.name, configuration.layer(found.spec, found.annotations))
        if found.name == names.DEFAULT_CONFIGURATION:
            self._agent.consider_uninstall({"annotations": found.annotations})
        self._answer()

    def drop(self, key: ObjectKey, uid: str) -> None:  # noqa: ARG002  the sink's form
        if key.name in self._wanted:
            self._listed.discard(key.name)
            self._take(key.name, None)

    def synced(self) -> None:
        for name in self._agent.specs.keys() - self._listed:
            self._take(name, None)
        if names.DEFAULT_CONFIGURATION not in self._listed:
            self._agent.consider_uninstall({})
        self._is_complete = True
        self._answer()

    def outage(self, reason: str, *, is_absent: bool) -> None:
        _log.warning("outage", kind="HandoverConfiguration", why=reason)
        if is_absent:
            self._is_complete = True
            self._answer()

    def _answer(self) -> None:
        """Let the agent begin when it is definite which configuration holds.

        That there is none, or no such kind, is an answer only where nobody is about to apply one.
        """
        has_default = names.DEFAULT_CONFIGURATION in self._agent.specs
        is_awaited = self._agent.settings.await_configuration and not self._agent.remembers
        is_first_invalid = bool(self._agent.reconciler.misconfigured) and not self._agent.remembers
        if self._is_complete and (has_default or not is_awaited) and not is_first_invalid:
            if not self._agent.configured.is_set() and not self._agent.specs:
                # The next start need not wait for what it knows.
                self._agent.memory.keep_configuration({})
            self._agent.configured.set()

    def _take(self, name: str, spec: Mapping[str, object] | None) -> None:
        if spec is None:
            self._agent.specs.pop(name, None)
            metrics.GENERATION.remove(name)
        else:
            self._agent.specs[name] = spec
        self._agent.configure()


async def _end(what: str, end: Callable[[], object]) -> None:
    """Take one step of the end; whatever it meets, the next one is taken."""
    try:
        ended = end()
        if inspect.isawaitable(ended):
            await ended
    except Exception as error:  # noqa: BLE001  the root of the process's last steps
        faults.note(f"end of {what}", error)


async def run(settings: AgentSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises Unusable, Broken or access.Unconfigured."""
    awaits = _raise_priority(settings)
    _raise_limits()
    for sentence in capabilities.missing():
        _log.error("privilege", trouble=sentence)
    memory = Memory(settings.state_directory)
    found = access.find(os.environ)
    async with ApiServer(found) as api:
        own = access.addresses(found, os.environ)
        agent = Agent(settings, memory, api, api_servers=own, awaits=awaits)
        try:
            server = health.Server(_places(settings, agent))
        except OSError as error:
            message = f"cannot serve /healthz, /readyz and /metrics (HANDOVER_PORT): {error}"
            raise Unusable(message) from error
        ExceptionHandler(asyncio.get_running_loop(), agent.heal)
        work = asyncio.create_task(agent.run())
        _take_signals(agent, work)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await work
        except Exception as error:
            _log.critical("broken", exc_info=error)
            message = "an error of the agent's own came back too often: see its log"
            raise Broken(message) from error
        finally:
            await agent.close()
            server.close()
    _log.info("stopped")


def _places(settings: AgentSettings, agent: Agent) -> Iterator[health.Place]:
    """Say where what is served; on all addresses is on the node's own, too."""
    unhealthy, unready = agent.supervisor.unhealthy, agent.unready
    # Who cannot be relied on is not ready either, whatever it knew before.
    served = health.pages(unhealthy=unhealthy, unready=lambda: unhealthy() or unready())
    served["/metrics"] = health.Metrics(metrics.render)
    addresses = {settings.listen_address, settings.metrics_address or settings.listen_address}
    everywhere = addresses & {"::", "0.0.0.0"}  # noqa: S104  as somebody has configured it
    for address in sorted(everywhere)[:1] or addresses:
        is_own = everywhere or address == settings.listen_address
        pages = served if is_own else {page: served[page] for page in ("/metrics", "/readyz")}
        yield health.Place(address, settings.port, pages)


def _raise_priority(settings: AgentSettings) -> Callable[[bool], None]:
    """Have the loop's thread run soon after a frame has woken it.

    Return what is to be told whether a guest is awaited: only then it goes before others.
    """
    scheduling.shorten()
    if settings.processor_priority == "high":
        refusal = scheduling.precede()
        if not refusal:
            scheduling.recede()
            return _take_precedence
        _log.warning("privilege", trouble=f"HANDOVER_PROCESSOR_PRIORITY=high: {refusal}")
    return lambda _: None


def _take_precedence(is_awaited: bool) -> None:  # noqa: FBT001  a callback's one argument
    if is_awaited:
        scheduling.precede()
    else:
        scheduling.recede()


def _raise_limits() -> None:
    """Allow as many descriptors as may be: each guest that is listened to takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _take_signals(agent: Agent, work: asyncio.Task[None]) -> None:
    """End on SIGTERM when no endpoint waits for its guest, on SIGINT or a second one at once."""
    loop = asyncio.get_running_loop()
    leaving: list[asyncio.Task[None]] = []

    def leave() -> None:
        if leaving:
            work.cancel()
        else:
            leaving.append(loop.create_task(_leave(agent, work)))

    loop.add_signal_handler(signal.SIGTERM, leave)
    loop.add_signal_handler(signal.SIGINT, work.cancel)


async def _leave(agent: Agent, work: asyncio.Task[None]) -> None:
    if agent.reconciler.awaits_guests:
        _log.info("serving_on", why="an endpoint is in Target; its guest may come any moment")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(agent.settings.drain_seconds):
            while agent.reconciler.awaits_guests and not agent.uninstalled.is_set():
                await agent.reconciler.moved()
    work.cancel()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  the clock of the reports
