"""Kopf: the watches of our kinds and KubeVirt's, turned into observations. Nothing else knows Kopf.

Only ``on.event`` is used, which leaves no mark on objects; what is known lives in our own index
(an index of Kopf's starts in quadratic time).
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import kopf
from kopf._cogs.clients import fetching
from kopf._cogs.structs.references import Insights
from kubernetes_asyncio import client

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator.controller import Reconciler
from handover_operator.kinds import Foreign, Kind
from handover_operator.kube.client import FOREIGN_PAGE, PAGE
from handover_operator.kube.errors import Unavailable
from handover_operator.kube.listing import Sweeper
from handover_operator.kube.versions import version_of
from handover_operator.kubevirt.controller import AdapterReconciler
from handover_operator.observability import metrics
from handover_operator.roles import parse

SILENCE: Final = 70.0
"""Seconds without any event or bookmark after which a watch is opened anew."""


_KOPF: Final = kopf.__path__[0]
_TALKERS: Final = tuple(
    f"kopf._core.reactor.{name}" for name in ("observation", "orchestration", "running")
)
_stopping: Final[set[int]] = set()
"""The threads in which Kopf is told to stop."""


Listed = Callable[[str, Mapping[ObjectKey, str], int], None]
"""Is told the plural of a kind, the uids of all its objects, and the version of that list."""


class _Settings(kopf.OperatorSettings):
    """Kopf's settings, and who is told of each complete list of a watch."""

    listed: Listed


_fetch_objs: Final = fetching.fetch_objs


async def _fetch_and_tell(**how: Any) -> AsyncIterator[tuple[Any, str]]:  # noqa: ANN401
    """List as Kopf does, and tell what there is in the end.

    Kopf tells the objects of a list one by one: nothing of one that is gone, and nothing at all
    where the list is empty.
    """
    existing: dict[ObjectKey, str] = {}
    number = ""
    async for items, version in _fetch_objs(**how):
        number = number or version
        for raw in items:
            existing[parse.key(raw)] = raw["metadata"]["uid"]
        yield items, version
    settings = how["settings"]
    if isinstance(settings, _Settings):
        settings.listed(how["resource"].plural, existing, int(number))


# Kopf has no hook for it; its watches look the function up in its module.
fetching.fetch_objs = _fetch_and_tell


class Backoffs:
    """Seconds between two attempts of a request, without an end: an outage is no reason to die.

    They stay short: while a watch is away a guest may move, and those who ask are few.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.1, 0.2, 0.5, 1), itertools.repeat(2))


async def watch(
    reconciler: Reconciler,
    sweeper: Sweeper,
    configuration: client.Configuration,
    take_signals: Callable[[], None],
) -> None:
    """Watch until cancelled, or until one of our kinds is gone.

    Kopf takes SIGTERM for itself; *take_signals* gives it back to the process, which ends at once
    by cancelling.
    """
    registry = kopf.OperatorRegistry()
    _register_login(registry, configuration)
    for kind in Kind:
        _register(registry, kind, reconciler)

    def listed(plural: str, existing: Mapping[ObjectKey, str], version: int) -> None:
        sweeper.note_list()
        kind = next(kind for kind in Kind if kind.plural == plural)
        reconciler.retain(kind, existing, version)

    await _serve(registry, _settings(listed), len(Kind), take_signals)


async def watch_foreign(
    adapter: AdapterReconciler, configuration: client.Configuration, sweeper: Sweeper
) -> None:
    """Watch KubeVirt's world until cancelled, or until one of its kinds is gone.

    It has a thread and a loop of its own: what becomes of our own kinds does not depend on it.
    """
    for name in (*_TALKERS, "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    loop = asyncio.get_running_loop()
    stop: concurrent.futures.Future[None] = concurrent.futures.Future()

    def tell(kind: Foreign, event: Mapping[str, Any]) -> None:
        loop.call_soon_threadsafe(_take, adapter, kind, event)

    def listed(plural: str, existing: Mapping[ObjectKey, str], version: int) -> None:
        kind = next(kind for kind in Foreign if kind.plural == plural)
        loop.call_soon_threadsafe(adapter.retain, kind, existing, version)
        loop.call_soon_threadsafe(sweeper.note_list)

    settings = _settings(listed)
    work = asyncio.create_task(
        asyncio.to_thread(lambda: asyncio.run(_watch_foreign(tell, settings, configuration, stop)))
    )
    try:
        await asyncio.shield(work)
    finally:
        stop.set_result(None)
        await asyncio.gather(work, return_exceptions=True)


def _is_news(record: logging.LogRecord) -> bool:
    """In this thread Kopf takes no signals, and its end at a 404 is expected; we say it better.

    A request that it breaks off then may fall over its own callback, which changes nothing. What
    it says when it is stopped is of no interest at all.
    """
    if threading.current_thread() is threading.main_thread():
        return True
    if threading.get_ident() in _stopping:
        return False
    error = record.exc_info[1] if record.exc_info else None
    is_gone = getattr(error, "status", None) == HTTPStatus.NOT_FOUND
    said = record.getMessage()
    return not (is_gone or "OS signals are ignored" in said or "request_cancel_callback" in said)


async def _watch_foreign(
    tell: Callable[[Foreign, Mapping[str, Any]], None],
    settings: _Settings,
    configuration: client.Configuration,
    stop: concurrent.futures.Future[None],
) -> None:
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None
    registry = kopf.OperatorRegistry()
    _register_login(registry, configuration)
    settings.watching.chunk_size = FOREIGN_PAGE
    for kind in Foreign:
        group, _, version = kind.api_version.rpartition("/")
        _register_foreign(registry, kind, tell)
        if kind.selector:
            settings.watching.label_selectors[group, version, kind.plural] = kind.selector
    thread = threading.get_ident()
    _stopping.discard(thread)

    def end(_: object) -> None:
        """Kopf's own way to stop waits for seconds."""
        _stopping.add(thread)
        _cancel(loop, main)

    stop.add_done_callback(end)
    with contextlib.suppress(asyncio.CancelledError):
        await _serve(registry, settings, len(Foreign))


