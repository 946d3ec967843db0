"""One VMI with its pods and VMIMs, and what is desired for it. Pure.

Theory. A pod is the target of the VMIM that made it while that is under way; its endpoint is made
with that role on it as soon as the pod is bound, because the CNI installs its route long before
the kubelet reports an address. Any other pod gets an endpoint when it has addresses and the guest
is, or starts, on its node: the pod of a failed or finished migration must not attract traffic.
An endpoint that exists is kept until its pod has ended, whatever is thought of it meanwhile.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from handover_api import wording
from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_operator.kinds import Foreign
from handover_operator.kubevirt import bindings
from handover_operator.kubevirt.desired import (
    Desired,
    DesiredEndpoint,
    DesiredMigration,
    Lookup,
    NotFollowed,
    Owner,
)
from handover_operator.kubevirt.model import PRIMARY_DEVICE, Interface, Pod, Vmi, Vmim, VmimPhase


@dataclass(slots=True)
class VmiObjects:
    """All that is known around one VMI; pods and VMIMs by uid.

    ``absent``: uids that the API server does not have. ``vmim_uids``: those of all VMIMs that were
    ever heard of; ``ended``: how those ended that are gone (vmim_outcome.py).
    """

    vmi: Vmi | None = None
    pods: dict[str, Pod] = field(default_factory=dict)
    vmims: dict[str, Vmim] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    vmim_uids: set[str] = field(default_factory=set)
    ended: dict[str, Outcome] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Nothing is left of it when this is false."""
        return self.vmi is not None or bool(self.pods) or bool(self.vmims)

    def is_running_in(self, pod: Pod) -> bool:
        """KubeVirt says that the guest runs on the node of *pod*.

        Where a VMI receives its guest from elsewhere its node is set before the guest is there.
        """
        vmi = self.vmi
        return (
            vmi is not None and vmi.is_running and _is_owned_by(pod, vmi) and vmi.node == pod.node
        )


def _is_owned_by(pod: Pod, vmi: Vmi | None) -> bool:
    return vmi is not None and pod.vmi_uid == vmi.uid


def resolve(objects: VmiObjects) -> Desired:
    """Decide what is desired; the order in which things became known makes no difference."""
    endpoints: dict[ObjectKey, DesiredEndpoint] = {}
    for pod in objects.pods.values():
        for endpoint in _endpoints(objects, pod):
            endpoints[endpoint.key] = endpoint
    migrations = {vmim.key: _migration(objects, vmim) for vmim in objects.vmims.values()}
    return Desired(
        endpoints=endpoints,
        migrations=migrations,
        # Of these pods every endpoint is listed above: one that is not, though it is there, may go.
        complete_pods=frozenset(
            pod.uid for pod in objects.pods.values() if pod.is_final or _is_live(objects, pod)
        ),
        lookups=frozenset(_lookups(objects)),
        not_followed=tuple(_not_followed(objects)),
    )


def _lookups(objects: VmiObjects) -> Iterator[Lookup]:
    """Name what a pod refers to and what no watch has shown yet."""
    for pod in objects.pods.values():
        if not _is_owned_by(pod, objects.vmi) and pod.vmi_uid not in objects.absent:
            yield Lookup(pod.vmi, Foreign.VMI, pod.vmi, pod.vmi_uid)
        uid, name = pod.migration_uid, pod.migration_name
        # The labels of a migration stay on its pod for ever: only the VMIM says whether it goes on.
        if uid and name and uid not in objects.vmims and uid not in objects.absent:
            yield Lookup(pod.vmi, Foreign.VMIM, ObjectKey(pod.key.namespace, name), uid)


def _not_followed(objects: VmiObjects) -> Iterator[NotFollowed]:
    vmi, refused = objects.vmi, _refusals(objects)
    if vmi is None or not refused:
        return
    if any(_is_live(objects, pod) for pod in objects.pods.values()):
        yield NotFollowed(vmi.key, vmi.uid, wording.enumerate_few(refused, len(refused), "; "))


def _is_live(objects: VmiObjects, pod: Pod) -> bool:
    return pod.node is not None and not pod.is_final and _is_owned_by(pod, objects.vmi)


def _refusals(objects: VmiObjects) -> list[str]:
    interfaces = objects.vmi.interfaces if objects.vmi is not None else ()
    return [text for each in interfaces if (text := bindings.refusal(each))]


