"""The one timer that each machine may have, derived from its state.

A timer carries the event that it feeds; equal timers need not be started anew. A timer of TimeWait
that is due while the guest is asked waits: it comes back with the state. In doubt it waits for the
doubt's end: a guest that answers must not fall back to the normal priority, beside a source that
nobody has asked.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final

from handover_api.configuration import Settings
from handover_api.workloadendpoint import State
from handover_nodeagent.fsm.events import AskAgainDue, FellSilent, TimerEvent, TimerPopped
from handover_nodeagent.fsm.machine import Machine

SILENCE: Final = dt.timedelta(milliseconds=250)
"""After the first of an asking's three probes; the last one still leaves the guest 210 ms."""


@dataclass(frozen=True, slots=True)
class Timer:
    """Feeds *event* at *due*; *length* bounds the wait when the clock was set back."""

    due: dt.datetime
    length: dt.timedelta
    event: TimerEvent

    # Times are the wall clock's, which the memory shares with the next agent; it may jump.
    def delay(self, now: dt.datetime) -> float:
        """Return the seconds left, never negative and never above the whole length."""
        left = min(self.due - now, self.length)
        return max(left, dt.timedelta()).total_seconds()


def timer(machine: Machine, settings: Settings) -> Timer | None:
    """Return the next timer of *machine*; a change of *settings* moves it at once."""
    if machine.state is State.ASKING:
        return Timer(machine.since + SILENCE, SILENCE, FellSilent(machine.episode))
    # Before the deadline: while there is doubt a TimeWait has none.
    if machine.doubt:
        due = machine.doubt.asked_at + machine.doubt.interval
        return Timer(due, machine.doubt.interval, AskAgainDue(machine.episode))
    end = deadline(machine, settings)
    if end is None:
        return None
    length = settings.live_migration_route_convergence_time
    return Timer(end, length, TimerPopped(machine.episode))


def deadline(machine: Machine, settings: Settings) -> dt.datetime | None:
    """Return when a TimeWait ends; None in other states, and where doubt keeps it from ending."""
    if machine.state is State.TIME_WAIT and not machine.doubt:
        return machine.since + settings.live_migration_route_convergence_time
    return None


def target_overdue(machine: Machine, settings: Settings) -> dt.datetime | None:
    """Return when a Target that hears nothing is to be reported; None in other states."""
    if machine.state is State.TARGET:
        return machine.since + settings.target_timeout
    return None
