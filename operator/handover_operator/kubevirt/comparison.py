"""What is wanted of each of our objects, compared with what there is. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign, Kind
from handover_operator.kubevirt import diff
from handover_operator.kubevirt.adapter import Adapter
from handover_operator.kubevirt.desired import Owner
from handover_operator.kubevirt.diff import Delete, Write
from handover_operator.kubevirt.observed import Ledger
from handover_operator.roles.outcome import Driver, Undecided


@dataclass(slots=True)
class Comparison:
    """KubeVirt's world beside our own objects.

    *ttl*: seconds for which a LiveMigration can be looked at after it has finished. ``lost``: uids
    of VMIMs that are not there, and of endpoints whose pods are not. ``driver`` says how a VMIM
    ended, or finds it out.
    """

    ttl: int
    driver: Driver
    adapter: Adapter = field(default_factory=Adapter)
    ledger: Ledger = field(default_factory=Ledger)
    lost: set[str] = field(default_factory=set)

    def due(self, kind: Kind, key: ObjectKey) -> Write | None:
        """Return the write that is missing now."""
        if self.ledger.stranger(kind, key) is not None:
            return None
        write = self._missing(kind, key)
        # Nobody knows what a patch of it would make of it, and there is no making it anew.
        if self.ledger.is_unreadable(kind, key) and not isinstance(write, Delete):
            return None
        return write

    def _missing(self, kind: Kind, key: ObjectKey) -> Write | None:
        if kind is Kind.ENDPOINT:
            seen = self.ledger.endpoints.get(key)
            is_judged = seen is not None and self.adapter.has_judged(seen.owner_uid)
            wanted = self.adapter.endpoint(key)
            if seen is not None and seen.uid in self.lost:
                return Delete(seen.uid)
            return diff.endpoint(wanted, self.ledger, key, is_judged=is_judged)
        migration = self.ledger.migrations.get(key)
        fate = None if migration is None else self._fate(migration.owner_uid)
        return diff.migration(self.adapter.migration(key), migration, fate, self.ttl)

    def _fate(self, uid: str) -> Outcome | None:
        """Return how a VMIM ended that is not there any more."""
        course = self.driver(uid)
        if course is None:
            return Outcome.ABORTED if uid in self.lost else None
        return None if isinstance(course, Undecided) else course

    def is_doubtful(self, kind: Kind, key: ObjectKey) -> bool:
        """Whether one of the adapter's own belongs to something that was never seen."""
        if kind is Kind.ENDPOINT:
            orphan = self.ledger.endpoints.get(key)
            is_wanted = self.adapter.endpoint(key) is not None
            return orphan is not None and not orphan.owner_uid and not is_wanted
        seen = self.ledger.migrations.get(key)
        if seen is None or seen.outcome is not None:
            return False
        return self.adapter.course(seen.owner_uid) is None and seen.owner_uid not in self.lost

    def is_in_the_way(self, kind: Kind, key: ObjectKey) -> bool:
        """Whether what is wanted cannot be made: its name is another's, or nobody can read it."""
        if self.ledger.holder(kind, key) is None:
            return False
        if kind is Kind.ENDPOINT:
            endpoint = self.adapter.endpoint(key)
            return endpoint is not None and endpoint.is_makeable
        migration = self.adapter.migration(key)
        return migration is not None and migration.is_makeable

    def owner(self, kind: Kind, key: ObjectKey) -> Owner | None:
        """Return the foreign object with which this one is to go; None where none is wanted."""
        of = self.adapter.endpoint if kind is Kind.ENDPOINT else self.adapter.migration
        wanted = of(key)
        return None if wanted is None else wanted.owner

    def grounds(
        self, kind: Kind, key: ObjectKey, *, with_role: bool
    ) -> Iterator[tuple[Foreign, ObjectKey]]:
        """Return the foreign objects on account of which something is wanted."""
        endpoint = self.adapter.endpoint(key) if kind is Kind.ENDPOINT else None
        owner = self.owner(kind, key)
        if owner is not None:
            yield owner.kind, ObjectKey(key.namespace, owner.name)
        said = None if endpoint is None else endpoint.assignment
        if with_role and said is not None and said.migration is not None:
            yield Foreign.VMIM, ObjectKey(key.namespace, said.migration)
