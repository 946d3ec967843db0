"""What the adapter's work queue holds: objects, Events of them, and what must be read.

And what was said already: an Event is emitted once.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from handover_api.names import ObjectKey
from handover_operator.kinds import AnyKind, Foreign, Kind
from handover_operator.kubevirt.desired import Lookup, Owner
from handover_operator.status.kubernetes_events import KubernetesEvent


@dataclass(frozen=True, slots=True)
class Subject:
    """An object of ours to bring up to date."""

    kind: Kind
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class Emission:
    """An Event to emit about an object."""

    kind: AnyKind
    key: ObjectKey
    uid: str
    event: KubernetesEvent

    def __str__(self) -> str:
        return f"Event {self.event.reason} of {self.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class Relist:
    """A kind of KubeVirt's whose objects are all to be listed anew."""

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


# Values, so that the queue holds each of them once, however often it is added.
Item = Subject | Emission | Lookup | Relist | Made


def is_urgent(item: Item) -> bool:
    """Whether an agent may be waiting for it, or for what depends on its answer."""
    # Roles wait for both: an answer, and an endpoint that carries one.
    is_question = isinstance(item, Lookup | Relist)
    return is_question or (isinstance(item, Subject) and item.kind is Kind.ENDPOINT)


class Emitted:
    """What was said of which object, by its uid; what is gone is to be forgotten."""

    def __init__(self) -> None:
        self._by_uid: dict[str, set[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._by_uid)

    def note(self, uid: str, what: Hashable) -> bool:
        """Know that this is said of an object from now on; tell whether it never was before."""
        emitted = self._by_uid.setdefault(uid, set())
        before = len(emitted)
        emitted.add(what)
        # Of a set only its size tells whether the value was new, with one look-up.
        return len(emitted) > before

    def forget(self, uid: str) -> None:
        """Take in that an object is gone."""
        self._by_uid.pop(uid, None)

    def clear(self) -> None:
        """Forget all."""
        self._by_uid.clear()
