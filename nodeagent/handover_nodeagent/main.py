"""The process: signals, privileges, and the order of start and stop; nothing is decided here.

The server of health and metrics is there before the work, so that a port that is taken ends the
agent before it has touched any route; and after it, until the last report has left.
"""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from handover_nodeagent import metrics
from handover_nodeagent.agent import Agent
from handover_nodeagent.api import access, credentials
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.kernel import capabilities, scheduling
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.settings import AgentSettings
from handover_nodeagent.status import health
from handover_nodeagent.supervision import ExceptionHandler

_log: Final = structlog.get_logger()


class Unusable(Exception):  # noqa: N818  tells a person what to do
    """The agent cannot start with what it was given."""


class Broken(Exception):  # noqa: N818  tells a person what to do
    """A fault that belongs to all endpoints; a new process starts from what is remembered."""


async def run(settings: AgentSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises Unusable, Broken or access.Unconfigured."""
    expects = _raise_priority(settings)
    _raise_limits()
    # Said and lived with: what can work without them does.
    for sentence in capabilities.missing():
        _log.error("privilege", trouble=sentence)
    memory = Memory(settings.state_directory)
    found = credentials.find(os.environ)
    async with ApiServer(found) as api:
        own = access.addresses(found, os.environ)
        agent = Agent(settings, memory, api, api_servers=own, expects=expects)
        try:
            server = health.Server(_places(settings, agent))
        except OSError as error:
            message = f"cannot serve /healthz, /readyz and /metrics (HANDOVER_PORT): {error}"
            raise Unusable(message) from error
        # Before the work begins, so that no callback's exception goes unheard.
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

    Return what is to be told whether a guest is expected: only then it goes before others.
    """
    scheduling.shorten()
    if settings.processor_priority == "high":
        refusal = scheduling.precede()
        # Tried and undone: whether it may be is known before the first guest depends on it.
        if not refusal:
            scheduling.recede()
            return _take_precedence
        _log.warning("privilege", trouble=f"HANDOVER_PROCESSOR_PRIORITY=high: {refusal}")
    return lambda _: None


def _take_precedence(is_expected: bool) -> None:  # noqa: FBT001  a callback's one argument
    if is_expected:
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

    # Kubernetes sends SIGTERM and gives the pod its grace period; a person presses Ctrl-C.
    loop.add_signal_handler(signal.SIGTERM, leave)
    loop.add_signal_handler(signal.SIGINT, work.cancel)


async def _leave(agent: Agent, work: asyncio.Task[None]) -> None:
    if agent.reconciler.expects_guests:
        _log.info("serving_on", why="an endpoint is in Target; its guest may come any moment")
    # Within the pod's grace period (the chart's 600 s), at whose end SIGKILL comes. Once the node
    # is handed back nothing would follow a guest that came.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(agent.settings.drain_seconds):
            while agent.reconciler.expects_guests and not agent.uninstall.asked.is_set():
                await agent.reconciler.moved()
    work.cancel()
