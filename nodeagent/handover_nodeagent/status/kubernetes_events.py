"""Kubernetes Events about endpoints that wait to be sent: few, and none twice within a minute.

An Event is news for a person, never state: what is lost here still stands in the conditions.
"""

import dataclasses
import datetime as dt
import secrets
from dataclasses import dataclass
from typing import Any, Final

from handover_api import names
from handover_api.names import ObjectKey

CAPACITY: Final = 256
"""Events that wait at most, however long the API server is away."""
QUIET: Final = dt.timedelta(minutes=1)
"""For how long an Event that was sent is only counted when it happens again."""
LONGEST_MESSAGE: Final = 1024
"""The API server takes no longer one (core/v1 Event)."""
LONGEST_STEM: Final = 200
"""Letters of the endpoint's name in that of its Event: with dot and number below the 253 that a
name may have."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is worth telling of an endpoint; equal ones are one and the same Event."""

    key: ObjectKey
    uid: str
    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """An Event on its way; its name stays the same however often it is sent."""

    event: Event
    name: str
    first: dt.datetime
    last: dt.datetime
    count: int = 1


class Queue:
    """What waits; when it is full the oldest Event is lost, and counted in ``dropped``."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.dropped = 0
        self.coalesced = 0
        self._capacity = capacity
        self._pending: dict[Event, Pending] = {}
        self._sent: dict[Event, dt.datetime] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, event: Event, now: dt.datetime) -> None:
        """Queue an Event, unless the same waits already or was sent within a minute."""
        self._forget_sent(now)
        pending = self._pending.get(event)
        if pending is not None:
            self._pending[event] = dataclasses.replace(pending, last=now, count=pending.count + 1)
        if pending is not None or event in self._sent:
            self.coalesced += 1
            return
        # A name that ends in a hyphen or dot would not be one in front of our dot.
        stem = event.key.name[:LONGEST_STEM].rstrip("-.")
        # As in client-go the name is made here: sent twice it is a Conflict, not a second Event.
        self._pending[event] = Pending(event, f"{stem}.{secrets.token_hex(8)}", now, now)
        self._drop_oldest()

    def take(self, now: dt.datetime) -> Pending:
        """Remove the oldest one, which counts as sent. Raises StopIteration when empty."""
        event = next(iter(self._pending))
        # Removed first, so that the dict stays in the order of sending.
        self._sent.pop(event, None)
        self._sent[event] = now
        return self._pending.pop(event)

    def restore(self, pending: Pending) -> None:
        """Put back, in front, what could not be sent."""
        self._sent.pop(pending.event, None)
        self._pending = {pending.event: pending, **self._pending}
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while len(self._pending) > self._capacity:
            del self._pending[next(iter(self._pending))]
            self.dropped += 1

    def _forget_sent(self, now: dt.datetime) -> None:
        for event, when in list(self._sent.items()):
            # A clock that was set back must not silence anybody for longer.
            if abs(now - when) < QUIET and len(self._sent) <= self._capacity:
                return
            del self._sent[event]


def to_object(pending: Pending, node: str) -> dict[str, Any]:
    """Return the core/v1 Event."""
    event = pending.event
    return {
        "metadata": {"name": pending.name, "namespace": event.key.namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": "WorkloadEndpoint",
            "name": event.key.name,
            "namespace": event.key.namespace,
            "uid": event.uid,
        },
        "type": "Warning" if event.is_warning else "Normal",
        "reason": event.reason,
        "message": event.message[:LONGEST_MESSAGE],
        "firstTimestamp": _time(pending.first),
        "lastTimestamp": _time(pending.last),
        "count": pending.count,
        "source": {"component": names.NODEAGENT_FIELD_MANAGER, "host": node},
        "reportingComponent": f"{names.GROUP}/{names.NODEAGENT_FIELD_MANAGER}",
        "reportingInstance": node,
    }


def _time(when: dt.datetime) -> str:
    # metav1.Time has no fractions of a second.
    return when.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
