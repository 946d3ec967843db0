"""How a VMIM ended: by its phase, by where the guest runs, or by its absence."""

import pytest

from handover_api.livemigration import Outcome
from handover_api.names import ObjectKey
from handover_operator.kubevirt import vmim_outcome
from handover_operator.kubevirt.model import MigrationState, Pod, Vmi, Vmim, VmimPhase
from handover_operator.kubevirt.vmi import VmiObjects
from handover_operator.roles.outcome import Undecided

VM = ObjectKey("vms", "vm")


def target(*, vmi_uid: str = "uid-vm", is_final: bool = False) -> Pod:
    """Build the pod on node b that VMIM ``m`` has made."""
    key = ObjectKey("vms", "p2")
    return Pod(key, "p2", VM, vmi_uid, node="b", migration_uid="m", is_final=is_final)


def running(node: str | None, state: MigrationState | None = None) -> Vmi:
    """Build a VMI whose guest runs on *node*."""
    return Vmi(VM, "uid-vm", node=node, is_running=True, migration_state=state)


def objects(vmi: Vmi | None, *pods: Pod) -> VmiObjects:
    """Build what is known around a VMI of whose VMIM ``m`` no final phase was seen."""
    return VmiObjects(vmi=vmi, pods={pod.uid: pod for pod in pods}, absent={"m"})


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (VmimPhase.WAITING, None),
        (VmimPhase.SCHEDULING, None),
        (VmimPhase.ARMED, None),
        (VmimPhase.SUCCEEDED, Outcome.SUCCEEDED),
        (VmimPhase.FAILED, Outcome.ABORTED),
    ],
)
def test_a_vmim_that_exists_has_ended_with_its_final_phase_alone(
    phase: VmimPhase, expected: Outcome | None
) -> None:
    vmim = Vmim(ObjectKey("vms", "m"), "m", VM, phase)
    known = VmiObjects(vmims={"m": vmim}, absent={"m"}, ended={"m": Outcome.ABORTED})
    assert expected == vmim_outcome.of(known, "m")
    assert not vmim_outcome.is_open(known, "m")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_of_one_that_is_gone_counts_what_was_noted(outcome: Outcome) -> None:
    known = VmiObjects(absent={"m"}, ended={"m": outcome})
    assert outcome == vmim_outcome.of(known, "m")
    assert not vmim_outcome.is_open(known, "m")


def test_one_that_went_without_a_final_phase_is_open_until_its_vmi_was_read() -> None:
    known = objects(running("a"))
    assert vmim_outcome.of(known, "m") is None
    assert vmim_outcome.is_open(known, "m")
    assert not vmim_outcome.is_open(known, "another")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param(objects(running("b"), target()), "Succeeded", id="in its pod"),
        pytest.param(objects(running("a"), target()), "Aborted", id="elsewhere"),
        pytest.param(objects(running("b"), target(is_final=True)), "Aborted", id="pod ended"),
        pytest.param(objects(running("b"), target(vmi_uid="x")), "Aborted", id="another VMI's"),
        pytest.param(
            objects(running("b", MigrationState("m", "p1", "b"))), "Succeeded", id="node named"
        ),
        pytest.param(
            objects(running("a", MigrationState("m", "p1", "b"))), "Aborted", id="other node"
        ),
        pytest.param(
            objects(running("b", MigrationState("x", "p1", "b"))), "Aborted", id="state of before"
        ),
        pytest.param(objects(running("b")), "Aborted", id="nothing names the node"),
        pytest.param(
            objects(Vmi(VM, "uid-vm", "b", migration_state=MigrationState("m", "p1", "b"))),
            "Aborted",
            id="does not run",
        ),
        pytest.param(objects(None, target()), "Aborted", id="no VMI"),
    ],
)
def test_it_succeeded_where_the_guest_runs_where_it_was_to_go(
    known: VmiObjects, expected: str
) -> None:
    assert Outcome(expected) == vmim_outcome.judge(known, "m")


@pytest.mark.parametrize(
    ("known", "is_absent", "expected"),
    [
        (None, False, None),
        (None, True, Outcome.ABORTED),
        (Undecided.UNDER_WAY, True, None),
        (Outcome.SUCCEEDED, True, Outcome.SUCCEEDED),
        (Outcome.ABORTED, False, Outcome.ABORTED),
    ],
)
def test_one_that_was_never_seen_is_aborted_once_nobody_has_it(
    known: Outcome | Undecided | None, *, is_absent: bool, expected: Outcome | None
) -> None:
    assert expected == vmim_outcome.of_unseen(known, is_absent=is_absent)
