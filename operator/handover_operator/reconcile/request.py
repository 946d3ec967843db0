"""What a turn of the operator's loop is about, and what it leaves to do. Pure."""

from dataclasses import dataclass
from typing import Final

from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.status.kubernetes_events import KubernetesEvent

ALL: Final = ObjectKey("", "")
"""No object has this name: all of a kind are to be listed anew."""


@dataclass(frozen=True, slots=True)
class Request:
    """An object to bring up to date, or an event to record about it."""

    kind: Kind
    key: ObjectKey
    event: KubernetesEvent | None = None
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {str(self.key).removeprefix('/')}"


@dataclass(frozen=True, slots=True)
class Result:
    """What is left to do: events to record about the object, and when to look at it again.

    ``uid``: of the object that the events are about. ``requeue_after``: seconds; None: when
    something changes. ``migration``: as it was before, where it is one that the events are about.
    """

    events: tuple[KubernetesEvent, ...] = ()
    uid: str = ""
    requeue_after: float | None = None
    migration: LiveMigration | None = None


DONE: Final = Result()


def is_urgent(request: Request) -> bool:
    """Whether an agent may be waiting for it: roles go before what only tells of them."""
    return request.kind is Kind.ENDPOINT and request.event is None
