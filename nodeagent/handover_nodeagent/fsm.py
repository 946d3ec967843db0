"""The state machine of one endpoint: ``step`` takes one event and returns what follows.

Theory of operation. A VM that migrates exists twice for a while: its pod on the source node and
its pod on the target node, both with the same address. Only one may attract the traffic, and
only the packets of the guest tell which. So the target starts silent (Target: no route, all
ears), and the guest's announcement, not the API, puts its routes in, with elevated priority
(Live), so that they win against those of the source that are still there. When the API says that
the migration succeeded, the elevated routes outlive the convergence of the other nodes
(TimeWait) and then become normal ones (Base).

The API never takes out a route on its word alone: a guest that should be gone is asked first
(Asking), and one that answers keeps its routes and is asked again later. A guest that is silent
loses them (Withdrawn), and the endpoint listens on, in case it comes back.

Nothing here waits: a timer or an announcement that comes late carries the number of an older
episode and changes nothing.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final

from handover_api.configuration import Settings
from handover_nodeagent.commands import (
    Command,
)
from handover_nodeagent.events import (
    Assigned,
    Deleted,
    Event,
    Input,
    Started,
)
from handover_nodeagent.machine import (
    Machine,
)

FIRST_PATIENCE: Final = dt.timedelta(seconds=1)
LAST_PATIENCE: Final = dt.timedelta(seconds=60)
WITHDRAWN_PROBE_INTERVAL: Final = dt.timedelta(milliseconds=200)
"""What a ``probeInterval`` of 0 counts as in Withdrawn."""

Moving = Assigned | Deleted | Started
"""The events that have a column in the table."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did.

    ``machine`` is None when it is gone; ``input`` is None when the event was late or moves no
    machine; ``impossible``: a pair that cannot be, to be counted.
    """

    machine: Machine | None
    commands: tuple[Command, ...] = ()
    input: Input | None = None
    impossible: bool = False


def step(machine: Machine | None, event: Event, now: dt.datetime, settings: Settings) -> Step:
    """Take *event*; total over all machines and events, and without any effect."""
    raise NotImplementedError
