"""Composition root of the operator: wiring and order of start and stop; nothing is decided here."""

import asyncio
import contextlib
import datetime as dt
import functools
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
import yaml

from handover_operator import kopf_app
from handover_operator.controller import Controller
from handover_operator.kinds import Kind
from handover_operator.kopf_runtime import Memo
from handover_operator.kube import connection, leadership, resync, retry, watch
from handover_operator.kube.client import Cluster, Leases
from handover_operator.kube.connection import Connection
from handover_operator.kube.default_configuration import Default
from handover_operator.kube.leadership import Leadership
from handover_operator.kube.namespaces import Namespaces
from handover_operator.kube.resync import Resync
from handover_operator.kube.standby import Standby
from handover_operator.kubevirt.controller import KubeVirtController
from handover_operator.kubevirt.discovery import Discovery
from handover_operator.observability import health, metrics
from handover_operator.settings import OperatorSettings


class Unusable(Exception):  # noqa: N818  tells a person what to do
    """The operator cannot start with what it was given."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What one process is made of.

    ``adapter``, ``discovery``: None where KubeVirt is not to be followed. ``leadership``: None
    where this replica is the only one.
    """

    settings: OperatorSettings
    connection: Connection
    api: Cluster
    controller: Controller
    default: Default
    adapter: KubeVirtController | None
    discovery: Discovery | None
    standby: Standby
    leadership: Leadership | None

    @property
    def loops(self) -> tuple[Controller | KubeVirtController, ...]:
        """All that writes: roles and statuses, and what is made for KubeVirt."""
        return (self.controller,) if self.adapter is None else (self.controller, self.adapter)


def wire(
    settings: OperatorSettings, api_server: Connection, given: Mapping[str, object] | None
) -> Parts:
    """Put the parts together; nothing runs so far."""
    identity = f"{settings.pod_name}_{settings.pod_uid}"
    standby = Standby(identity)
    election: Leadership | None = None
    if settings.leader_election:
        leases = Leases(api_server, settings.namespace, leadership.NAME)
        election = Leadership(leases, identity, _now, standby.note_renewal)
    # Asked before every single write, whatever has begun it.
    api = Cluster(api_server) if election is None else Cluster(api_server, election.holds)
    controller = Controller(api, _now)
    default = Default(api, controller, given)
    controller.add_listener(default)
    adapter, discovery = None, None
    if settings.kubevirt:
        is_configured = default.has_been_there
        adapter = KubeVirtController(api, controller, _now, settings.migration_ttl, is_configured)
        controller.follow(adapter)
        discovery = Discovery(api, adapter, settings.sweep_interval)
    return Parts(
        settings=settings,
        connection=api_server,
        api=api,
        controller=controller,
        default=default,
        adapter=adapter,
        discovery=discovery,
        standby=standby,
        leadership=election,
    )


async def run(settings: OperatorSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises Unusable or errors.Unconfigured."""
    given = read_default(settings.configuration_file)
    parts = wire(settings, Connection(await connection.find()), given)
    metrics.watch(
        lambda: sum(len(loop) for loop in parts.loops),
        lambda: sum(loop.denied() for loop in parts.loops),
        parts.controller.cache.shared,
        parts.controller.cache,
    )
    # Before anything waits for the API server: the kubelet ends a pod whose /healthz is silent,
    # and no outage is a reason to end.
    try:
        server = await health.serve(settings.listen_address, settings.port, lambda: _unready(parts))
    # A port that is taken is a person's to mend, before anything is decided.
    except OSError as error:
        await parts.connection.close()
        message = f"cannot serve /healthz, /readyz and /metrics (HANDOVER_PORT): {error}"
        raise Unusable(message) from error
    work = asyncio.create_task(_work(parts))
    # From here on; Kopf takes them for itself whenever it begins, and ``_watch`` takes them back.
    _take_signals(work)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        # The work has ended, so the Lease was given back: that needed the connections.
        await server.cleanup()
        await parts.connection.close()
    structlog.get_logger().info("stopped")


async def _work(parts: Parts) -> None:
    work = asyncio.current_task()
    assert work is not None
    controller, discovery = parts.controller, parts.discovery
    # Kopf does not tell when its first lists are complete, so that there are ours before it.
    await retry.insist(controller.load, "the first lists")
    if discovery is not None:
        await discovery.begin()
    resync.freeze()
    structlog.get_logger().info("synced")
    # None of these ends by itself, and what can be mended by waiting ends none. Where one breaks
    # all the same, all of them end, the Lease is given back, and the kubelet begins a new process.
    async with asyncio.TaskGroup() as group:
        group.create_task(parts.default.run())
        group.create_task(_elect(parts))
        group.create_task(Namespaces(parts.api, controller.take_paused).run())
        if discovery is not None:
            group.create_task(discovery.run())
        sweeper = Resync(controller.sweep, parts.settings.sweep_interval)
        group.create_task(sweeper.run())
        await retry.keep_running(lambda: _watch(parts, sweeper, work), lambda: sweeper.lists)


async def _watch(parts: Parts, sweeper: Resync, work: asyncio.Task[None]) -> None:
    """Let Kopf watch our kinds until it ends, and keep the signals for *work*."""
    # Kopf looks once for what is served, and would never watch a kind that comes later.
    await watch.require(parts.api, Kind)
    memo = Memo(parts.controller, sweeper, parts.connection.configuration)
    await kopf_app.run(memo, lambda: _take_signals(work))


async def _elect(parts: Parts) -> None:
    """Lead while this replica holds the Lease, else stand by; always, where it is the only one."""
    lead = functools.partial(_lead, parts)
    if parts.leadership is None:
        metrics.LEADER.set(1)
        await lead()
    else:
        await parts.leadership.run(lead, functools.partial(_write, parts, parts.standby))


async def _lead(parts: Parts) -> None:
    """Write until cancelled: everything that only the leader does."""
    parts.default.lead(leads=True)
    try:
        await _write(parts)
    finally:
        parts.default.lead(leads=False)


async def _write(parts: Parts, standby: Standby | None = None) -> None:
    """Write until cancelled; with *standby* only what a migration waits for and nobody writes."""
    async with asyncio.TaskGroup() as group:
        for loop in parts.loops:
            group.create_task(loop.run(parts.settings.writers, standby))


def _take_signals(work: asyncio.Task[None]) -> None:
    """Let SIGTERM and SIGINT end *work* by cancelling it, whoever took them before.

    Called again for each Kopf that begins (kopf_runtime.run). In a container we are pid 1, to which
    the kernel delivers no signal without a handler: only SIGKILL would end us.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)


def _unready(parts: Parts) -> str:
    """Return why this replica is not ready, which is why it could not lead; "" when it is."""
    if not parts.controller.synced:
        return "the first lists are not complete"
    if parts.discovery is not None and not parts.discovery.has_begun:
        return "nobody knows so far whether there is a KubeVirt, or its objects are not listed"
    return parts.default.trouble


def read_default(path: Path | None) -> Mapping[str, object] | None:
    """Read the spec of ``default``, alone or inside of a whole object; None when not asked for."""
    if path is None:
        return None
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        message = f"cannot read HANDOVER_CONFIGURATION_FILE: {error}"
        raise Unusable(message) from error
    if isinstance(document, dict) and "spec" in document:
        document = document["spec"]
    if document is not None and not isinstance(document, dict):
        message = f"HANDOVER_CONFIGURATION_FILE: {path} must hold the fields of a spec"
        raise Unusable(message)
    return document or {}


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  the operator's one clock
