"""The timers of all endpoints: derived from each machine after each step, fed back as events.

Nothing depends on having seen a step: what is lost is set again with the next one.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import NamedTuple, Protocol

from handover_api.configuration import Settings, SourceRedirect
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role, State
from handover_nodeagent.fsm import timers
from handover_nodeagent.fsm.events import Event, FellSilent
from handover_nodeagent.fsm.machine import Machine
from handover_nodeagent.fsm.timers import Timer
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.reconcile.urgency import Urgency
from handover_nodeagent.sniff.endpoint_listener import EndpointListener


class Loop(Protocol):
    """Who takes what a timer brings."""

    def feed(self, endpoint: Endpoint, event: Event) -> None:
        """Step an endpoint's machine."""

    def overdue(self, endpoint: Endpoint) -> None:
        """Report a Target that has heard nothing for too long."""


class Running(NamedTuple):
    """A machine's timer, and the loop's that fires for it."""

    timer: Timer
    alarm: asyncio.TimerHandle


class Alarms:
    """At most two timers of the event loop per endpoint."""

    def __init__(self, loop: Loop, clock: Callable[[], dt.datetime], urgency: Urgency) -> None:
        self._loop = loop
        self._clock = clock
        self._urgency = urgency
        self._running: dict[ObjectKey, Running] = {}
        self._overdue: dict[ObjectKey, asyncio.TimerHandle] = {}

    def of(self, key: ObjectKey) -> Running | None:
        """Return the timer that runs for an endpoint's machine."""
        return self._running.get(key)

    def follow(self, endpoint: Endpoint, settings: Settings) -> None:
        """Have the timers that the machine wants now; again, it changes nothing."""
        is_expected = _is_urgent(endpoint.machine, settings)
        self._urgency.expect(endpoint.key, is_expected=is_expected)
        self._set(endpoint, timers.timer(endpoint.machine, settings))
        self._set_overdue(endpoint, settings)

    def forget(self, endpoint: Endpoint) -> None:
        """Expect the guest no more."""
        self._urgency.expect(endpoint.key, is_expected=False)

    def cancel(self, key: ObjectKey) -> None:
        """Let no timer of an endpoint fire."""
        self._cancel_timer(key)
        self._cancel_overdue(key)

    def waits_on(
        self, endpoint: Endpoint, listener: EndpointListener | None, event: FellSilent
    ) -> bool:
        """Tell whether it is too early for silence; then it is due again when it may be true."""
        if listener is None or event.episode != endpoint.machine.episode:
            return False
        left = listener.silence_in(timers.SILENCE.total_seconds())
        if left <= 0:
            return False
        length = dt.timedelta(seconds=left)
        self._set(endpoint, Timer(self._clock() + length, length, event))
        return True

    def _set(self, endpoint: Endpoint, timer: Timer | None) -> None:
        running = self._running.get(endpoint.key)
        # Equal timers are one: a step that changes nothing of it must not begin it anew.
        if timer == (running.timer if running else None):
            return
        self._cancel_timer(endpoint.key)
        if timer:
            alarm = _later(timer.delay(self._clock()), self._fire, endpoint, timer)
            self._running[endpoint.key] = Running(timer, alarm)

    def _cancel_timer(self, key: ObjectKey) -> None:
        running = self._running.pop(key, None)
        if running:
            running.alarm.cancel()

    def _cancel_overdue(self, key: ObjectKey) -> None:
        alarm = self._overdue.pop(key, None)
        if alarm:
            alarm.cancel()

    def _fire(self, endpoint: Endpoint, timer: Timer) -> None:
        # First: a step that wants the same timer again is to find that there is none.
        del self._running[endpoint.key]
        self._loop.feed(endpoint, timer.event)

    def _set_overdue(self, endpoint: Endpoint, settings: Settings) -> None:
        """Have a Target reported that hears nothing; it listens on."""
        due = timers.target_overdue(endpoint.machine, settings)
        self._cancel_overdue(endpoint.key)
        # A clock that was set back does not prolong the wait.
        longest = settings.target_timeout.total_seconds()
        left = min((due - self._clock()).total_seconds(), longest) if due else 0.0
        endpoint.overdue = due is not None and left <= 0
        if left > 0:
            self._overdue[endpoint.key] = _later(left, self._fire_overdue, endpoint)

    def _fire_overdue(self, endpoint: Endpoint) -> None:
        del self._overdue[endpoint.key]
        self._loop.overdue(endpoint)


def _later(delay: float, call: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay, call, *arguments)


def _is_urgent(machine: Machine, settings: Settings) -> bool:
    """Tell whether any moment may be the one that counts: the loop runs before others then.

    A Target's guest may come, and an armed source hear that its own has gone: what arrives for it
    is lost until that is taken in.
    """
    assignment = machine.assignment
    is_leaving = assignment.role is Role.SOURCE and assignment.armed and machine.has_routes
    is_redirected = machine.state is State.REDIRECTED
    sends_on = settings.source_redirect is not SourceRedirect.OFF
    return machine.state is State.TARGET or (is_leaving and sends_on and not is_redirected)
