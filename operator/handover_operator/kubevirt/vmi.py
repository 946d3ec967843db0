"""One VMI with its pods and VMIMs, and what is wanted for it. Pure.

Theory. A pod is the target of the VMIM that made it while that is under way; its endpoint is made
with that role on it as soon as the pod is bound, because the CNI installs its route long before
the kubelet reports an address. Any other pod gets an endpoint when it has addresses and the guest
is, or starts, on its node: the pod of a failed or finished migration must not attract traffic.
An endpoint that exists is kept until its pod has ended, whatever is thought of it meanwhile.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_api.wording import enumerate_few
from handover_api.workloadendpoint import Role
from handover_operator.kinds import Foreign
from handover_operator.kubevirt import bindings
from handover_operator.kubevirt.desired import (
    Need,
    Owner,
    Remark,
    WantedEndpoint,
    WantedMigration,
    Wishes,
)
from handover_operator.kubevirt.model import PRIMARY, Interface, Pod, Progress, Vmi, Vmim


@dataclass(slots=True)
class Machine:
    """All that is known around one VMI; pods and VMIMs by uid.

    ``absent``: uids that the API server does not have. ``courses``: the uids of all VMIMs that
    were ever heard of; ``ended``: how those ended that are gone.
    """

    vmi: Vmi | None = None
    pods: dict[str, Pod] = field(default_factory=dict)
    vmims: dict[str, Vmim] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    courses: set[str] = field(default_factory=set)
    ended: dict[str, Outcome] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Nothing is left of it when this is false."""
        return self.vmi is not None or bool(self.pods) or bool(self.vmims)

    def bury(self, vmim: Vmim) -> None:
        """Remember how a VMIM ended that is gone, if its last phase says so."""
        self.absent.add(vmim.uid)
        if vmim.progress.outcome is not None:
            self.ended[vmim.uid] = vmim.progress.outcome

    def fate(self, uid: str) -> Outcome | None:
        """Return how a VMIM ended; None: it has not, or nobody knows yet (``judge``)."""
        vmim = self.vmims.get(uid)
        return self.ended.get(uid) if vmim is None else vmim.progress.outcome

    def is_open(self, uid: str) -> bool:
        """Whether a VMIM is gone, and nobody has said or judged how it ended."""
        return uid in self.absent and uid not in self.vmims and uid not in self.ended

    def judge(self, uid: str) -> None:
        """Decide how a VMIM ended that went without a final phase, by a VMI read after that.

        It succeeded if the guest runs where it was to go: in the pod that it made, or on the node
        that the hand-off names, where we do not know the pod so far.
        """
        if not self.is_open(uid):
            return
        has_arrived = any(
            pod.migration_uid == uid and not pod.is_final and self.runs_in(pod)
            for pod in self.pods.values()
        )
        vmi = self.vmi
        if vmi is not None and vmi.is_running and vmi.handoff and vmi.handoff.migration_uid == uid:
            has_arrived = has_arrived or vmi.node == vmi.handoff.target_node
        self.ended[uid] = Outcome.SUCCEEDED if has_arrived else Outcome.ABORTED

    def runs_in(self, pod: Pod) -> bool:
        """KubeVirt says that the guest runs on the node of *pod*.

        Where a VMI receives its guest from elsewhere its node is set before the guest is there.
        """
        vmi = self.vmi
        return vmi is not None and vmi.is_running and _is_of(pod, vmi) and vmi.node == pod.node


def _is_of(pod: Pod, vmi: Vmi | None) -> bool:
    return vmi is not None and pod.vmi_uid == vmi.uid


def resolve(machine: Machine) -> Wishes:
    """Decide what is wanted; the order in which things became known makes no difference."""
    endpoints: dict[ObjectKey, WantedEndpoint] = {}
    for pod in machine.pods.values():
        for wanted in _endpoints(machine, pod):
            endpoints[wanted.key] = wanted
    migrations = {vmim.key: _migration(machine, vmim) for vmim in machine.vmims.values()}
    return Wishes(
        endpoints=endpoints,
        migrations=migrations,
        judged=frozenset(
            pod.uid for pod in machine.pods.values() if pod.is_final or _is_live(machine, pod)
        ),
        needs=frozenset(_needs(machine)),
        remarks=tuple(_remarks(machine)),
    )


def _needs(machine: Machine) -> Iterator[Need]:
    """Name what a pod refers to and what no watch has shown yet."""
    for pod in machine.pods.values():
        if not _is_of(pod, machine.vmi) and pod.vmi_uid not in machine.absent:
            yield Need(pod.vmi, Foreign.VMI, pod.vmi, pod.vmi_uid)
        uid, name = pod.migration_uid, pod.migration_name
        if uid and name and uid not in machine.vmims and uid not in machine.absent:
            yield Need(pod.vmi, Foreign.VMIM, ObjectKey(pod.key.namespace, name), uid)


