"""What of a LiveMigration's new status is worth a Kubernetes Event."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from handover_api import wording
from handover_api.conditions import MigrationCondition as Type
from handover_api.conditions import MigrationReason as Reason
from handover_api.livemigration import LiveMigrationStatus, Phase
from handover_operator.roles.parse import Unreadable
from handover_operator.status import measurements


@dataclass(frozen=True, slots=True)
class KubernetesEvent:
    """One Event: ``warning`` or normal."""

    reason: str
    message: str
    warning: bool = False


# Reasons of TargetReady that do not pass by themselves; the others are the ordinary course.
_LASTING: Final = {Reason.AGENT_SILENT, Reason.NODE_ABSENT}
# These two are alarms by their status; their end is none.
_ALARMING: Final = {(Type.CONFLICTED, "True"), (Type.ADDRESS_KEPT, "False")}
_WATCHED: Final = (
    Type.CONFLICTED,
    Type.ADDRESS_KEPT,
    Type.TARGET_READY,
    Type.SOURCE_LINGERS,
    Type.CONTRADICTED,
)


def malformed(found: Unreadable) -> KubernetesEvent:
    """Say which field of an object cannot be read."""
    message = f"{found.field}: {found.message}; this version of the object is ignored"
    return KubernetesEvent("Malformed", message, warning=True)


def shared(text: str) -> KubernetesEvent:
    """Say that another node serves an address, too."""
    return KubernetesEvent("AddressShared", text, warning=True)


def describe(before: LiveMigrationStatus, after: LiveMigrationStatus) -> Iterator[KubernetesEvent]:
    """Compare two statuses of one migration; the order is the order in which things happen."""
    # What a person must look at goes first: with it the rest makes sense.
    yield from _alarms(before, after)
    if after.phase is Phase.READY and before.phase is not Phase.READY:
        nodes = wording.enumerate_few((side.node for side in after.target), _count(after))
        yield KubernetesEvent("Ready", f"the target is listening on {nodes}")
    if _changed(before, after, Type.CUT_OVER):
        yield KubernetesEvent("CutOver", "".join(_measured(after)) or "every target is live")
    if after.phase is Phase.SUCCEEDED and before.phase is not Phase.SUCCEEDED:
        text = "the network follows the guest; all targets are back in Base"
        # Told of the VMI, too, it outlives all objects that have the figures.
        yield KubernetesEvent("Succeeded", "; ".join((text, *_measured(after))))
    if after.phase is Phase.NOT_FOLLOWED and before.phase is not Phase.NOT_FOLLOWED:
        finished = after.condition(Type.FINISHED)
        why = "" if finished is None else finished.message
        text = f"the guest moved, the network did not: {why}"
        yield KubernetesEvent(
            Reason.NOT_FOLLOWED, "; ".join((text, *_measured(after))), warning=True
        )
    if after.phase is Phase.ABORTED and before.phase is not Phase.ABORTED:
        text = "the source keeps the traffic, or gets it back"
        yield KubernetesEvent("Aborted", "; ".join((text, *_measured(after))), warning=True)


def _alarms(before: LiveMigrationStatus, after: LiveMigrationStatus) -> Iterator[KubernetesEvent]:
    """Say what a person should look at."""
    for wanted in _WATCHED:
        found = after.condition(wanted)
        if found is None or not _changed(before, after, wanted):
            continue
        if wanted is Type.CONTRADICTED:
            if found.status == "True" and not before.is_true(wanted):
                yield KubernetesEvent("Contradicted", found.message, warning=True)
        elif wanted is Type.SOURCE_LINGERS and found.reason == Reason.STILL_ROUTED:
            yield KubernetesEvent("SourceLingers", found.message, warning=True)
        elif found.reason in _LASTING or (wanted, found.status) in _ALARMING:
            yield KubernetesEvent(found.reason, found.message, warning=True)


def _count(status: LiveMigrationStatus) -> int:
    """Count the targets, also those that the status has no room for."""
    return len(status.target) if status.target_count is None else status.target_count


def _measured(status: LiveMigrationStatus) -> Iterator[str]:
    """Say of the first few targets what their agents have measured; nothing where none has."""
    told = [
        f"{side.endpoint} on {side.node}: {measurements.sentence(side.cutover)}"
        for side in status.target
        if side.cutover is not None
    ]
    if told:
        yield wording.enumerate_few(told, len(told), "; ")


def _changed(before: LiveMigrationStatus, after: LiveMigrationStatus, wanted: Type) -> bool:
    """Return whether a condition is another one by status, reason or message."""
    old, new = before.condition(wanted), after.condition(wanted)
    if new is None:
        return False
    # A condition that begins as False says that nothing is wrong, but for AddressKept, which is
    # present only once something was.
    if old is None:
        return new.status == "True" or wanted is Type.ADDRESS_KEPT
    return (old.status, old.reason, old.message) != (new.status, new.reason, new.message)
