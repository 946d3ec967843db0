"""What the adapter knows of KubeVirt's objects: the few fields that its decisions need.

An object is told by its uid; names only find it. Ten thousand pods and VMIs are kept, so these
are slim, and two that are equal need no second look.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey

PRIMARY_DEVICE: Final = "eth0"
"""The pod's first interface, in its own network namespace."""


class VmimPhase(enum.IntEnum):
    """How far a VMIM is, as far as it makes a difference; the order is that of time."""

    # "", Pending, and the phases in which two clusters synchronize: no target pod exists.
    WAITING = 0
    # From here on a target pod may exist; also what a later KubeVirt may call a phase.
    SCHEDULING = 1
    # TargetReady and Running: before TargetReady the pod's own kernel may answer for the VM, with
    # the VM's MAC (kubevirt#17195).
    ARMED = 2
    SUCCEEDED = 3
    FAILED = 4

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, in a final phase."""
        return _OUTCOMES.get(self)


_OUTCOMES: Final = {
    VmimPhase.SUCCEEDED: Outcome.SUCCEEDED,
    VmimPhase.FAILED: Outcome.ABORTED,
}


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of a guest, as its VMI asks for it.

    ``device`` is its name in the pod's network namespace.
    """

    name: str
    binding: str
    device: str
    mac: str | None = None
    network: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An entry of the pod's network-status annotation: a network that was really attached."""

    network: str
    device: str
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MigrationState:
    """The VMI's migrationState: it may still be that of an earlier migration."""

    migration_uid: str
    source_pod: str
    target_node: str = ""


@dataclass(frozen=True, slots=True)
class Vmi:
    """A VirtualMachineInstance. ``node`` is where KubeVirt says that the guest runs."""

    key: ObjectKey
    uid: str
    node: str | None = None
    is_running: bool = False
    interfaces: tuple[Interface, ...] = ()
    migration_state: MigrationState | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """A virt-launcher pod that a VMI owns. ``node`` is None until it is bound.

    ``migration_uid`` is that of the VMIM which made it, also long after that has ended.
    """

    key: ObjectKey
    uid: str
    vmi: ObjectKey
    vmi_uid: str
    node: str | None = None
    ips: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    migration_uid: str | None = None
    migration_name: str | None = None
    is_final: bool = False
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Vmim:
    """A VirtualMachineInstanceMigration."""

    key: ObjectKey
    uid: str
    vmi: ObjectKey
    phase: VmimPhase = VmimPhase.WAITING
    source_pod: str | None = None
