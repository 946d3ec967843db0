"""PURE: when a guest is asked: a fast series that slows down, and bursts of three.

A probe waits in the tap's queue of a guest that does not run yet, and a thousand of them fill it.
So an episode never has more than ``LIMIT`` frames unanswered, whatever starts it afresh. All times
are seconds of one steady clock, given as arguments.
"""

import dataclasses
import datetime as dt
import math
from dataclasses import dataclass
from typing import Final

from handover_api.workloadendpoint import State
from handover_nodeagent.sniff.arp_nd_questions import Questions

LIMIT: Final = 100
"""Frames without an answer per episode, over all addresses."""
# From here on each round is twice as far from the last as the one before.
FAST_ROUNDS: Final = 5
SLOWEST: Final = 60.0
# Three, 20 ms apart; the wait for an answer (fsm/timers.py) begins at the first.
BURST: Final = 3
BURST_INTERVAL: Final = 0.02
WITHDRAWN_INTERVAL: Final = 0.2
FRAME_INTERVAL: Final = 1.0
"""Seconds between two series that frames start: what a flood of them may cost in probes."""


def interval(state: State, probe_interval: dt.timedelta, *, armed: bool) -> float:
    """Return the seconds between the probes of the fast series; 0: there is none.

    While not armed no answer counts, so none is asked for; *armed* starts the series.
    """
    if not armed:
        return 0.0
    if state is State.TARGET:
        return probe_interval.total_seconds()
    # Also where probeInterval is 0: only an answer shows that a guest is here whose routes do not
    # lead here.
    if state in {State.WITHDRAWN, State.REDIRECTED}:
        return probe_interval.total_seconds() or WITHDRAWN_INTERVAL
    return 0.0


@dataclass(frozen=True, slots=True)
class ProbeSeries:
    """The probes of one episode; a new one asks nothing before ``start`` or ``ask``.

    ``due``: when to call :meth:`take` next; None: never. ``rounds``: since the series started
    afresh. ``burst``: rounds left of an asking. ``unanswered``: frames that may still wait in the
    guest's queue. ``asked``: frames that left in this episode, the first at ``first_asked_at``.
    """

    questions: Questions
    interval: float = 0.0
    due: float | None = None
    rounds: int = 0
    burst: int = 0
    unanswered: int = 0
    asked: int = 0
    first_asked_at: float | None = None
    confirmed_at: float = -math.inf
    renewed_at: float = -math.inf

    @property
    def has_asked(self) -> bool:
        """Tell whether a probe left in this episode, so that an answer may be to it."""
        return self.asked > 0

    def start(self, interval: float, now: float) -> "ProbeSeries":
        """Start the fast series afresh, its first round now; an *interval* of 0 ends it."""
        return _due(dataclasses.replace(self, interval=interval, rounds=0), now)

    def renew(self, interval: float, now: float) -> "ProbeSeries":
        """Start afresh because of a frame; a guest may send them fast, so once a second."""
        if now - self.renewed_at < FRAME_INTERVAL:
            return self
        return dataclasses.replace(self.start(interval, now), renewed_at=now)

    def ask(self, now: float) -> "ProbeSeries":
        """Ask for every address three times, first now; the series goes on afterwards."""
        return _due(dataclasses.replace(self, burst=BURST), now)

    def confirm(self, now: float) -> "ProbeSeries":
        """Ask because a frame needs it; a guest may send such frames fast, so once a second."""
        if now - self.confirmed_at < FRAME_INTERVAL:
            return self
        return dataclasses.replace(self.ask(now), confirmed_at=now)

    def take(self, now: float) -> tuple["ProbeSeries", tuple[bytes, ...]]:
        """Return the series after what is due by *now*, and the frames to send for it."""
        if self.due is None or now < self.due:
            return self, ()
        frames = self.questions.all if self.burst else self.questions.turn(self.rounds)
        frames = frames[: LIMIT - self.unanswered]
        taken = dataclasses.replace(
            self,
            burst=max(0, self.burst - 1),
            rounds=self.rounds if self.burst else self.rounds + 1,
            unanswered=self.unanswered + len(frames),
            asked=self.asked + len(frames),
            first_asked_at=self.first_asked_at if self.asked else now,
        )
        return _due(taken, now + _gap(taken)), frames

    def unsent(self, count: int) -> "ProbeSeries":
        """Take back *count* frames that never left: nobody has to answer them."""
        unanswered = max(0, self.unanswered - count)
        return dataclasses.replace(self, unanswered=unanswered, asked=self.asked - count)

    def drained(self, now: float) -> "ProbeSeries":
        """Know from a frame of the guest that it runs and takes out of its queue what is there.

        The unanswered are forgotten; a series that had used them up goes on.
        """
        forgiven = dataclasses.replace(self, unanswered=0)
        return _due(forgiven, now + _gap(self)) if self.due is None else forgiven


def _gap(series: ProbeSeries) -> float:
    if series.burst:
        return BURST_INTERVAL
    # A configured interval beyond the slowest stays what it is.
    slower = math.ldexp(series.interval, max(0, series.rounds - FAST_ROUNDS + 1))
    return min(slower, max(series.interval, SLOWEST))


def _due(series: ProbeSeries, at: float) -> ProbeSeries:
    """Return *series* with its next round *at*, if it may have one at all."""
    has_more = series.questions and series.unanswered < LIMIT and (series.burst or series.interval)
    return dataclasses.replace(series, due=at if has_more else None)
