"""A condition before it has its times, and how it gets them: the same for each kind of object."""

import datetime as dt
from typing import NamedTuple

from handover_api.model import Condition


class Draft(NamedTuple):
    """What a condition says now."""

    holds: bool
    reason: str
    message: str = ""


def date(
    kind: str, draft: Draft, before: Condition | None, generation: int, now: dt.datetime
) -> Condition:
    """Return the condition *kind*; its transition time moves only with its status."""
    status = "True" if draft.holds else "False"
    # The API server keeps times in whole seconds (metav1.Time). With more, what comes back would
    # differ from what was written, and be written again for ever.
    since = now.replace(microsecond=0)
    if before is not None and before.status == status:
        since = before.last_transition_time
    return Condition(
        type=kind,
        status=status,
        reason=draft.reason,
        message=draft.message,
        last_transition_time=since,
        observed_generation=generation,
    )
