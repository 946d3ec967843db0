"""The state machine's tables: every state with every input, and how an asking ends.

Read beside ``docs/states.md``, which is drawn from here. A cell is a state to enter, a turn that
enters none, or a fork between two cells.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.workloadendpoint import State
from handover_nodeagent.fsm.events import Input


class Turn(enum.StrEnum):
    """What a pair does when it enters no state."""

    STAY = "stays"
    IMPOSSIBLE = "impossible"
    GONE = "gone"
    ANSWERED = "answered"
    SILENT = "silent"
    BEFORE = "taken in the state before"
    BACK = "back, asked again later"
    ORPHAN = "gone, routes stay"


class Guard(enum.StrEnum):
    """What a fork asks of the machine and the event."""

    ROUTES_IN_AND_ARMED = "routes in and armed"
    ENDED_TARGET = "ended-role target"
    SAME_UID = "same uid"
    SOURCE_SIDE = "role or ended-role source"
    IN_DOUBT = "the guest should be gone"


@dataclass(frozen=True, slots=True)
class Fork:
    """One of two cells."""

    guard: Guard
    then: State | Turn
    otherwise: State | Turn


Cell = State | Turn | Fork

_ASK = State.ASKING
_IMPOSSIBLE_ONES: Final = {
    Input.ANNOUNCED: Turn.IMPOSSIBLE,
    Input.TIMER_POP: Turn.IMPOSSIBLE,
    Input.SILENCE: Turn.IMPOSSIBLE,
    Input.ASK_AGAIN: Turn.IMPOSSIBLE,
}
_ASK_AGAIN: Final = Fork(Guard.IN_DOUBT, _ASK, Turn.IMPOSSIBLE)

TRANSITIONS: Final[Mapping[State, Mapping[Input, Cell]]] = {
    State.BASE: {
        **_IMPOSSIBLE_ONES,
        Input.TARGET: Fork(Guard.ROUTES_IN_AND_ARMED, _ASK, State.TARGET),
        Input.NO_ROLE: Turn.STAY,
        Input.ABORTED: Fork(Guard.ENDED_TARGET, _ASK, Turn.STAY),
        Input.VANISHED: Turn.STAY,
        Input.SOURCE: Turn.STAY,
        Input.LEFT: _ASK,
        Input.ASK_AGAIN: _ASK_AGAIN,
        Input.DELETED: _ASK,
    },
    State.TARGET: {
        **_IMPOSSIBLE_ONES,
        Input.TARGET: Turn.STAY,
        Input.ANNOUNCED: State.LIVE,
        Input.NO_ROLE: State.TIME_WAIT,
        Input.ABORTED: State.WITHDRAWN,
        Input.VANISHED: State.WITHDRAWN,
        Input.SOURCE: _ASK,
        Input.LEFT: Turn.STAY,
        Input.DELETED: Turn.GONE,
    },
    State.LIVE: {
        **_IMPOSSIBLE_ONES,
        Input.TARGET: Fork(Guard.SAME_UID, Turn.STAY, _ASK),
        Input.NO_ROLE: State.TIME_WAIT,
        Input.ABORTED: _ASK,
        Input.VANISHED: Turn.STAY,
        Input.SOURCE: State.BASE,
        Input.LEFT: _ASK,
        Input.ASK_AGAIN: _ASK_AGAIN,
        Input.DELETED: _ASK,
    },
    State.TIME_WAIT: {
        **_IMPOSSIBLE_ONES,
        Input.TARGET: Fork(Guard.SAME_UID, State.LIVE, _ASK),
        # In doubt the time has not begun: it does when the API agrees with the guest.
        Input.NO_ROLE: Fork(Guard.IN_DOUBT, State.TIME_WAIT, Turn.STAY),
        Input.ABORTED: _ASK,
        Input.VANISHED: Turn.STAY,
        Input.SOURCE: State.BASE,
        Input.LEFT: _ASK,
        Input.TIMER_POP: Fork(Guard.IN_DOUBT, Turn.STAY, State.BASE),
        Input.ASK_AGAIN: _ASK_AGAIN,
        Input.DELETED: _ASK,
    },
    State.WITHDRAWN: {
        **_IMPOSSIBLE_ONES,
        Input.TARGET: State.TARGET,
        Input.ANNOUNCED: Fork(Guard.SOURCE_SIDE, State.BASE, State.TIME_WAIT),
        Input.NO_ROLE: Turn.STAY,
        Input.ABORTED: Turn.STAY,
        Input.VANISHED: Turn.STAY,
        Input.SOURCE: Turn.STAY,
        Input.LEFT: Turn.STAY,
        Input.DELETED: Turn.GONE,
    },
    State.ASKING: {
        Input.TARGET: Turn.BEFORE,
        Input.ANNOUNCED: Turn.ANSWERED,
        Input.NO_ROLE: Turn.BEFORE,
        Input.ABORTED: Turn.BEFORE,
        Input.VANISHED: Turn.BEFORE,
        Input.SOURCE: Turn.BEFORE,
        Input.LEFT: Turn.BEFORE,
        Input.TIMER_POP: Turn.STAY,
        Input.SILENCE: Turn.SILENT,
        Input.ASK_AGAIN: Turn.IMPOSSIBLE,
        Input.DELETED: Turn.BEFORE,
    },
}


RELEASING: Final = frozenset({Input.SOURCE, Input.NO_ROLE, Input.ABORTED})
"""Inputs at which a Base that stays gets the routes that it awaited (``awaitRole``)."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an asking ends, by what the guest does."""

    answered: State | Turn
    silent: State | Turn


ENDINGS: Final[Mapping[Input, Ending]] = {
    Input.TARGET: Ending(State.LIVE, State.TARGET),
    Input.ABORTED: Ending(Turn.BACK, State.WITHDRAWN),
    Input.LEFT: Ending(Turn.BACK, State.WITHDRAWN),
    Input.SOURCE: Ending(State.BASE, State.WITHDRAWN),
    Input.DELETED: Ending(Turn.ORPHAN, Turn.GONE),
}
"""By the cause of the asking, which is the input that led into it."""
