"""Composition root of the operator: wiring and order of start and stop; nothing is decided here."""

import asyncio
import contextlib
import datetime as dt
import functools
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
import yaml

from handover_operator import kopf_app
from handover_operator.controller import Controller
from handover_operator.kinds import Kind
from handover_operator.kopf_runtime import Memo
from handover_operator.kube import client, resync, retry, watch
from handover_operator.kube.client import Cluster
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


async def run(settings: OperatorSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises Unusable or errors.Unconfigured."""
    given = read_default(settings.configuration_file)
    configuration = await client.connect()
    api = Cluster(configuration)
    controller = Controller(api, _now)
    default = Default(api, controller, given)
    # Before the first list: what a listener has not been shown is not shown to it later.
    controller.cache.listeners.append(default)
    adapter = (
        KubeVirtController(api, controller, _now, settings.migration_ttl, default.has_been_there)
        if settings.kubevirt
        else None
    )
    metrics.watch(
        lambda: len(controller) + (0 if adapter is None else len(adapter)),
        lambda: controller.denied() + (0 if adapter is None else adapter.denied()),
        controller.cache.shared,
        controller.cache,
    )
    # Before anything waits for the API server: the kubelet ends a pod whose /healthz is silent,
    # and no outage is a reason to end.
    try:
        server = await health.serve(
            settings.listen_address, settings.port, lambda: _unready(controller, adapter, default)
        )
    # A port that is taken is a person's to mend, before anything is decided.
    except OSError as error:
        await api.close()
        message = f"cannot serve /healthz, /readyz and /metrics (HANDOVER_PORT): {error}"
        raise Unusable(message) from error
    work = asyncio.create_task(_work(settings, api, controller, adapter, default))
    # From here on; Kopf takes them for itself whenever it begins, and ``_watch`` takes them back.
    _take_signals(work)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        # The work has ended, so the Lease was given back: that needed the connections.
        await server.cleanup()
        await api.close()
    structlog.get_logger().info("stopped")


async def _work(
    settings: OperatorSettings,
    api: Cluster,
    controller: Controller,
    adapter: KubeVirtController | None,
    default: Default,
) -> None:
    work = asyncio.current_task()
    assert work is not None
    # Kopf does not tell when its first lists are complete, so that there are ours before it.
    await retry.insist(controller.load, "the first lists")
    discovery: Discovery | None = None
    if adapter is not None:
        discovery = Discovery(api, adapter, settings.sweep_interval)
        await discovery.begin()
    resync.freeze()
    structlog.get_logger().info("synced")
    writers = (controller, adapter) if adapter is not None else (controller,)
    # None of these ends by itself, and what can be mended by waiting ends none. Where one breaks
    # all the same, all of them end, the Lease is given back, and the kubelet begins a new process.
    async with asyncio.TaskGroup() as group:
        group.create_task(default.run())
        group.create_task(_elect(settings, api, writers, default))
        group.create_task(Namespaces(api, controller.take_paused).run())
        if discovery is not None:
            group.create_task(discovery.run())
        sweeper = Resync(controller.sweep, settings.sweep_interval)
        group.create_task(sweeper.run())
        await retry.keep_running(
            lambda: _watch(api, controller, sweeper, work), lambda: sweeper.lists
        )


async def _watch(
    api: Cluster, controller: Controller, sweeper: Resync, work: asyncio.Task[None]
) -> None:
    """Let Kopf watch our kinds until it ends, and keep the signals for *work*."""
    # Kopf looks once for what is served, and would never watch a kind that comes later.
    await watch.require(api, Kind)
    memo = Memo(controller, sweeper, api.configuration)
    await kopf_app.run(memo, lambda: _take_signals(work))


async def _elect(
    settings: OperatorSettings,
    api: Cluster,
    writers: Sequence[Controller | KubeVirtController],
    default: Default,
) -> None:
    """Lead while this replica holds the Lease, else stand by; always, where it is the only one."""
    lead = functools.partial(_lead, settings, writers, default)
    if not settings.leader_election:
        metrics.LEADER.set(1)
        await lead()
        return
    identity = f"{settings.pod_name}_{settings.pod_uid}"
    standby = Standby(identity)
    leadership = Leadership(api, settings.namespace, identity, _now)
    leadership.on_renewal = standby.note_renewal
    # Asked before every single write, whatever has begun it.
    api.may_write = leadership.holds
    await leadership.run(lead, functools.partial(_stand_by, settings, writers, standby))


async def _stand_by(
    settings: OperatorSettings,
    writers: Sequence[Controller | KubeVirtController],
    standby: Standby,
) -> None:
    """Write until cancelled what a migration waits for and nobody else writes."""
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(writer.run(settings.writers, standby))


async def _lead(
    settings: OperatorSettings,
    writers: Sequence[Controller | KubeVirtController],
    default: Default,
) -> None:
    """Write until cancelled: everything that only the leader does."""
    default.lead(leads=True)
    try:
        async with asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(writer.run(settings.writers))
    finally:
        default.lead(leads=False)


def _take_signals(work: asyncio.Task[None]) -> None:
    """Let SIGTERM and SIGINT end *work* by cancelling it, whoever took them before.

    Called again for each Kopf that begins (kopf_runtime.run). In a container we are pid 1, to which
    the kernel delivers no signal without a handler: only SIGKILL would end us.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)


def _unready(controller: Controller, adapter: KubeVirtController | None, default: Default) -> str:
    """Return why this replica is not ready, which is why it could not lead; "" when it is."""
    if not controller.synced:
        return "the first lists are not complete"
    if adapter is not None and not adapter.has_begun:
        return "nobody knows so far whether there is a KubeVirt, or its objects are not listed"
    return default.trouble


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
