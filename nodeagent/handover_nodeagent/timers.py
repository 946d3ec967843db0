"""The one timer that each machine may have, derived from its state.

A timer carries the event that it pops; equal timers need not be started anew. A timer of TimeWait
that is due while the guest is asked waits: it comes back with the state.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final

from handover_api.configuration import Settings
from handover_api.workloadendpoint import State
from handover_nodeagent.events import AskAgainDue, FellSilent, Timed, TimerPopped
from handover_nodeagent.machine import Machine

SILENCE: Final = dt.timedelta(milliseconds=250)


@dataclass(frozen=True, slots=True)
class Timer:
    """Pops *pops* at *due*; *length* bounds the wait when the clock was set back."""

    due: dt.datetime
    length: dt.timedelta
    pops: Timed

    def delay(self, now: dt.datetime) -> float:
        """Return the seconds left, never negative and never above the whole length."""
        left = min(self.due - now, self.length)
        return max(left, dt.timedelta()).total_seconds()


def timer(machine: Machine, settings: Settings) -> Timer | None:
    """Return the next timer of *machine*; a change of *settings* moves it at once."""
    if machine.state is State.ASKING:
        return Timer(machine.since + SILENCE, SILENCE, FellSilent(machine.episode))
    candidates: list[Timer] = []
    if machine.state is State.TIME_WAIT:
        length = settings.live_migration_route_convergence_time
        candidates.append(Timer(machine.since + length, length, TimerPopped(machine.episode)))
    if machine.doubt:
        due = machine.doubt.asked_at + machine.doubt.patience
        candidates.append(Timer(due, machine.doubt.patience, AskAgainDue(machine.episode)))
    return min(candidates, key=lambda candidate: candidate.due, default=None)


def target_overdue(machine: Machine, settings: Settings) -> dt.datetime | None:
    """Return when a Target that hears nothing is to be reported; None in other states."""
    if machine.state is State.TARGET:
        return machine.since + settings.target_timeout
    return None
