"""What a turn of the operator's loop is about: one object, or all of a kind."""

from dataclasses import dataclass
from typing import Final

from handover_api.names import ObjectKey
from handover_operator.kinds import Kind
from handover_operator.status.kubernetes_events import KubernetesEvent

ALL: Final = ObjectKey("", "")
"""No object has this name: all of a kind are to be listed anew."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An object to bring up to date, or to say something about."""

    kind: Kind
    key: ObjectKey
    event: KubernetesEvent | None = None
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {str(self.key).removeprefix('/')}"


def is_urgent(subject: Subject) -> bool:
    """Whether an agent may be waiting for it: roles go before what only tells of them."""
    return subject.kind is Kind.ENDPOINT and subject.event is None
