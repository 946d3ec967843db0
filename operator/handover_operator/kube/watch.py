"""List and watch of one kind, for all kinds that are not Kopf's: KubeVirt's, and namespaces.

Why not Kopf's: see ARCHITECTURE.md. A complete list is told as a whole, an empty one as well:
nobody else would ever tell that an object was deleted while nobody watched. A watch that ends or
breaks goes on where it stood; where the API server remembers that version no more, a list begins
it anew.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterable, Mapping
from typing import Final, Generic, Protocol, TypeVar

import structlog

from handover_api.names import API_VERSION, GROUP, ObjectKey
from handover_operator.kinds import AnyKind, Kind, Watched
from handover_operator.kube import backoff, position
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Absent, Unavailable
from handover_operator.kube.position import Position
from handover_operator.observability import metrics
from handover_operator.roles import parse
from handover_operator.roles.parse import RawObject

SILENCE: Final = 70.0
"""Seconds without any message after which a watch is dead: the API server sends a bookmark each
minute."""

LIFETIME: Final = 300
"""The API server ends a watch between this and twice as many seconds, so that the watches that an
outage has ended at once do not all come back at once for ever."""

SLICE: Final = 10
"""Objects of a list that are told in one turn of the loop: each may cost a millisecond."""


K = TypeVar("K", bound=Watched)
A = TypeVar("A", bound=AnyKind)
K_contra = TypeVar("K_contra", bound=Watched, contravariant=True)


class Sink(Protocol[K_contra]):
    """Where a watch tells what it learns; called synchronously on the loop."""

    def observe(self, kind: K_contra, raw: RawObject) -> None:
        """Take in one version of an object, which may be old news."""

    def end(self, kind: K_contra, raw: RawObject) -> None:
        """Take in the last version of an object that is gone."""

    def retain(self, kind: K_contra, existing: Mapping[ObjectKey, str], version: int) -> None:
        """Take in that a list of this version was complete: the uids of all that exists."""

    def miss(self, kind: K_contra, reason: Exception) -> None:
        """Take in why changes may be missed until the next complete list; each reason once."""


class Watch(Generic[K]):
    """Keeps a sink informed about all objects of a kind, of all namespaces."""

    def __init__(self, cluster: Cluster, kind: K, sink: Sink[K]) -> None:
        self._cluster = cluster
        self._kind = kind
        self._sink = sink
        self._position = Position()

    async def run(self) -> None:
        """Watch until cancelled, from the last list on, if there was one."""
        loop = asyncio.get_running_loop()
        pause = backoff.FIRST_DELAY
        while True:
            began, lists = loop.time(), self._position.lists
            needed = 0.0
            try:
                await self._watch()
            except Exception as reason:  # noqa: BLE001  the root of a task that all others outlive
                outage = self._position.note_end(reason)
                needed = outage.retry_after
                if outage.is_news:
                    self._sink.miss(self._kind, reason)
            await asyncio.sleep(max(pause, needed))
            has_listed = self._position.lists > lists
            # Also where the API server has ended it: one that begins ends watches at once.
            pause = backoff.next_pause(pause, loop.time() - began, has_listed=has_listed)

    async def list(self) -> None:
        """Tell all that there is. Raises what the client raises."""
        existing: dict[ObjectKey, str] = {}
        number = 0
        async for page, number in self._cluster.objects(self._kind):  # noqa: B007  the last counts
            for raw in page:
                existing[parse.key(raw)] = raw["metadata"]["uid"]
                observe(self._sink, self._kind, raw)
                if len(existing) % SLICE == 0:
                    await asyncio.sleep(0)
        # Only once all pages are there: what a page that was never read holds is not missing.
        self._position.note_list(number)
        self._sink.retain(self._kind, existing, number)

    async def _watch(self) -> None:
        """Watch until the API server ends it."""
        # Discovery has listed already, before it let the adapter decide.
        if not self._position.version:
            await self.list()
        lifetime = int(LIFETIME * random.uniform(1, 2))  # noqa: S311  jitter is no secret
        changes = self._cluster.changes(self._kind, self._position.version, SILENCE, lifetime)
        async with contextlib.aclosing(changes):
            async for change, raw in changes:
                self._take(change, raw)

    def _take(self, change: str, raw: RawObject) -> None:
        self._position.note_change(change, raw)
        if change != position.BOOKMARK:
            observe(self._sink, self._kind, raw, is_gone=change == position.DELETED)


def observe(sink: Sink[K], kind: K, raw: RawObject, *, is_gone: bool = False) -> None:
    """Tell a sink of one object; what that meets is no other object's fault."""
    try:
        (sink.end if is_gone else sink.observe)(kind, raw)
    except Exception:  # noqa: BLE001  the root of whatever a sink does
        metrics.DEFECTS.inc()
        metadata = raw.get("metadata") or {}
        name = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
        structlog.get_logger().exception("cannot_take_in", kind=kind.value, object=name)


async def require(cluster: Cluster, kinds: Iterable[Kind]) -> None:
    """Raise Unavailable where not all of our kinds are served."""
    missing = {kind.plural for kind in kinds} - await cluster.resources(API_VERSION)
    if missing:
        message = f"not all kinds are served yet: {', '.join(sorted(missing))}"
        raise Unavailable(message)


async def load(cluster: Cluster, sink: Sink[Kind], kinds: Iterable[Kind]) -> None:
    """Tell all objects of kinds of ours that must be there. Raises what the client raises."""
    for kind in kinds:
        try:
            await Watch(cluster, kind, sink).list()
        except Absent as error:
            message = f"CustomResourceDefinition {kind.plural}.{GROUP} is not installed"
            raise Unavailable(message) from error


async def sweep(cluster: Cluster, sink: Sink[A], kinds: Iterable[A]) -> None:
    """Tell which objects exist, to find those whose deletion no watch has told."""
    for kind in kinds:
        existing, version = await cluster.identities(kind)
        sink.retain(kind, existing, version)