def _endpoints(objects: VmiObjects, pod: Pod) -> Iterator[DesiredEndpoint]:
    vmi = objects.vmi
    if vmi is None or pod.node is None or not _is_live(objects, pod):
        return
    vmim = objects.vmims.get(pod.migration_uid or "")
    assignment, source = _assignment(vmim), _source(objects, vmim)
    may_be_made = assignment is not None or _is_or_starts_in(objects, pod)
    for interface in vmi.interfaces:
        if bindings.refusal(interface) is not None:
            continue
        ips = bindings.addresses(pod, interface)
        # A CNI installs its route with the pod's network, before the kubelet reports podIPs; and a
        # guest that can be followed keeps its addresses.
        are_assumed = not ips and assignment is not None and source is not None
        if are_assumed and source is not None:
            ips = bindings.addresses(source, interface)
        yield DesiredEndpoint(
            key=_key(pod, interface),
            owner=Owner(Foreign.POD, pod.key.name, pod.uid),
            node=pod.node,
            mac=interface.mac,
            ips=ips,
            are_assumed=are_assumed,
            labels=pod.labels,
            assignment=assignment,
            # Its VMIM ended, its LiveMigration may not know so far (desired.DesiredEndpoint).
            after=vmim.key if vmim is not None and assignment is None else None,
            is_makeable=may_be_made and bool(ips),
        )


def _key(pod: Pod, interface: Interface) -> ObjectKey:
    """Name the endpoint after its pod, and a further one after its device as well."""
    name = pod.key.name
    # The first has the pod's name, which other drivers of migrations can know.
    if interface.device != PRIMARY_DEVICE:
        name = f"{name}.{interface.device}"
    return ObjectKey(pod.key.namespace, name)


def _assignment(vmim: Vmim | None) -> Assignment | None:
    """Return the role with which the endpoint of a pod is made, by the VMIM that made the pod."""
    # A pod whose migration failed must not look like a target; one that succeeded is none any more.
    if vmim is None or vmim.phase.outcome is not None:
        return None
    return Assignment(
        role=Role.TARGET,
        migration=vmim.key.name,
        migration_uid=vmim.uid,
        armed=vmim.phase is VmimPhase.ARMED,
    )


def _is_or_starts_in(objects: VmiObjects, pod: Pod) -> bool:
    """The guest is on this pod's node, or starts there.

    The pod that a migration made is no place to start, and one whose VMIM is unknown may be a
    target.
    """
    assert objects.vmi is not None
    uid = pod.migration_uid
    if uid is None:
        # Before the guest starts its VMI has no node: the pod that no migration made is where it
        # will.
        return objects.vmi.node in {None, pod.node}
    is_known = uid in objects.vmims or uid in objects.absent
    return is_known and objects.is_running_in(pod)


def _migration(objects: VmiObjects, vmim: Vmim) -> DesiredMigration:
    outcome, refused = vmim.phase.outcome, _refusals(objects)
    has_target = any(pod.migration_uid == vmim.uid for pod in objects.pods.values())
    source = _source(objects, vmim)
    return DesiredMigration(
        key=vmim.key,
        owner=Owner(Foreign.VMIM, vmim.key.name, vmim.uid),
        # Of one that is over the source stays as it was written.
        source=None if source is None or outcome is not None else source.key.name,
        armed=vmim.phase is VmimPhase.ARMED,
        outcome=outcome,
        not_followed=wording.enumerate_few(refused, len(refused), "; "),
        # None for one that waits, perhaps for long, and none for one that is over.
        is_makeable=outcome is None and (has_target or vmim.phase > VmimPhase.WAITING),
    )


def _source(objects: VmiObjects, vmim: Vmim | None) -> Pod | None:
    """Find the pod from which the guest moves away.

    By the VMI's migrationState, where it is of this VMIM; by what the VMIM says from its queueing
    on; else by where the guest runs. A pod of another namespace or cluster is not among these.
    """
    vmi = objects.vmi
    if vmim is None or vmi is None:
        return None
    candidates = [
        pod
        for pod in objects.pods.values()
        if pod.migration_uid != vmim.uid and _is_owned_by(pod, vmi) and pod.node is not None
    ]
    said = [vmim.source_pod]
    # Compared, since it stays that of the earlier migration until the hand-over of this one.
    if vmi.migration_state is not None and vmi.migration_state.migration_uid == vmim.uid:
        said.insert(0, vmi.migration_state.source_pod)
    for name in said:
        for pod in candidates:
            if pod.key.name == name:
                return pod
    here = [pod for pod in candidates if not pod.is_final and pod.node == vmi.node]
    # After A→B→A there may be two for a while: no source is better than a wrong one.
    return here[0] if len(here) == 1 else None
