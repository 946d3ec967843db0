"""What attends an endpoint's machine: its ears, its prepared cutover and its timers.

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
from handover_nodeagent.reconcile.endpoint import Resident
from handover_nodeagent.routes.router import Router
from handover_nodeagent.sniff import ear
from handover_nodeagent.sniff.ear import Audience, Ear


class Attendance:
    """Attends all endpoints; timers feed their events back.

    ``expectation`` is told when the first guest is awaited (True) and when no one is any more.
    """

    def __init__(
        self,
        audience: Audience,
        feed: Callable[[Resident, Event], None],
        overdue: Callable[[Resident], None],
        clock: Callable[[], dt.datetime],
    ) -> None:
        self.expectation: Callable[[bool], None] = _nothing
        self._awaited: set[ObjectKey] = set()
        self._audience = audience
        self._feed = feed
        self._overdue = overdue
        self._clock = clock

    def follow(self, resident: Resident, router: Router, settings: Settings) -> None:
        """Let ears, prepared cutover and timers follow the machine; while paused, none."""
        if settings.mode is Mode.PAUSED or resident.is_paused:
            self.leave(resident)
            return
        self._listen(resident, settings)
        is_target = resident.machine.state is State.TARGET
        local = resident.local(settings)
        resident.prepared = router.prepare(local) if is_target else None
        self._await(resident.key, is_awaited=is_target)
        self._wind(resident, timers.timer(resident.machine, settings))
        self._wind_overdue(resident, settings)

    def leave(self, resident: Resident) -> None:
        """Attend an endpoint no more."""
        resident.retire()
        self._await(resident.key, is_awaited=False)

    def _await(self, key: ObjectKey, *, is_awaited: bool) -> None:
        awaited = bool(self._awaited)
        (self._awaited.add if is_awaited else self._awaited.discard)(key)
        if bool(self._awaited) is not awaited:
            self.expectation(not awaited)

    def question(self, resident: Resident, command: commands.Command) -> None:
        """Send the guest what *command* wants sent."""
        if resident.ear is None:
            return
        if isinstance(command, commands.StartProbes):
            resident.ear.start_probes()
        elif isinstance(command, commands.RenewProbes):
            resident.ear.renew_probes()
        elif isinstance(command, commands.AskGuest):
            resident.ear.ask()

    def correct(self, resident: Resident, settings: Settings) -> None:
        """Tell the guest where its gateway is now."""
        if settings.mode is not Mode.ACTIVE or resident.is_paused:
            return
        if resident.ear:
            resident.ear.correct()
        elif resident.link:
            ear.correct_without(resident.attention(resident.link, settings))

    def _listen(self, resident: Resident, settings: Settings) -> None:
        tuning = resident.tuning(settings)
        if tuning is None:
            if resident.ear:
                resident.ear.close()
            resident.ear = None
        elif resident.ear:
            resident.ear.tune(tuning)
        else:
            resident.ear = Ear(resident.key, tuning, self._audience)

    def _wind(self, resident: Resident, timer: Timer | None) -> None:
        if timer == resident.timer:
            return
        if resident.alarm:
            resident.alarm.cancel()
        resident.timer, resident.alarm = timer, None
        if timer:
            delay = timer.delay(self._clock())
            resident.alarm = _later(delay, self._pop, resident, timer)

    def _pop(self, resident: Resident, timer: Timer) -> None:
        resident.timer = resident.alarm = None
        self._feed(resident, timer.pops)

    def waits_on(self, resident: Resident, event: FellSilent) -> bool:
        """Tell whether it is too early for silence; then it is due again when it may be true."""
        if resident.ear is None or event.episode != resident.machine.episode:
            return False
        left = resident.ear.silence_in(timers.SILENCE.total_seconds())
        if left <= 0:
            return False
        length = dt.timedelta(seconds=left)
        self._wind(resident, Timer(self._clock() + length, length, event))
        return True

    def _wind_overdue(self, resident: Resident, settings: Settings) -> None:
        """Have a Target reported that hears nothing; it listens on."""
        due = timers.target_overdue(resident.machine, settings)
        if resident.overdue_alarm:
            resident.overdue_alarm.cancel()
            resident.overdue_alarm = None
        # A clock that was set back does not prolong the wait.
        longest = settings.target_timeout.total_seconds()
        left = min((due - self._clock()).total_seconds(), longest) if due else 0.0
        resident.overdue = due is not None and left <= 0
        if left > 0:
            resident.overdue_alarm = _later(left, self._overdue, resident)


def _later(delay: float, call: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay, call, *arguments)


def _nothing(_: bool) -> None:  # noqa: FBT001  stands in for whoever wants to know
    """Stand in for whoever wants to know."""
