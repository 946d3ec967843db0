"""What attends an endpoint's machine: its listening, its prepared cutover and its timers.

All of it is derived from the machine after each step, so nothing depends on having seen one.
"""

import asyncio
import datetime as dt
from collections.abc import Callable

from handover_api.configuration import Mode, Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.fsm import commands, timers
from handover_nodeagent.fsm.events import Event, FellSilent
from handover_nodeagent.fsm.timers import Timer
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.routes.host_routes import Routes
from handover_nodeagent.sniff import endpoint_listener
from handover_nodeagent.sniff.endpoint_listener import EndpointListener, EventSink


class Alarms:
    """Attends all endpoints; timers feed their events back.

    ``expectation`` is told when the first guest is awaited (True) and when no one is any more.
    """

    def __init__(
        self,
        sink: EventSink,
        feed: Callable[[Endpoint, Event], None],
        overdue: Callable[[Endpoint], None],
        clock: Callable[[], dt.datetime],
    ) -> None:
        self.expectation: Callable[[bool], None] = _nothing
        self._awaited: set[ObjectKey] = set()
        self._sink = sink
        self._feed = feed
        self._overdue = overdue
        self._clock = clock

    def follow(self, endpoint: Endpoint, routes: Routes, settings: Settings) -> None:
        """Let listening, prepared cutover and timers follow the machine; while paused, none."""
        if settings.mode is Mode.PAUSED or endpoint.is_paused:
            self.leave(endpoint)
            return
        self._listen(endpoint, settings)
        is_target = endpoint.machine.state is State.TARGET
        local = endpoint.local(settings)
        endpoint.prepared = routes.prepare(local) if is_target else None
        self._await(endpoint.key, is_awaited=is_target)
        self._wind(endpoint, timers.timer(endpoint.machine, settings))
        self._wind_overdue(endpoint, settings)

    def leave(self, endpoint: Endpoint) -> None:
        """Attend an endpoint no more."""
        endpoint.retire()
        self._await(endpoint.key, is_awaited=False)

    def _await(self, key: ObjectKey, *, is_awaited: bool) -> None:
        awaited = bool(self._awaited)
        (self._awaited.add if is_awaited else self._awaited.discard)(key)
        if bool(self._awaited) is not awaited:
            self.expectation(not awaited)

    def question(self, endpoint: Endpoint, command: commands.Command) -> None:
        """Send the guest what *command* wants sent."""
        if endpoint.listener is None:
            return
        if isinstance(command, commands.StartProbes):
            endpoint.listener.start_probes()
        elif isinstance(command, commands.RenewProbes):
            endpoint.listener.renew_probes()
        elif isinstance(command, commands.AskGuest):
            endpoint.listener.ask()

    def correct(self, endpoint: Endpoint, settings: Settings) -> None:
        """Tell the guest where its gateway is now."""
        if settings.mode is not Mode.ACTIVE or endpoint.is_paused:
            return
        if endpoint.listener:
            endpoint.listener.correct()
        elif endpoint.link:
            endpoint_listener.send_corrections(endpoint.listen_spec_on(endpoint.link, settings))

    def _listen(self, endpoint: Endpoint, settings: Settings) -> None:
        spec = endpoint.listen_spec(settings)
        if spec is None:
            if endpoint.listener:
                endpoint.listener.close()
            endpoint.listener = None
        elif endpoint.listener:
            endpoint.listener.update(spec)
        else:
            endpoint.listener = EndpointListener(endpoint.key, spec, self._sink)

    def _wind(self, endpoint: Endpoint, timer: Timer | None) -> None:
        if timer == endpoint.timer:
            return
        if endpoint.alarm:
            endpoint.alarm.cancel()
        endpoint.timer, endpoint.alarm = timer, None
        if timer:
            delay = timer.delay(self._clock())
            endpoint.alarm = _later(delay, self._pop, endpoint, timer)

    def _pop(self, endpoint: Endpoint, timer: Timer) -> None:
        endpoint.timer = endpoint.alarm = None
        self._feed(endpoint, timer.event)

    def waits_on(self, endpoint: Endpoint, event: FellSilent) -> bool:
        """Tell whether it is too early for silence; then it is due again when it may be true."""
        if endpoint.listener is None or event.episode != endpoint.machine.episode:
            return False
        left = endpoint.listener.silence_in(timers.SILENCE.total_seconds())
        if left <= 0:
            return False
        length = dt.timedelta(seconds=left)
        self._wind(endpoint, Timer(self._clock() + length, length, event))
        return True

    def _wind_overdue(self, endpoint: Endpoint, settings: Settings) -> None:
        """Have a Target reported that hears nothing; it listens on."""
        due = timers.target_overdue(endpoint.machine, settings)
        if endpoint.overdue_alarm:
            endpoint.overdue_alarm.cancel()
            endpoint.overdue_alarm = None
        # A clock that was set back does not prolong the wait.
        longest = settings.target_timeout.total_seconds()
        left = min((due - self._clock()).total_seconds(), longest) if due else 0.0
        endpoint.overdue = due is not None and left <= 0
        if left > 0:
            endpoint.overdue_alarm = _later(left, self._overdue, endpoint)


def _later(delay: float, call: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay, call, *arguments)


def _nothing(_: bool) -> None:  # noqa: FBT001  stands in for whoever wants to know
    """Stand in for whoever wants to know."""
