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
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from handover_api.names import ObjectKey
from handover_nodeagent.api import collection
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.collection import Identity, Listed
from handover_nodeagent.api.errors import Absent, ApiError, RawObject, Unreachable
from handover_nodeagent.faults import Faults
from handover_nodeagent.retry import backoff, timers
from handover_nodeagent.retry.backoff import Backoff

SLICE: Final = 4
"""Objects that are told in one turn of the loop: each may cost a millisecond."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a watch waits for what; seconds."""

    lifetime: float = 300.0
    """The server ends a watch between this and twice as much."""
    silence: float = 150.0
    """Without any message for so long it is dead; a healthy server sends a bookmark a minute."""
    proven: float = 5.0
    """What lasted so long was no failure, though nothing was said."""
    first_wait: float = backoff.FIRST
    last_wait: float = backoff.LAST_OF_SHARED


class Sink(Protocol):
    """Where a watch reports; called synchronously on the loop."""

    def put(self, raw: RawObject) -> None:
        """Take an object that is new or has changed."""

    def drop(self, key: ObjectKey, uid: str) -> None:
        """Take the end of an object that was put."""

    def synced(self) -> None:
        """Know that all that is there was put: after each complete list."""

    def outage(self, reason: str, *, is_absent: bool) -> None:
        """Know that changes may be missed from now on, until the next ``synced``.

        *is_absent*: the kind is not served at all.
        """


@dataclass(slots=True)
class Counts:
    """What a watch has lived through since its start."""

    lists: int = 0
    messages: int = 0
    restarts: collections.Counter[str] = field(default_factory=collections.Counter)
    """By reason: ``ended`` by the server, or ``ApiError.reason``."""


class Watch:
    """Keeps a sink informed about the objects at *path*, namespaces and all."""

    def __init__(
        self,
        api: ApiServer,
        path: str,
        *,
        sink: Sink,
        field_selector: str = "",
        timing: Timing | None = None,
    ) -> None:
        self.counts = Counts()
        self._known: dict[ObjectKey, Identity] = {}
        self._api = api
        self._path = path
        self._sink = sink
        self._selection = {"fieldSelector": field_selector} if field_selector else {}
        self._timing = timing or Timing()
        self._backoff = Backoff.shared(self._timing.first_wait, self._timing.last_wait)
        self._version = ""
        self._told = 0
        self._faults = Faults(noun="object")

    async def run(self) -> None:
        """List and watch until cancelled."""
        try:
            while True:
                try:
                    await self._list()
                    await self._keep_watching()
                except ApiError as error:
                    self.counts.restarts[error.reason] += 1
                    is_absent = isinstance(error, Absent)
                    self._sink.outage(f"{self._path}: {error}", is_absent=is_absent)
                    await timers.sleep(self._backoff, error.retry_after)
        finally:
            self._faults.close()

    # List.

    async def _list(self) -> None:
        """Bring the sink to all that is there. Raises an ApiError, and then has told nothing."""
        listed, version = await self._gather()
        self.counts.lists += 1
        # The watch goes on from here, so that what happens while this list is told is not lost.
        self._version = version
        changes = collection.diff(self._known, listed)
        for key, uid in changes.drops:
            self._drop(key, uid)
            await self._give_way()
        for raw in changes.puts:
            self._put(*collection.identity(raw), raw)
            await self._give_way()
        self._sink.synced()

    async def _gather(self) -> tuple[Listed, str]:
        """Return the whole collection and its version.

        It is complete or it raises: half a list would be the end of the other half. Between two
        pages the first one's version may become too old (410), and all begins anew.
        """
        listed: dict[ObjectKey, tuple[Identity, RawObject]] = {}
        version = ""
        # Without a resourceVersion, which asks for the newest state: "0" would also take that of
        # an API server whose cache is behind what is known already.
        async with contextlib.aclosing(self._api.pages(self._path, self._selection)) as pages:
            async for page in pages:
                version = page.version
                for raw in page.items:
                    key, found = collection.identity(raw)
                    listed[key] = found, raw
        return listed, version

    # Watch.

    async def _keep_watching(self) -> None:
        """Watch again and again until only a list can help. Raises an ApiError.

        Among them Gone (410): the version is too old to go on from. It comes as the answer or, as
        often, as a message of a watch that began well.
        """
        loop = asyncio.get_running_loop()
        while True:
            began, heard = loop.time(), self.counts.messages
            reason, text = "ended", "the server ended the watch at once"
            try:
                await self._watch()
            except Unreachable as error:
                # A cut connection: nothing is lost, for the next watch goes on where it stood.
                reason, text = error.reason, str(error)
            finally:
                has_lasted = loop.time() - began >= self._timing.proven
                if has_lasted:
                    # Not after a list: what breaks every watch would be asked without a rest.
                    self._backoff.reset()
            if not has_lasted and self.counts.messages == heard:
                # Nothing was said and at once it was over: whether it is the version or the
                # server, only a list can tell.
                raise Unreachable(text)
            self.counts.restarts[reason] += 1
            if reason != "ended" or not has_lasted:
                await timers.sleep(self._backoff)

    async def _watch(self) -> None:
        """Watch from the version that is known, until the server ends it. Raises an ApiError."""
        # At random, so that the watches of a cluster's nodes do not end in one instant.
        lifetime = self._timing.lifetime * random.uniform(1, 2)  # noqa: S311  jitter is no secret
        silence = self._timing.silence
        query = {
            "watch": "1",
            # A node's objects may rest for days while the collection's versions go on. Bookmarks
            # bring the newest one, so that the next watch is not answered with 410.
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(math.ceil(lifetime)),
            **self._selection,
        }
        # A peer that is cut off ends nothing: who waits for its FIN waits for ever.
        stream = self._api.stream(self._path, query, silence=silence, longest=lifetime + silence)
        async with contextlib.aclosing(stream) as messages:
            async for kind, raw in messages:
                self._take(kind, raw)
                await self._give_way()

    def _take(self, kind: str, raw: RawObject) -> None:
        """Take one message; only then is its version where to go on from."""
        if kind != "BOOKMARK":
            changes = collection.change(self._known, kind, raw)
            for key, uid in changes.drops:
                self._drop(key, uid)
            for new in changes.puts:
                self._put(*collection.identity(new), new)
        self._version = collection.version(raw)
        self.counts.messages += 1

    # Tell.

    def _put(self, key: ObjectKey, found: Identity, raw: RawObject) -> None:
        self._known[key] = found
        self._tell(key, partial(self._sink.put, raw))

    def _drop(self, key: ObjectKey, uid: str) -> None:
        del self._known[key]
        self._tell(key, partial(self._sink.drop, key, uid))

    def _tell(self, key: ObjectKey, tell: Callable[[], None]) -> None:
        """Tell the sink of one object; what it meets is no other object's fault."""
        # Only the newest is told again: of an older version, or after the end, nobody must hear.
        self._faults.forget(key)
        self._faults.attempt(key, "object", tell)

    async def _give_way(self) -> None:
        """Let the loop turn after every few objects: a guest may announce itself."""
        self._told += 1
        if self._told % SLICE == 0:
            await asyncio.sleep(0)
