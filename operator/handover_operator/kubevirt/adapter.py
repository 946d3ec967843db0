"""The incremental adapter: KubeVirt's objects in, desired objects out, one VMI at a time. Pure.

A change looks at the objects of one VMI alone, however many others there are. The VMI's name finds
them; uids decide what belongs to it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign
from handover_operator.kubevirt import vmi, vmim_outcome
from handover_operator.kubevirt.desired import Desired, DesiredEndpoint, DesiredMigration, Lookup
from handover_operator.kubevirt.model import Pod, Vmi, Vmim
from handover_operator.kubevirt.vmi import VmiObjects
from handover_operator.roles.outcome import Undecided

NOTHING: Final = Desired()

KubevirtObject = Pod | Vmi | Vmim


@dataclass(frozen=True, slots=True)
class Change:
    """What is desired for one VMI, before and after."""

    before: Desired
    after: Desired


class Adapter:
    """Keeps pods, VMIs and VMIMs, and for each VMI what is desired."""

    def __init__(self) -> None:
        self._of_vmi: dict[ObjectKey, VmiObjects] = {}
        self._objects: dict[tuple[Foreign, ObjectKey], KubevirtObject] = {}
        self._desired: dict[ObjectKey, Desired] = {}
        self._stale: set[ObjectKey] = set()
        self._endpoints: dict[ObjectKey, ObjectKey] = {}
        self._migrations: dict[ObjectKey, ObjectKey] = {}
        self._vmi_of_vmim: dict[str, ObjectKey] = {}
        self._pods: dict[str, ObjectKey] = {}

    def put(self, kind: Foreign, found: KubevirtObject) -> None:
        """Take in an object, new or changed; made anew under its name it is another one."""
        before = self._objects.get((kind, found.key))
        if before == found:
            return
        # Under its old name it is a new object, or another VMI's: what was known of it there must
        # go.
        if before is not None and (before.uid != found.uid or _vmi_key(before) != _vmi_key(found)):
            self.drop(kind, found.key)
        self._objects[kind, found.key] = found
        objects = self._touch(_vmi_key(found))
        objects.absent.discard(found.uid)
        match found:
            case Vmi():
                objects.vmi = found
            case Pod():
                objects.pods[found.uid] = found
                self._pods[found.uid] = found.vmi
                self._enter(objects, found)
            case Vmim():
                objects.vmims[found.uid] = found
                objects.vmim_uids.add(found.uid)
                self._vmi_of_vmim[found.uid] = found.vmi

    def _enter(self, objects: VmiObjects, pod: Pod) -> None:
        """Take in of which VMIM a pod speaks; without a name nobody can ask for it."""
        uid = pod.migration_uid
        if uid is None:
            return
        objects.vmim_uids.add(uid)
        # The VMIM itself knows better, and may have come first.
        self._vmi_of_vmim.setdefault(uid, pod.vmi)
        # KubeVirt writes uid and name together: without the name somebody has changed the pod.
        if pod.migration_name is None and uid not in objects.vmims:
            objects.absent.add(uid)

    def drop(self, kind: Foreign, key: ObjectKey) -> None:
        """Forget an object that is gone; one that is unknown is fine."""
        found = self._objects.pop((kind, key), None)
        if found is None:
            return
        objects = self._touch(_vmi_key(found))
        match found:
            case Vmi():
                objects.vmi = None
                objects.absent.add(found.uid)
            case Pod():
                del objects.pods[found.uid], self._pods[found.uid]
            case Vmim():
                del objects.vmims[found.uid]
                objects.absent.add(found.uid)
                # The phase goes with the object; how it ended is asked for as long as its
                # LiveMigration is.
                if found.phase.outcome is not None:
                    objects.ended[found.uid] = found.phase.outcome

    def put_absent(self, vmi_key: ObjectKey, uid: str) -> None:
        """Take in that the API server has no object of this uid that belongs to a VMI."""
        if vmi_key in self._of_vmi:
            self._touch(vmi_key).absent.add(uid)

    def put_complete(self) -> None:
        """Take in that all objects were listed: what a pod refers to and nobody saw is absent."""
        for key, desired in ((key, vmi.resolve(each)) for key, each in self._of_vmi.items()):
            # Only now: before all lists are read, what nobody has seen so far may be on the next
            # page.
            for lookup in desired.lookups:
                self._touch(key).absent.add(lookup.uid)

    def resolve(self) -> Mapping[ObjectKey, Change]:
        """Decide anew for each VMI that changed; return those whose desired objects are others."""
        changes: dict[ObjectKey, Change] = {}
        for key in self._stale:
            objects = self._of_vmi[key]
            before, after = self._desired.get(key, NOTHING), vmi.resolve(objects)
            # Resolved first, so that what was desired for the last of them is taken back.
            if not objects:
                self._discard(key, objects)
            if before != after:
                self._keep(key, before, after)
                changes[key] = Change(before, after)
        self._stale = set()
        return changes

    def endpoint(self, key: ObjectKey) -> DesiredEndpoint | None:
        """Return what was last resolved for an endpoint."""
        vmi_key = self._endpoints.get(key)
        return None if vmi_key is None else self._desired[vmi_key].endpoints[key]

    def migration(self, key: ObjectKey) -> DesiredMigration | None:
        """Return what was last resolved for a LiveMigration."""
        vmi_key = self._migrations.get(key)
        return None if vmi_key is None else self._desired[vmi_key].migrations[key]

    def siblings(self, migration: ObjectKey) -> Iterable[ObjectKey]:
        """Return the endpoints that are desired for the VMI of a LiveMigration."""
        vmi_key = self._migrations.get(migration)
        return () if vmi_key is None else self._desired[vmi_key].endpoints

    def is_complete(self, pod_uid: str) -> bool:
        """Return whether all endpoints that a pod may have are desired by name."""
        vmi_key = self._pods.get(pod_uid)
        return vmi_key is not None and pod_uid in self._desired.get(vmi_key, NOTHING).complete_pods

    def desired(self) -> Mapping[ObjectKey, Desired]:
        """Return all that is desired, by VMI."""
        return self._desired

    def outcome(self, uid: str) -> Outcome | Undecided | None:
        """Return how a VMIM ended, or that it has not; None: there never was one here."""
        objects = self._of_vmi.get(self._vmi_of_vmim.get(uid, ObjectKey("", "")))
        if objects is None:
            return None
        return vmim_outcome.of(objects, uid) or Undecided.UNDER_WAY

    def vmi_of(self, vmim_uid: str) -> Vmi | None:
        """Return the VMI that a VMIM moves, or has moved."""
        objects = self._of_vmi.get(self._vmi_of_vmim.get(vmim_uid, ObjectKey("", "")))
        return None if objects is None else objects.vmi

    def outcome_lookup(self, uid: str) -> Lookup | None:
        """Return what must be read to judge how a VMIM ended; None: nothing, or it goes on."""
        key = self._vmi_of_vmim.get(uid, ObjectKey("", ""))
        objects = self._of_vmi.get(key)
        if objects is None or not vmim_outcome.is_open(objects, uid):
            return None
        return Lookup(key, Foreign.VMI, key, objects.vmi.uid if objects.vmi else "", outcome_of=uid)

    def judge(self, vmi_key: ObjectKey, uid: str) -> None:
        """Decide how a VMIM ended that is gone: its VMI was read since."""
        if vmi_key in self._of_vmi:
            objects = self._touch(vmi_key)
            if vmim_outcome.is_open(objects, uid):
                objects.ended[uid] = vmim_outcome.judge(objects, uid)

    def _touch(self, key: ObjectKey) -> VmiObjects:
        self._stale.add(key)
        return self._of_vmi.setdefault(key, VmiObjects())

    def _discard(self, key: ObjectKey, objects: VmiObjects) -> None:
        del self._of_vmi[key]
        for uid in objects.vmim_uids:
            # A VMIM made anew under another VMI has its entry from that one.
            if self._vmi_of_vmim.get(uid) == key:
                del self._vmi_of_vmim[uid]

    def _keep(self, key: ObjectKey, before: Desired, after: Desired) -> None:
        # A name may have gone to another VMI in the same turn, which came first then.
        for vmi_keys, names in (
            (self._endpoints, before.endpoints),
            (self._migrations, before.migrations),
        ):
            for name in names:
                if vmi_keys.get(name) == key:
                    del vmi_keys[name]
        self._endpoints |= dict.fromkeys(after.endpoints, key)
        self._migrations |= dict.fromkeys(after.migrations, key)
        if after == NOTHING:
            self._desired.pop(key, None)
        else:
            self._desired[key] = after


def _vmi_key(found: KubevirtObject) -> ObjectKey:
    """Return the name of the VMI that an object belongs to."""
    return found.key if isinstance(found, Vmi) else found.vmi
