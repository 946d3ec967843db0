"""What the adapter's work queue holds: objects, Events of them, and what must be read. Pure."""

from dataclasses import dataclass

from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.kubevirt.desired import Lookup, Owner
from handover_operator.kubevirt.emissions import Emission


@dataclass(frozen=True, slots=True)
class Subject:
    """An object of ours to bring up to date."""

    kind: Kind
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


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
