"""Writes endpoints' statuses and Events to the API server, behind what happens, never before.

Of each endpoint only the newest wanted status is kept, however long the API is down, and the
endpoint that was asked for last is written first: a cutover does not queue up behind old news.
"""

import asyncio
import collections
import contextlib
import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import structlog

from handover_api import names
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import WorkloadEndpointStatus
from handover_nodeagent import faults
from handover_nodeagent.api.errors import (
    Absent,
    ApiError,
    Conflict,
    RawObject,
    Unavailable,
    Unreachable,
)
from handover_nodeagent.retry import timers
from handover_nodeagent.retry.backoff import Backoff
from handover_nodeagent.retry.buckets import Bucket
from handover_nodeagent.retry.timers import Gate, Retry
from handover_nodeagent.status import kubernetes_events
from handover_nodeagent.status.kubernetes_events import Event, Pending

WRITERS: Final = 3
"""Enough for ``RATE``; each costs a connection, and that 256 KiB for TLS."""
RATE: Final = 50.0
"""Statuses a second, once ``BURST`` of them are written: what all agents ask of one API server."""
BURST: Final = 100
EVENT_RATE: Final = 10.0
"""Events are slower: nobody decides by them, and statuses must not wait for them."""
EVENT_BURST: Final = 50


class Api(Protocol):
    """What a reporter needs of an ApiServer."""

    async def patch(self, path: str, operations: Sequence[RawObject]) -> RawObject:
        """Change an object."""

    async def create(self, path: str, body: RawObject) -> RawObject:
        """Add an object to a collection."""


@dataclass(slots=True)
class Counts:
    """What a reporter has done since its start."""

    written: int = 0
    """Statuses."""
    created: int = 0
    """Events."""
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    """Failed attempts, by ``ApiError.reason``."""


@dataclass(slots=True)
class _Slot:
    """One endpoint: what is wanted, and what the API is known to have; equal, one object."""

    uid: str
    retry: Retry
    wanted: WorkloadEndpointStatus | None = None
    has: WorkloadEndpointStatus | None = None
    in_flight: bool = False

    @property
    def is_due(self) -> bool:
        return self.wanted is not None and self.wanted != self.has


