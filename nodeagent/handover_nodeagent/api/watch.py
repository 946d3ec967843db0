"""List and watch of one collection: what is there, what changes, and when nobody knows.

A list is compared with what is known, so that only real changes are told. A watch that the server
ends, or that breaks after a while, goes on where it stood; any other failure is told as an outage,
which ends with the next complete list. A list that ends in 404 is an outage as well: somebody
has removed the CRD, and no guest with it.
"""

import asyncio
import collections
import contextlib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, Protocol

from handover_api.names import ObjectKey
from handover_nodeagent import faults, retry
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.errors import Absent, ApiError, RawObject, Unavailable, Unreachable
from handover_nodeagent.retry import Backoff, Retries

SLICE: Final = 4
"""Objects that are told in one turn of the loop: each may cost a millisecond."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a watch waits for what; seconds."""

    lifetime: float = 300.0
    """The server ends a watch between this and twice as much."""
    silence: float = 150.0
    """Without any message for so long it is dead; a healthy server sends a bookmark a minute."""
    calm: float = 5.0
    """What lasted so long was no failure, though nothing was said."""
    first_wait: float = retry.FIRST
    last_wait: float = retry.LAST_OF_SHARED


DEFAULT_PACE: Final = Pace()


class Sink(Protocol):
    """Where a watch reports; called synchronously on the loop."""

    def put(self, raw: RawObject) -> None:
        """Take an object that is new or has changed."""

    def drop(self, key: ObjectKey, uid: str) -> None:
        """Take the end of an object that was put."""

    def synced(self) -> None:
        """Know that all that is there was put: after each complete list."""

    def outage(self, reason: str) -> None:
        """Know that changes may be missed from now on, until the next ``synced``."""


class Identity(NamedTuple):
    """Which object it is, and which version of it."""

    uid: str
    version: str


