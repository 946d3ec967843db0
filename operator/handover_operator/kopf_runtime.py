"""Kopf inside of our process: what it has no setting for, each with its reason.

Kopf is made to be a process, and to have its event loop for itself
(https://github.com/nolar/kopf/issues/1030). Ours also has a Lease to give back, writes under way
and watches of other kinds. So Kopf is begun anew whenever it ends, and all that is its own ends
with it. Nothing here imports more of it than its documented names. It watches our kinds alone:
KubeVirt's would cost six times the processor time of kube/watch.py, and end ours with them.
"""

import asyncio
import contextvars
import ssl
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp
import kopf
from kubernetes_asyncio import client
from yarl import URL

from handover_api import names
from handover_api.names import ObjectKey
from handover_operator import kinds
from handover_operator.controller import Controller
from handover_operator.kinds import Kind
from handover_operator.kube.errors import Unavailable
from handover_operator.kube.resync import Resync
from handover_operator.kube.versions import version_of
from handover_operator.observability import metrics
from handover_operator.roles import parse

GRACE: Final = 2.0
"""Seconds for Kopf to end by itself once it is told to; it takes some hundredths of one."""

INSISTENCE: Final = 0.1
"""Seconds between two attempts to cancel what is left of it."""

_is_kopfs: Final = contextvars.ContextVar("is_kopfs", default=False)
"""Whether what runs now was begun by Kopf; a task inherits it from who creates it."""


@dataclass(slots=True)
class Memo:
    """What the handlers need (Kopf's ``memo``), while Kopf runs once."""

    controller: Controller
    resync: Resync
    configuration: client.Configuration
    _token: str | None = None
    _login: kopf.AiohttpSession | None = None
    _listed: dict[Kind, dict[ObjectKey, str]] = field(default_factory=dict)
    _number: dict[Kind, int] = field(default_factory=dict)

    def __copy__(self) -> Self:
        """Kopf copies it for every object, and keeps the copies: one is enough for all."""
        return self

    def take(self, kind: Kind, event: kopf.RawEvent) -> None:
        """Take in one event of a watch, or one object of the list before it."""
        raw = event["object"]
        metrics.EVENTS.labels(kind.value).inc()
        if event["type"] == "DELETED":
            self.controller.forget(kind, parse.key(raw), version_of(raw))
        else:
            self.controller.observe(kind, raw)

    async def login(self) -> kopf.AiohttpSession:
        """Make the HTTP session that Kopf uses: to the place of our own writes, and seen by us.

        Kopf asks again after a 401. Where the token is still the same, so is the session, which
        Kopf knows to be of no use: it ends, and is begun anew later, instead of asking for ever.
        """
        token = await self.configuration.get_api_key_with_prefix("BearerToken")
        if self._login is None or token != self._token:
            # Kopf closes what it has refused; at a first login there is nothing to close.
            await self.close()
            self._token = token
            self._login = kopf.AiohttpSession(
                server=self.configuration.host or "",
                aiohttp_session=_session(self.configuration, token, self.read),
            )
        return self._login

    async def close(self) -> None:
        """Close the connections; Kopf does it too, where it ends as it would like to."""
        if self._login is not None:
            await self._login.aiohttp_session.close()

    def read(self, url: URL, answer: Mapping[str, Any]) -> None:
        """See what the API server answers to Kopf's requests, but for its watches.

        Kopf tells the objects of a list one by one: nothing of one that is gone, nothing at all
        where the list is empty, and never that a list was complete. So what was deleted while a
        watch was broken would stay known for ever. (To ask for: a handler of ``on.event`` that is
        told of the end of a list, as ``Bookmark.LISTED`` is inside of Kopf; akin to
        https://github.com/nolar/kopf/issues/698.)

        It looks for the kinds once, too, and would never watch one that lacks just then; with
        ``scanning.disabled`` it does not say so either. Raises Unavailable, which ends it.
        """
        if url.path.endswith("/apis"):
            _require("the group", {names.GROUP}, {each["name"] for each in answer["groups"]})
        elif url.path.endswith(f"/apis/{names.API_VERSION}"):
            served = {each["name"] for each in answer["resources"]}
            _require("all kinds", {kind.plural for kind in Kind}, served)
        for kind in Kind:
            if url.path.endswith(kinds.collection(kind)):
                self._read_page(kind, answer, is_first="continue" not in url.query)

    def _read_page(self, kind: Kind, page: Mapping[str, Any], *, is_first: bool) -> None:
        if is_first:
            self._listed[kind] = {}
            self._number[kind] = int(page["metadata"]["resourceVersion"])
        existing = self._listed[kind]
        existing |= {parse.key(raw): raw["metadata"]["uid"] for raw in page["items"] or ()}
        # Its last objects are told in a moment: they are known here as existing already.
        if not page["metadata"].get("continue"):
            self.resync.note_list()
            self.controller.retain(kind, self._listed.pop(kind), self._number[kind])


