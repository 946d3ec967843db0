"""Kubernetes Events that wait to be told: few, and none twice within a minute."""

import dataclasses
import datetime as dt
import secrets
from dataclasses import dataclass
from typing import Any, Final

from handover_api import names
from handover_api.names import ObjectKey

CAPACITY: Final = 256
QUIET: Final = dt.timedelta(minutes=1)
LONGEST_MESSAGE: Final = 1024
"""The API server takes no longer one (core/v1 Event)."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that is worth an Event about an endpoint."""

    key: ObjectKey
    uid: str
    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A notice on its way; its name stays the same however often it is sent."""

    notice: Notice
    name: str
    first: dt.datetime
    last: dt.datetime
    count: int = 1


class Notices:
    """The queue; when it is full the oldest notice is lost, and counted in ``dropped``."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.dropped = 0
        self.coalesced = 0
        self._capacity = capacity
        self._queue: dict[Notice, Waiting] = {}
        self._told: dict[Notice, dt.datetime] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, notice: Notice, now: dt.datetime) -> None:
        """Queue a notice, unless the same waits already or was told within a minute."""
        self._forget(now)
        waiting = self._queue.get(notice)
        if waiting is not None:
            self._queue[notice] = dataclasses.replace(waiting, last=now, count=waiting.count + 1)
        if waiting is not None or notice in self._told:
            self.coalesced += 1
            return
        # A name that ends in a hyphen or dot would not be one in front of our dot.
        stem = notice.key.name[:200].rstrip("-.")
        self._queue[notice] = Waiting(notice, f"{stem}.{secrets.token_hex(8)}", now, now)
        self._bound(self._queue)

    def take(self, now: dt.datetime) -> Waiting:
        """Remove the oldest one, which counts as told. Raises StopIteration when empty."""
        notice = next(iter(self._queue))
        self._told.pop(notice, None)
        self._told[notice] = now
        return self._queue.pop(notice)

    def restore(self, waiting: Waiting) -> None:
        """Put back, in front, what could not be told."""
        self._told.pop(waiting.notice, None)
        self._queue = {waiting.notice: waiting, **self._queue}
        self._bound(self._queue)

    def _bound(self, queue: dict[Notice, Waiting]) -> None:
        while len(queue) > self._capacity:
            del queue[next(iter(queue))]
            self.dropped += 1

    def _forget(self, now: dt.datetime) -> None:
        for notice, when in list(self._told.items()):
            # A clock that was set back must not silence anybody for longer.
            if abs(now - when) < QUIET and len(self._told) <= self._capacity:
                return
            del self._told[notice]


def body(waiting: Waiting, node: str) -> dict[str, Any]:
    """Return the core/v1 Event."""
    notice = waiting.notice
    return {
        "metadata": {"name": waiting.name, "namespace": notice.key.namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": "WorkloadEndpoint",
            "name": notice.key.name,
            "namespace": notice.key.namespace,
            "uid": notice.uid,
        },
        "type": "Warning" if notice.warning else "Normal",
        "reason": notice.reason,
        "message": notice.message[:LONGEST_MESSAGE],
        "firstTimestamp": _time(waiting.first),
        "lastTimestamp": _time(waiting.last),
        "count": waiting.count,
        "source": {"component": names.NODEAGENT_FIELD_MANAGER, "host": node},
        "reportingComponent": f"{names.GROUP}/{names.NODEAGENT_FIELD_MANAGER}",
        "reportingInstance": node,
    }


def _time(when: dt.datetime) -> str:
    return when.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
