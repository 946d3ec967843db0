"""The incremental adapter: KubeVirt's objects in, wishes out, one VMI at a time. Pure.

Everything that concerns one VMI is one machine, found by the VMI's name; a change looks at that
machine alone, however many others there are. Uids decide what belongs to it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign
from handover_operator.kubevirt import vmi as machine
from handover_operator.kubevirt.desired import Need, WantedEndpoint, WantedMigration, Wishes
from handover_operator.kubevirt.model import Pod, Vmi, Vmim
from handover_operator.kubevirt.vmi import Machine
from handover_operator.roles.outcome import Undecided

NOTHING: Final = Wishes()

Fact = Pod | Vmi | Vmim


@dataclass(frozen=True, slots=True)
class Change:
    """The wishes of one VMI before and after."""

    before: Wishes
    after: Wishes


class Adapter:
    """Keeps pods, VMIs and VMIMs, and for each VMI what is wanted."""

    def __init__(self) -> None:
        self._machines: dict[ObjectKey, Machine] = {}
        self._facts: dict[tuple[Foreign, ObjectKey], Fact] = {}
        self._wishes: dict[ObjectKey, Wishes] = {}
        self._stale: set[ObjectKey] = set()
        self._endpoints: dict[ObjectKey, ObjectKey] = {}
        self._migrations: dict[ObjectKey, ObjectKey] = {}
        self._courses: dict[str, ObjectKey] = {}
        self._pods: dict[str, ObjectKey] = {}

    def put(self, kind: Foreign, fact: Fact) -> None:
        """Take in an object, new or changed; made anew under its name it is another one."""
        before = self._facts.get((kind, fact.key))
        if before == fact:
            return
        if before is not None and (before.uid != fact.uid or _home(before) != _home(fact)):
            self.drop(kind, fact.key)
        self._facts[kind, fact.key] = fact
        home = self._touch(_home(fact))
        home.absent.discard(fact.uid)
        match fact:
            case Vmi():
                home.vmi = fact
            case Pod():
                home.pods[fact.uid] = fact
                self._pods[fact.uid] = fact.vmi
                self._enter(home, fact)
            case Vmim():
                home.vmims[fact.uid] = fact
                home.courses.add(fact.uid)
                self._courses[fact.uid] = fact.vmi

    def _enter(self, home: Machine, pod: Pod) -> None:
        """Take in of which VMIM a pod speaks; without a name nobody can ask for it."""
        uid = pod.migration_uid
        if uid is None:
            return
        home.courses.add(uid)
        self._courses.setdefault(uid, pod.vmi)
        if pod.migration_name is None and uid not in home.vmims:
            home.absent.add(uid)

    def drop(self, kind: Foreign, key: ObjectKey) -> None:
        """Forget an object that is gone; one that is unknown is fine."""
        fact = self._facts.pop((kind, key), None)
        if fact is None:
            return
        home = self._touch(_home(fact))
        match fact:
            case Vmi():
                home.vmi = None
                home.absent.add(fact.uid)
            case Pod():
                del home.pods[fact.uid], self._pods[fact.uid]
            case Vmim():
                del home.vmims[fact.uid]
                home.bury(fact)

    def put_absent(self, home: ObjectKey, uid: str) -> None:
        """Take in that the API server has no object of this uid that belongs to a machine."""
        if home in self._machines:
            self._touch(home).absent.add(uid)

    def put_complete(self) -> None:
        """Take in that all objects were listed: what a pod refers to and nobody saw is absent."""
        for key, wishes in ((key, machine.resolve(each)) for key, each in self._machines.items()):
            for need in wishes.needs:
                self._touch(key).absent.add(need.uid)

    def resolve(self) -> Mapping[ObjectKey, Change]:
        """Bring the wishes of all that changed up to date; return those that are others now."""
        changes: dict[ObjectKey, Change] = {}
        for key in self._stale:
            home = self._machines[key]
            before, after = self._wishes.get(key, NOTHING), machine.resolve(home)
            if not home:
                self._discard(key, home)
            if before != after:
                self._keep(key, before, after)
                changes[key] = Change(before, after)
        self._stale = set()
        return changes

    def endpoint(self, key: ObjectKey) -> WantedEndpoint | None:
        """Return what was last resolved for an endpoint."""
        home = self._endpoints.get(key)
        return None if home is None else self._wishes[home].endpoints[key]

    def migration(self, key: ObjectKey) -> WantedMigration | None:
        """Return what was last resolved for a LiveMigration."""
        home = self._migrations.get(key)
        return None if home is None else self._wishes[home].migrations[key]

    def siblings(self, migration: ObjectKey) -> Iterable[ObjectKey]:
        """Return the endpoints that are wanted for the VMI of a LiveMigration."""
        home = self._migrations.get(migration)
        return () if home is None else self._wishes[home].endpoints

    def has_judged(self, pod_uid: str) -> bool:
        """Return whether all endpoints that a pod may have are wanted by name."""
        home = self._pods.get(pod_uid)
        return home is not None and pod_uid in self._wishes.get(home, NOTHING).judged

    def wishes(self) -> Mapping[ObjectKey, Wishes]:
        """Return all wishes, by VMI."""
        return self._wishes

    def course(self, uid: str) -> Outcome | Undecided | None:
        """Return how a VMIM ended, or that it has not; None: there never was one here."""
        home = self._machines.get(self._courses.get(uid, ObjectKey("", "")))
        if home is None:
            return None
        return home.fate(uid) or Undecided.UNDER_WAY

    def vmi(self, course: str) -> Vmi | None:
        """Return the VMI that a VMIM moves, or has moved."""
        home = self._machines.get(self._courses.get(course, ObjectKey("", "")))
        return None if home is None else home.vmi

    def question(self, uid: str) -> Need | None:
        """Return what must be read to judge how a VMIM ended; None: nothing, or it goes on."""
        key = self._courses.get(uid, ObjectKey("", ""))
        home = self._machines.get(key)
        if home is None or not home.is_open(uid):
            return None
        return Need(key, Foreign.VMI, key, home.vmi.uid if home.vmi else "", fate_of=uid)

    def judge(self, home: ObjectKey, uid: str) -> None:
        """Decide how a VMIM ended that is gone: its VMI was read since."""
        if home in self._machines:
            self._touch(home).judge(uid)

    def _touch(self, key: ObjectKey) -> Machine:
        self._stale.add(key)
        return self._machines.setdefault(key, Machine())

    def _discard(self, key: ObjectKey, home: Machine) -> None:
        del self._machines[key]
        for uid in home.courses:
            if self._courses.get(uid) == key:
                del self._courses[uid]

    def _keep(self, key: ObjectKey, before: Wishes, after: Wishes) -> None:
        # A name may have gone to another VMI in the same turn, which came first then.
        for homes, names in (
            (self._endpoints, before.endpoints),
            (self._migrations, before.migrations),
        ):
            for name in names:
                if homes.get(name) == key:
                    del homes[name]
        self._endpoints |= dict.fromkeys(after.endpoints, key)
        self._migrations |= dict.fromkeys(after.migrations, key)
        if after == NOTHING:
            self._wishes.pop(key, None)
        else:
            self._wishes[key] = after


def _home(fact: Fact) -> ObjectKey:
    """Return the machine that an object belongs to."""
    return fact.key if isinstance(fact, Vmi) else fact.vmi