class Reporter:
    """Takes statuses and Events at any time; ``run`` sends them."""

    def __init__(self, api: Api, clock: Callable[[], dt.datetime], node: str) -> None:
        self.counts = Counts()
        self.events = kubernetes_events.Queue()
        self._api = api
        self._clock = clock
        self._node = node
        self._slots: dict[ObjectKey, _Slot] = {}
        # What is to be written, the newest last; a dict, for a key moves to the end at no cost.
        self._ready: dict[ObjectKey, None] = {}
        self._events_in_flight = 0
        self._has_statuses = asyncio.Event()
        self._has_events = asyncio.Event()
        self._progress = asyncio.Event()
        self._gate = Gate()
        self._log = structlog.get_logger()

    @property
    def pending(self) -> int:
        """Count statuses and Events that the API does not have yet."""
        late = sum(slot.is_due or slot.in_flight for slot in self._slots.values())
        return late + len(self.events) + self._events_in_flight

    def want(self, key: ObjectKey, uid: str, status: WorkloadEndpointStatus) -> None:
        """Have *status* written for this very object, soon."""
        slot = self._slot(key, uid)
        if slot.wanted != status:
            # Of two that are equal one is kept: a busy node has thousands of endpoints.
            slot.wanted = slot.has if slot.has == status else status
            self._consider(key, slot)

    def learn(self, key: ObjectKey, uid: str, status: WorkloadEndpointStatus) -> None:
        """Know what the API has: what is wanted is written only where it differs."""
        slot = self._slot(key, uid)
        if slot.has != status:
            slot.has = slot.wanted if slot.wanted == status else status
            self._consider(key, slot)

    def forget(self, key: ObjectKey, uid: str) -> None:
        """Write nothing more about this very object: it is gone."""
        slot = self._slots.get(key)
        if slot is not None and slot.uid == uid:
            slot.retry.cancel()
            self._ready.pop(key, None)
            del self._slots[key]
            self._progress.set()

    def add_event(self, event: Event) -> None:
        """Have an Event sent; the same again within a minute is only counted."""
        self.events.add(event, self._clock())
        self._has_events.set()

    def retry_now(self) -> None:
        """Try again at once what waits after a failure: the API server has been heard."""
        self._gate.open()
        for key, slot in self._slots.items():
            if slot.retry.is_waiting:
                self._consider(key, slot)

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            bucket = Bucket(RATE, BURST)
            for _ in range(WRITERS):
                group.create_task(self._write_statuses(bucket))
            group.create_task(self._send_events(Bucket(EVENT_RATE, EVENT_BURST)))

    async def flush(self, seconds: float) -> int:
        """Wait, while ``run`` runs, until all is sent; return how much is not in time."""
        self.retry_now()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.pending:
                    self._progress.clear()
                    await self._progress.wait()
        return self.pending

    def _slot(self, key: ObjectKey, uid: str) -> _Slot:
        """Return the endpoint's slot; another object of that name begins with an empty one."""
        slot = self._slots.get(key)
        if slot is None or slot.uid != uid:
            if slot is not None:
                self.forget(key, slot.uid)
            retry = Retry(partial(self._try_again, key, uid), Backoff.shared())
            slot = self._slots[key] = _Slot(uid, retry)
        return slot

    def _consider(self, key: ObjectKey, slot: _Slot) -> None:
        """Queue the endpoint, as the newest, when there is something to write."""
        slot.retry.cancel()
        self._ready.pop(key, None)
        # Two patches of one status under way could arrive in either order.
        if slot.is_due and not slot.in_flight:
            self._ready[key] = None
            self._has_statuses.set()
        self._progress.set()

    def _try_again(self, key: ObjectKey, uid: str) -> None:
        slot = self._slots.get(key)
        if slot is not None and slot.uid == uid:
            self._consider(key, slot)

    async def _write_statuses(self, bucket: Bucket) -> None:
        while True:
            await self._gate.wait()
            if not self._ready:
                self._has_statuses.clear()
                await self._has_statuses.wait()
                continue
            await timers.take(bucket)
            # What is newest is decided now, after the wait for a turn.
            if self._ready and self._gate.is_open:
                key, _ = self._ready.popitem()
                await self._write(key, self._slots[key])

    async def _write(self, key: ObjectKey, slot: _Slot) -> None:
        sent = slot.wanted
        assert sent is not None
        # Not awaited between taking and this: two writers never have the same endpoint.
        slot.in_flight = True
        try:
            await self._api.patch(_path(key), operations(slot.uid, sent))
        except ApiError as error:
            self._fail(key, slot, error)
        except Exception as error:  # noqa: BLE001  the root of one endpoint's report
            faults.note("status", error, endpoint=str(key))
            slot.retry.failed()
        else:
            slot.has = sent
            slot.retry.succeeded()
            self.counts.written += 1
            self._reached()
        finally:
            slot.in_flight = False
        # A newer status need not wait until the older one may be tried again.
        has_news = slot.wanted is not sent
        if self._slots.get(key) is slot and (has_news or not slot.retry.is_waiting):
            self._consider(key, slot)
        self._progress.set()

    def _fail(self, key: ObjectKey, slot: _Slot, error: ApiError) -> None:
        self._count(error)
        # It may have been written all the same; what is there now is anybody's guess.
        slot.has = None
        # An API server that cannot be reached is everybody's wait, behind the gate.
        if self._slots.get(key) is not slot or isinstance(error, Unreachable):
            return
        if isinstance(error, Absent):
            self.forget(key, slot.uid)
            return
        self._log.warning("status_not_written", endpoint=str(key), reason=str(error))
        slot.retry.failed(error.retry_after)

    async def _send_events(self, bucket: Bucket) -> None:
        backoff = Backoff.shared()
        while True:
            await self._gate.wait()
            if not self.events:
                self._has_events.clear()
                await self._has_events.wait()
                continue
            await timers.take(bucket)
            if await self._send(self.events.take(self._clock())):
                backoff.reset()
            else:
                await timers.sleep(backoff)

    async def _send(self, pending: Pending) -> bool:
        """Create one Event; return whether it is done with, one way or the other."""
        self._events_in_flight = 1
        namespace = pending.event.key.namespace
        try:
            # Conflict: an earlier attempt has arrived, though its answer did not.
            with contextlib.suppress(Conflict):
                body = kubernetes_events.to_object(pending, self._node)
                await self._api.create(f"/api/v1/namespaces/{namespace}/events", body)
            self.counts.created += 1
            self._reached()
        except Unavailable as error:
            self._count(error)
            self.events.restore(pending)
            return False
        except ApiError as error:
            self._count(error)
            self._log.warning("event_not_told", reason=pending.event.reason, error=str(error))
        except Exception as error:  # noqa: BLE001  the root of one Event, which is lost
            faults.note("event", error, endpoint=str(pending.event.key))
        finally:
            self._events_in_flight = 0
            self._progress.set()
        return True

    def _count(self, error: ApiError) -> None:
        self.counts.failures[error.reason] += 1
        if isinstance(error, Unreachable) and self._gate.close():
            self._log.warning("reports_wait", reason=str(error))

    def _reached(self) -> None:
        """Let the others go on: the API server has answered."""
        if self._gate.succeed():
            self._log.info("reports_go_on", pending=self.pending)


def operations(uid: str, status: WorkloadEndpointStatus) -> Sequence[RawObject]:
    """Return the JSON patch (RFC 6902) that replaces the whole status of this very object."""
    return (
        # A uid in a merge patch would not do: the API server ignores it in a status subresource.
        {"op": "test", "path": "/metadata/uid", "value": uid},
        # ``add`` also replaces; ``replace`` would fail where there is no status so far.
        {"op": "add", "path": "/status", "value": status.to_object()},
    )


def _path(key: ObjectKey) -> str:
    root = f"/apis/{names.API_VERSION}/namespaces/{key.namespace}"
    return f"{root}/{names.WORKLOAD_ENDPOINTS}/{key.name}/status"
