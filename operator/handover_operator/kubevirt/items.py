"""What the adapter's loop works on: objects, Events of them, and what it must ask for."""

from dataclasses import dataclass

from handover_api.names import ObjectKey
from handover_operator.kinds import AnyKind, Foreign, Kind
from handover_operator.kubevirt.desired import Need, Owner
from handover_operator.status.kubernetes_events import KubernetesEvent


@dataclass(frozen=True, slots=True)
class Subject:
    """An object of ours to bring up to date."""

    kind: Kind
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class Saying:
    """Something to say about an object."""

    kind: AnyKind
    key: ObjectKey
    uid: str
    event: KubernetesEvent

    def __str__(self) -> str:
        return f"Event {self.event.reason} of {self.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class Relist:
    """A kind of KubeVirt's world of which everything is news."""

    kind: Foreign


@dataclass(frozen=True, slots=True)
class Made:
    """An object of ours, of this uid, whose owner may have gone while it was made."""

    kind: Kind
    key: ObjectKey
    uid: str
    owner: Owner

    def __str__(self) -> str:
        return f"owner of {self.kind} {self.key}"


Item = Subject | Saying | Need | Relist | Made


def is_urgent(item: Item) -> bool:
    """Whether an agent may be waiting for it, or for what depends on its answer."""
    is_question = isinstance(item, Need | Relist)
    return is_question or (isinstance(item, Subject) and item.kind is Kind.ENDPOINT)