async def _serve(
    registry: kopf.OperatorRegistry,
    settings: kopf.OperatorSettings,
    kinds: int,
    begun: Callable[[], None] = lambda: None,
) -> None:
    """Run Kopf, which must find so many kinds, until it ends; all that is its own ends with it."""
    insights = Insights()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_until_complete(insights, kinds))
            tasks = await kopf.spawn_tasks(
                registry=registry,
                settings=settings,
                insights=insights,
                clusterwide=True,
                standalone=True,
            )
            begun()
            await kopf.run_tasks(tasks, ignored=_Everything())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        await _end_kopfs_tasks()


class _Everything(frozenset[Any]):
    """Kopf would wait 5 s for all tasks that began after it, and cancel them, as if its own."""

    def __contains__(self, _: object) -> bool:
        return True


async def _end_kopfs_tasks() -> None:
    """End the watches that Kopf leaves running when one of them fails.

    Now and then they swallow what should end them, so it is said again.
    """
    while left := {task for task in asyncio.all_tasks() if _is_kopfs(task)}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.1)


def _is_kopfs(task: asyncio.Task[Any]) -> bool:
    code: types.CodeType | None = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_KOPF)


async def _until_complete(insights: Insights, kinds: int) -> None:
    """Return when Kopf has found all kinds; it looks once, and would never miss one that lacks."""
    await insights.ready_resources.wait()
    if len(insights.watched_resources) < kinds:
        message = "not all kinds are served yet"
        raise Unavailable(message)


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    """Cancel a task of another thread's loop, which may have ended by itself."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(task.cancel)


def _register_foreign(
    registry: kopf.OperatorRegistry,
    kind: Foreign,
    tell: Callable[[Foreign, Mapping[str, Any]], None],
) -> None:
    group, _, version = kind.api_version.rpartition("/")

    @kopf.on.event(group, version, kind.plural, id=f"observe-{kind.plural}", registry=registry)
    async def observe(event: kopf.RawEvent, **_: object) -> None:
        tell(kind, event)


def _take(adapter: AdapterReconciler, kind: Foreign, event: Mapping[str, Any]) -> None:
    raw = event["object"]
    metrics.EVENTS.labels(kind.value).inc()
    if event["type"] == "DELETED":
        adapter.end(kind, raw)
    else:
        adapter.observe(kind, raw)


def _settings(listed: Listed) -> _Settings:
    settings = _Settings()
    settings.listed = listed
    # It would list the CustomResourceDefinitions of the whole cluster, and keep them.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # A task for every object of a list would otherwise live for 5 s: 90 MB with 10,000 of them.
    settings.queueing.idle_timeout = 0.5
    settings.networking.error_backoffs = Backoffs()
    settings.networking.connect_timeout = 10
    settings.watching.inactivity_timeout = SILENCE
    settings.watching.chunk_size = PAGE
    return settings


def _register(registry: kopf.OperatorRegistry, kind: Kind, reconciler: Reconciler) -> None:
    @kopf.on.event(
        names.GROUP, names.VERSION, kind.plural, id=f"observe-{kind.plural}", registry=registry
    )
    async def observe(event: kopf.RawEvent, **_: object) -> None:
        raw = event["object"]
        metrics.EVENTS.labels(kind.value).inc()
        if event["type"] == "DELETED":
            reconciler.forget(kind, parse.key(raw), version_of(raw))
        else:
            reconciler.observe(kind, raw)


def _register_login(registry: kopf.OperatorRegistry, configuration: client.Configuration) -> None:
    """Let Kopf use the very connection that our own writes use."""

    @kopf.on.login(id="login", registry=registry)
    async def login(**_: object) -> kopf.ConnectionInfo:
        header = await configuration.get_api_key_with_prefix("BearerToken")
        return kopf.ConnectionInfo(
            server=configuration.host or "",
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            token=header.removeprefix("Bearer ").strip() if header else None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )
