"""What the adapter says in Kubernetes Events, about which object, and what it has said. Pure.

An Event is emitted once; what nobody can mend by looking is said of the object that a person looks
at, which is nearly always the VMI.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_operator.kinds import AnyKind, Foreign, Kind
from handover_operator.kubevirt.desired import NotFollowed
from handover_operator.kubevirt.diff import Diff
from handover_operator.kubevirt.model import Vmi
from handover_operator.status.kubernetes_events import KubernetesEvent

LASTING: Final = frozenset({"CutOver", "Succeeded", "NotFollowed", "Aborted"})
"""Events of a LiveMigration that are also its VMI's."""


@dataclass(frozen=True, slots=True)
class Emission:
    """An Event to emit about an object."""

    kind: AnyKind
    key: ObjectKey
    uid: str
    event: KubernetesEvent

    def __str__(self) -> str:
        return f"Event {self.event.reason} of {self.kind} {self.key}"


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


def of_migration(
    vmi: Vmi | None, migration: LiveMigration, event: KubernetesEvent
) -> Emission | None:
    """Say of the VMI, too, what lasts: it outlives the VMIM and all that goes with it."""
    if vmi is None or event.reason not in LASTING:
        return None
    # Beside the Events of other migrations of the same VMI it has to say of which one it is.
    text = f"LiveMigration {migration.key.name}: {event.message}"
    said = KubernetesEvent(event.reason, text, warning=event.warning)
    return Emission(Foreign.VMI, vmi.key, vmi.uid, said)


def of_interface(found: NotFollowed) -> Emission:
    """Say of a VMI which of its interfaces no migration is followed on."""
    event = KubernetesEvent("NotFollowed", found.text)
    return Emission(Foreign.VMI, found.vmi, found.uid, event)


def of_clash(diff: Diff, kind: Kind, key: ObjectKey) -> tuple[Emission, ...]:
    """Say of both objects that one is left alone which has the name that the other's is to have.

    The first of the two is ours by its kind; none where nothing is desired under that name.
    """
    owner = diff.owner(kind, key)
    if owner is None:
        return ()
    is_unreadable = diff.observed.is_unreadable(kind, key)
    why = "breaks the contract" if is_unreadable else "was not made by Handover"
    text = f"{kind} {key.name} {why}; it is left alone, and {owner.kind} {owner.name} has none"
    event = KubernetesEvent("NameClash", text, warning=True)
    # What blocks a name has a uid; the type checker does not know that it does.
    uid = diff.observed.blocking_uid(kind, key) or ""
    return (
        Emission(kind, key, uid, event),
        Emission(owner.kind, ObjectKey(key.namespace, owner.name), owner.uid, event),
    )