def _remarks(machine: Machine) -> Iterator[Remark]:
    vmi, refused = machine.vmi, _not_followed(machine)
    if vmi is None or not refused:
        return
    if any(_is_live(machine, pod) for pod in machine.pods.values()):
        yield Remark(vmi.key, vmi.uid, enumerate_few(refused, len(refused), "; "))


def _is_live(machine: Machine, pod: Pod) -> bool:
    return pod.node is not None and not pod.is_final and _is_of(pod, machine.vmi)


def _not_followed(machine: Machine) -> list[str]:
    interfaces = machine.vmi.interfaces if machine.vmi is not None else ()
    return [text for each in interfaces if (text := bindings.refusal(each))]


def _endpoints(machine: Machine, pod: Pod) -> Iterator[WantedEndpoint]:
    vmi = machine.vmi
    if vmi is None or pod.node is None or not _is_live(machine, pod):
        return
    vmim = machine.vmims.get(pod.migration_uid or "")
    assignment, source = _assignment(vmim), _source(machine, vmim)
    may_be_made = assignment is not None or _is_resident(machine, pod)
    for interface in vmi.interfaces:
        if bindings.refusal(interface) is not None:
            continue
        ips = bindings.addresses(pod, interface)
        are_assumed = not ips and assignment is not None and source is not None
        if are_assumed and source is not None:
            ips = bindings.addresses(source, interface)
        yield WantedEndpoint(
            key=_key(pod, interface),
            owner=Owner(Foreign.POD, pod.key.name, pod.uid),
            node=pod.node,
            mac=interface.mac,
            ips=ips,
            are_assumed=are_assumed,
            labels=pod.labels,
            assignment=assignment,
            after=vmim.key if vmim is not None and assignment is None else None,
            is_makeable=may_be_made and bool(ips),
        )


def _key(pod: Pod, interface: Interface) -> ObjectKey:
    """Name the endpoint after its pod, and a further one after its device as well."""
    name = pod.key.name
    if interface.device != PRIMARY:
        name = f"{name}.{interface.device}"
    return ObjectKey(pod.key.namespace, name)


def _assignment(vmim: Vmim | None) -> Assignment | None:
    """Return the role with which the endpoint of a pod is made, by the VMIM that made the pod."""
    if vmim is None or vmim.progress.outcome is not None:
        return None
    return Assignment(
        role=Role.TARGET,
        migration=vmim.key.name,
        migration_uid=vmim.uid,
        armed=vmim.progress is Progress.ARMED,
    )


def _is_resident(machine: Machine, pod: Pod) -> bool:
    """The guest is on this pod's node, or starts there.

    The pod that a migration made is no place to start, and one whose VMIM is unknown may be a
    target.
    """
    assert machine.vmi is not None
    uid = pod.migration_uid
    if uid is None:
        return machine.vmi.node in {None, pod.node}
    is_known = uid in machine.vmims or uid in machine.absent
    return is_known and machine.runs_in(pod)


def _migration(machine: Machine, vmim: Vmim) -> WantedMigration:
    outcome, refused = vmim.progress.outcome, _not_followed(machine)
    has_target = any(pod.migration_uid == vmim.uid for pod in machine.pods.values())
    source = _source(machine, vmim)
    return WantedMigration(
        key=vmim.key,
        owner=Owner(Foreign.VMIM, vmim.key.name, vmim.uid),
        source=None if source is None or outcome is not None else source.key.name,
        armed=vmim.progress is Progress.ARMED,
        outcome=outcome,
        not_followed=enumerate_few(refused, len(refused), "; "),
        is_makeable=outcome is None and (has_target or vmim.progress > Progress.WAITING),
    )


def _source(machine: Machine, vmim: Vmim | None) -> Pod | None:
    """Find the pod from which the guest moves away.

    By the hand-off, where it is of this VMIM; by what the VMIM says from its queueing on; else by
    where the guest runs. A pod of another namespace or cluster is none of this machine's.
    """
    vmi = machine.vmi
    if vmim is None or vmi is None:
        return None
    candidates = [
        pod
        for pod in machine.pods.values()
        if pod.migration_uid != vmim.uid and _is_of(pod, vmi) and pod.node is not None
    ]
    said = [vmim.source_pod]
    if vmi.handoff is not None and vmi.handoff.migration_uid == vmim.uid:
        said.insert(0, vmi.handoff.source_pod)
    for name in said:
        for pod in candidates:
            if pod.key.name == name:
                return pod
    here = [pod for pod in candidates if not pod.is_final and pod.node == vmi.node]
    return here[0] if len(here) == 1 else None