Known = Mapping[ObjectKey, Identity]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a list says that was not known: first the drops, then the puts."""

    drops: tuple[tuple[ObjectKey, str], ...] = ()
    puts: tuple[RawObject, ...] = ()


@dataclass(slots=True)
class Counts:
    """What a watch has lived through since its start."""

    lists: int = 0
    messages: int = 0
    restarts: collections.Counter[str] = field(default_factory=collections.Counter)
    """By reason: ``ended`` by the server, or the name of the ApiError in lower case."""


def identity(raw: RawObject) -> tuple[ObjectKey, Identity]:
    """Return who an object is. Raises Unavailable: no API server sends one without."""
    key = ObjectKey(_metadata(raw, "namespace", ""), _metadata(raw, "name"))
    return key, Identity(_metadata(raw, "uid"), _metadata(raw, "resourceVersion"))


def _metadata(raw: RawObject, name: str, default: str | None = None) -> str:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    found = metadata.get(name, default) if isinstance(metadata, dict) else None
    if not isinstance(found, str):
        message = f"an object without metadata.{name}"
        raise Unavailable(message)
    return found


def diff(known: Known, listed: Mapping[ObjectKey, tuple[Identity, RawObject]]) -> Changes:
    """Compare; an object that was deleted and made anew meanwhile is a drop and a put."""
    return Changes(
        drops=tuple(
            (key, before.uid)
            for key, before in known.items()
            if key not in listed or listed[key][0].uid != before.uid
        ),
        puts=tuple(raw for key, (now, raw) in listed.items() if known.get(key) != now),
    )


class Watch:
    """Keeps a sink informed about the objects at *path*, namespaces and all.

    ``is_absent``: the last outage was that the kind is not served at all.
    """

    def __init__(
        self,
        api: ApiServer,
        path: str,
        *,
        sink: Sink,
        field_selector: str = "",
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        self.counts = Counts()
        self.is_absent = False
        self.known: dict[ObjectKey, Identity] = {}
        self._api = api
        self._path = path
        self._sink = sink
        self._selection = {"fieldSelector": field_selector} if field_selector else {}
        self._pace = pace
        self._backoff = Backoff.shared(pace.first_wait, pace.last_wait)
        self._version = ""
        self._taken = 0
        self._untold: dict[ObjectKey, Callable[[], None]] = {}
        self._retries = Retries[ObjectKey](self._tell_again)

    async def run(self) -> None:
        """List and watch until cancelled."""
        try:
            await self._run()
        finally:
            self._retries.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._list()
                await self._follow()
            except ApiError as error:
                self.counts.restarts[error.reason] += 1
                self.is_absent = isinstance(error, Absent)
                self._sink.outage(f"{self._path}: {error}")
                await self._backoff.sleep(error.retry_after)

    async def _list(self) -> None:
        listed: dict[ObjectKey, tuple[Identity, RawObject]] = {}
        version = ""
        async with contextlib.aclosing(self._api.pages(self._path, self._selection)) as pages:
            async for page in pages:
                version = page.version
                for raw in page.items:
                    key, found = identity(raw)
                    listed[key] = found, raw
        self.counts.lists += 1
        self._version = version
        changes = diff(self.known, listed)
        for key, uid in changes.drops:
            self._drop(key, uid)
            await self._give_way()
        for raw in changes.puts:
            self._put(*identity(raw), raw)
            await self._give_way()
        self._sink.synced()

    async def _give_way(self) -> None:
        """Let the loop turn after every few objects: a guest may announce itself."""
        self._taken += 1
        if self._taken % SLICE == 0:
            await asyncio.sleep(0)

    async def _follow(self) -> None:
        """Watch again and again until only a list can help. Raises an ApiError."""
        loop = asyncio.get_running_loop()
        while True:
            began, heard = loop.time(), self.counts.messages
            reason, text = "ended", "the server ended the watch at once"
            try:
                await self._watch()
            except Unreachable as error:
                reason, text = error.reason, str(error)
            finally:
                has_lasted = loop.time() - began >= self._pace.calm
                if has_lasted:
                    self._backoff.reset()
            if not has_lasted and self.counts.messages == heard:
                raise Unreachable(text)
            self.counts.restarts[reason] += 1
            if reason != "ended" or not has_lasted:
                await self._backoff.sleep()

    async def _watch(self) -> None:
        lifetime = self._pace.lifetime * random.uniform(1, 2)  # noqa: S311  jitter is no secret
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(math.ceil(lifetime)),
            **self._selection,
        }
        silence = self._pace.silence
        stream = self._api.stream(self._path, query, silence=silence, longest=lifetime + silence)
        async with contextlib.aclosing(stream) as messages:
            async for kind, raw in messages:
                self._take(kind, raw)
                await self._give_way()

    def _take(self, kind: str, raw: RawObject) -> None:
        if kind == "BOOKMARK":
            self._version = _metadata(raw, "resourceVersion")
        else:
            key, found = identity(raw)
            before, is_gone = self.known.get(key), kind == "DELETED"
            # It is gone, or was replaced by another one of its name.
            if before is not None and is_gone is (before.uid == found.uid):
                self._drop(key, before.uid)
            if not is_gone and found != before:
                self._put(key, found, raw)
            self._version = found.version
        self.counts.messages += 1

    def _put(self, key: ObjectKey, found: Identity, raw: RawObject) -> None:
        self.known[key] = found
        self._tell(key, partial(self._sink.put, raw))

    def _drop(self, key: ObjectKey, uid: str) -> None:
        del self.known[key]
        self._tell(key, partial(self._sink.drop, key, uid))

    def _tell(self, key: ObjectKey, tell: Callable[[], None]) -> None:
        """Tell the sink of one object; what it meets is no other object's fault."""
        if self._untold.pop(key, None):
            self._retries.succeeded([key])
        try:
            tell()
        except Exception as error:  # noqa: BLE001  the root of whatever a sink does
            faults.note("object", error, object=str(key))
            self._untold[key] = tell
            self._retries.failed([key])

    def _tell_again(self, keys: frozenset[ObjectKey]) -> None:
        for key in keys & self._untold.keys():
            try:
                self._untold[key]()
            except Exception as error:  # noqa: BLE001  as before
                faults.note("object", error, object=str(key))
            else:
                del self._untold[key]
                self._retries.succeeded([key])
