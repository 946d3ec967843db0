"""What is to exist for one VMI, as frozen values: endpoints and LiveMigrations of ours.

And what must be read, or said, on the way there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign


@dataclass(frozen=True, slots=True)
class Owner:
    """The foreign object with which one of ours goes."""

    kind: Foreign
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class DesiredEndpoint:
    """An endpoint of a launcher pod that lives.

    ``ips`` are assumed to be the source's while ``are_assumed``: then they are good enough to
    make the endpoint, and no reason to change one. ``assignment`` is given when it is made; what
    comes after is the resolver's. One that exists is kept though it could not be made now.
    ``after``: the VMIM that brought the guest, whose LiveMigration must know of its end before an
    endpoint is made without a role; else the resolver would still give it one.
    """

    key: ObjectKey
    owner: Owner
    node: str
    mac: str | None = None
    ips: tuple[str, ...] = ()
    are_assumed: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    assignment: Assignment | None = None
    # Not its uid: what is looked up is whether our LiveMigration, of the same name, has an outcome.
    after: ObjectKey | None = None
    is_makeable: bool = False


@dataclass(frozen=True, slots=True)
class DesiredMigration:
    """The LiveMigration of a VMIM. A source that is None, and an outcome, are left as they are."""

    key: ObjectKey
    owner: Owner
    source: str | None = None
    armed: bool = False
    outcome: Outcome | None = None
    not_followed: str = ""
    is_makeable: bool = False


@dataclass(frozen=True, slots=True)
class Lookup:
    """An object to be read by name before what *vmi* needs can be decided.

    ``outcome_of``: the uid of the VMIM that is gone, where the object may be known, and is to tell
    how that ended; what watches have told of it may be older than that end.
    """

    vmi: ObjectKey
    kind: Foreign
    key: ObjectKey
    # Another object that has its name by now is not the one that is meant, which is then absent.
    uid: str
    outcome_of: str = ""


@dataclass(frozen=True, slots=True)
class NotFollowed:
    """Something that whoever looks at a VMI should know."""

    vmi: ObjectKey
    uid: str
    text: str


@dataclass(frozen=True, slots=True)
class Desired:
    """All that is desired for one VMI.

    ``complete_pods``: uids of pods that have no other endpoints than these; of any other pod
    nothing is known that would justify to delete one.
    """

    # By key, since names are KubeVirt's: two pods never share one in a namespace.
    endpoints: Mapping[ObjectKey, DesiredEndpoint] = field(default_factory=dict)
    migrations: Mapping[ObjectKey, DesiredMigration] = field(default_factory=dict)
    complete_pods: frozenset[str] = frozenset()
    lookups: frozenset[Lookup] = frozenset()
    not_followed: tuple[NotFollowed, ...] = ()
