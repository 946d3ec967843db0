"""How a VMIM ended. Where several things are known of it, the first of these counts.

1. KubeVirt's final phase, Succeeded or Failed: ``of``. No other field ends it: ``completed`` says
   nothing of success, and a deletion only asks KubeVirt to cancel.
2. Of a VMIM that is gone, the final phase that was its last: ``of`` as well.
3. Of one that went without a final phase, where the guest runs, by a VMI that was read after it
   had gone: ``judge``. Until then ``is_open``, and its roles stay.
4. Of one that the API server does not have and that was never seen here: ``of_unseen``.

Where the VMIM is there, ``vmi.py`` has its phase's outcome without asking here. ``diff.py`` makes
of either the patch of ``spec.outcome``, in which any driver of a migration tells its end, and
``owned.py`` sends it.
"""

from handover_api.livemigration import Outcome
from handover_operator.kubevirt.vmi import VmiObjects
from handover_operator.roles.outcome import Undecided


def of(objects: VmiObjects, uid: str) -> Outcome | None:
    """Return how a VMIM ended; None: it has not, or nobody knows yet (``judge``)."""
    # One that is there after all goes before what was noted when it seemed to be gone.
    vmim = objects.vmims.get(uid)
    return objects.ended.get(uid) if vmim is None else vmim.phase.outcome


def is_open(objects: VmiObjects, uid: str) -> bool:
    """Whether a VMIM is gone, and neither a phase nor a look at the VMI says how it ended."""
    return uid in objects.absent and uid not in objects.vmims and uid not in objects.ended


def judge(objects: VmiObjects, uid: str) -> Outcome:
    """Decide how a VMIM ended that went without a final phase, by a VMI read after that.

    It succeeded if the guest runs where it was to go: in the pod that it made, or on the node
    that the VMI's migrationState names, where we do not know the pod so far.
    """
    has_arrived = any(
        pod.migration_uid == uid and not pod.is_final and objects.is_running_in(pod)
        for pod in objects.pods.values()
    )
    vmi = objects.vmi
    state = None if vmi is None or not vmi.is_running else vmi.migration_state
    # migrationState stays after its migration, until the next one overwrites it.
    if vmi is not None and state is not None and state.migration_uid == uid:
        has_arrived = has_arrived or vmi.node == state.target_node
    return Outcome.SUCCEEDED if has_arrived else Outcome.ABORTED


def of_unseen(known: Outcome | Undecided | None, *, is_absent: bool) -> Outcome | None:
    """Return how the VMIM of a LiveMigration ended that nothing here asks for any more.

    *known*: what is known of the VMIM; *is_absent*: the API server was asked, and has it not.
    """
    if known is None:
        return Outcome.ABORTED if is_absent else None
    return None if isinstance(known, Undecided) else known