def _require(what: str, wanted: set[str], found: set[str]) -> None:
    if not wanted <= found:
        message = f"not {what} of {names.API_VERSION} served so far"
        raise Unavailable(message)


def _session(
    configuration: client.Configuration,
    token: str | None,
    read: Callable[[URL, Mapping[str, Any]], None],
) -> aiohttp.ClientSession:
    class Response(aiohttp.ClientResponse):
        """An answer that we see, too; watches are not read as one document."""

        async def json(self, **how: Any) -> Any:  # noqa: ANN401  as aiohttp has it
            found = await super().json(**how)
            # Of an error Kopf reads the Status in the same way.
            if self.ok:
                read(self.url, found)
            return found

    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return aiohttp.ClientSession(
        # One watch for each kind, and lists beside them: no limit of connections may hold one up.
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        headers={"Authorization": token} if token else {},
        response_class=Response,
    )


async def run(memo: Memo, take_signals: Callable[[], None]) -> None:
    """Run Kopf until it ends, or this is cancelled; raise what it ended of.

    It ends of anything that it does not know, such as a kind that has gone (404).

    Kopf takes SIGTERM and SIGINT for itself as soon as it is begun; *take_signals* gives them back
    to the process, which ends by cancelling. (To ask for: a setting by which it leaves them alone,
    as it does where it does not run in the main thread.)
    """
    context = contextvars.copy_context()
    # Set in a copy of our context: what we begin beside Kopf is not marked.
    context.run(_is_kopfs.set, True)  # noqa: FBT003  the variable's value
    asyncio.get_running_loop().set_task_factory(_create_task)
    # ``kopf.operator`` would end every task that began after it as one of its own, ours too.
    spawning = kopf.spawn_tasks(memo=memo, clusterwide=True, standalone=True)
    # Tasks inherit the context of whoever creates them, so all of Kopf's are marked.
    root = await asyncio.create_task(spawning, context=context)
    take_signals()
    try:
        done, _ = await asyncio.wait(root, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(set(root))
        await memo.close()
    # The first one that has ended says why, by its exception.
    for task in done:
        await task
    message = "Kopf has ended by itself"
    raise RuntimeError(message)


class _Task(asyncio.Task[Any]):
    """A task that Kopf began, or one of its tasks.

    It does not tell which are its own: it spawns them deep in its calls, and takes for its own all
    that began after it (https://github.com/nolar/kopf/issues/1030).
    """


def _create_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    /,
    **how: Any,  # noqa: ANN401  as asyncio passes it
) -> asyncio.Task[Any]:
    kind = _Task if _is_kopfs.get() else asyncio.Task
    return kind(coroutine, loop=loop, **how)


async def _end(root: set[asyncio.Task[None]]) -> None:
    """End all of Kopf's tasks: the root ones as it does itself, so that cleanup handlers run.

    Then those that it leaves running where one of its watches has failed: the others watch on for
    ever (https://github.com/nolar/kopf/issues/1276 is about such remains). Now and then they
    swallow what should end them, so it is said again (https://github.com/nolar/kopf/issues/1168).
    """
    for task in root:
        task.cancel()
    ended, _ = await asyncio.wait(root, timeout=GRACE)
    while left := {task for task in asyncio.all_tasks() if isinstance(task, _Task)}:
        for task in left:
            task.cancel()
        done, _ = await asyncio.wait(left, timeout=INSISTENCE)
        ended |= done
    for task in ended:
        # asyncio complains of an error that nobody has looked at.
        if not task.cancelled():
            task.exception()
