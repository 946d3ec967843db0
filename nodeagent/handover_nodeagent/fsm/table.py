"""The state machine's tables: every state with every input, and how an asking ends.

Read beside ``docs/states.md``, which is drawn from here. A cell is a state to enter, a reaction
that enters none, or a fork between two of these. The machine is the product's promise: whoever
changes a cell changes which guest keeps its routes.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.workloadendpoint import State
from handover_nodeagent.fsm.events import Input


class Reaction(enum.StrEnum):
    """What a pair of state and input does when it enters no state.

    ``ANSWERED`` and ``SILENT`` lead on to ``ENDINGS``, by the cause of the asking.
    """

    STAY = "stays"
    IMPOSSIBLE = "impossible"
    GONE = "gone"
    ANSWERED = "answered"
    SILENT = "silent"
    BEFORE = "taken in the state before"
    BACK = "back, asked again later"
    ORPHAN = "gone, routes stay"


class Criterion(enum.StrEnum):
    """What a fork asks of the machine and the event."""

    ROUTES_IN_AND_ARMED = "routes in and armed"
    ENDED_TARGET = "ended-role target"
    SAME_UID = "same uid"
    SOURCE_SIDE = "role or ended-role source"
    IN_DOUBT = "the guest should be gone"


@dataclass(frozen=True, slots=True)
class Fork:
    """One of two cells."""

    criterion: Criterion
    then: State | Reaction
    otherwise: State | Reaction


Cell = State | Reaction | Fork

_ASK = State.ASKING

# Only a state that listens hears the guest, only a timer of its own pops: elsewhere these inputs
# would be a fault of the loop. Rows that know them better override them.
_IMPOSSIBLE: Final = {
    Input.ANNOUNCED: Reaction.IMPOSSIBLE,
    Input.TIMER_POP: Reaction.IMPOSSIBLE,
    Input.SILENCE: Reaction.IMPOSSIBLE,
    Input.ASK_AGAIN: Reaction.IMPOSSIBLE,
}
# Only a doubt winds the timer that pops this.
_ASK_AGAIN: Final = Fork(Criterion.IN_DOUBT, _ASK, Reaction.IMPOSSIBLE)

TRANSITIONS: Final[Mapping[State, Mapping[Input, Cell]]] = {
    State.BASE: {
        **_IMPOSSIBLE,
        # The guest may run here already, and a Target would take its routes out. Before the
        # migration is armed nobody can tell: the pod's own kernel might answer for it.
        Input.TARGET: Fork(Criterion.ROUTES_IN_AND_ARMED, _ASK, State.TARGET),
        Input.NO_ROLE: Reaction.STAY,
        # A failed migration leaves the guest at its source, whose routes stay.
        Input.ABORTED: Fork(Criterion.ENDED_TARGET, _ASK, Reaction.STAY),
        Input.VANISHED: Reaction.STAY,
        Input.SOURCE: Reaction.STAY,
        Input.LEFT: _ASK,
        Input.ASK_AGAIN: _ASK_AGAIN,
        Input.DELETED: _ASK,
    },
    State.TARGET: {
        **_IMPOSSIBLE,
        Input.TARGET: Reaction.STAY,
        Input.ANNOUNCED: State.LIVE,
        # It succeeded, and the announcement was missed: the source may still attract the traffic.
        Input.NO_ROLE: State.TIME_WAIT,
        # A guest that never announced itself is not here: attract nothing, but hear it come.
        Input.ABORTED: State.WITHDRAWN,
        Input.VANISHED: State.WITHDRAWN,
        # A source has its guest, but of this one nobody has heard.
        Input.SOURCE: _ASK,
        Input.LEFT: Reaction.STAY,
        Input.DELETED: Reaction.GONE,
    },
    State.LIVE: {
        **_IMPOSSIBLE,
        # Another migration brings a guest here that is here, or that left unnoticed meanwhile.
        Input.TARGET: Fork(Criterion.SAME_UID, Reaction.STAY, _ASK),
        Input.NO_ROLE: State.TIME_WAIT,
        Input.ABORTED: _ASK,
        Input.VANISHED: Reaction.STAY,
        Input.SOURCE: State.BASE,
        Input.LEFT: _ASK,
        Input.ASK_AGAIN: _ASK_AGAIN,
        Input.DELETED: _ASK,
    },
    State.TIME_WAIT: {
        **_IMPOSSIBLE,
        # The API takes its success back: the time begins when it says so again.
        Input.TARGET: Fork(Criterion.SAME_UID, State.LIVE, _ASK),
        # In doubt the time has not begun: it does when the API agrees with the guest.
        Input.NO_ROLE: Fork(Criterion.IN_DOUBT, State.TIME_WAIT, Reaction.STAY),
        Input.ABORTED: _ASK,
        Input.VANISHED: Reaction.STAY,
        Input.SOURCE: State.BASE,
        Input.LEFT: _ASK,
        # In doubt no source has been asked: normal routes here would lose to its own.
        Input.TIMER_POP: Fork(Criterion.IN_DOUBT, Reaction.STAY, State.BASE),
        Input.ASK_AGAIN: _ASK_AGAIN,
        Input.DELETED: _ASK,
    },
    State.WITHDRAWN: {
        **_IMPOSSIBLE,
        Input.TARGET: State.TARGET,
        # A source's guest never left, so that no other node has routes to beat. That of a target
        # came late: its source may have kept its own.
        Input.ANNOUNCED: Fork(Criterion.SOURCE_SIDE, State.BASE, State.TIME_WAIT),
        Input.NO_ROLE: Reaction.STAY,
        Input.ABORTED: Reaction.STAY,
        Input.VANISHED: Reaction.STAY,
        Input.SOURCE: Reaction.STAY,
        Input.LEFT: Reaction.STAY,
        Input.DELETED: Reaction.GONE,
    },
    State.ASKING: {
        # The API has thought better of it: what was asked for its last word is void.
        Input.TARGET: Reaction.BEFORE,
        Input.ANNOUNCED: Reaction.ANSWERED,
        Input.NO_ROLE: Reaction.BEFORE,
        Input.ABORTED: Reaction.BEFORE,
        Input.VANISHED: Reaction.BEFORE,
        Input.SOURCE: Reaction.BEFORE,
        Input.LEFT: Reaction.BEFORE,
        # A TimeWait's end waits; its timer is wound again when the state comes back.
        Input.TIMER_POP: Reaction.STAY,
        Input.SILENCE: Reaction.SILENT,
        Input.ASK_AGAIN: Reaction.IMPOSSIBLE,
        Input.DELETED: Reaction.BEFORE,
    },
}


LIFTS_AWAIT: Final = frozenset({Input.SOURCE, Input.NO_ROLE, Input.ABORTED})
"""Inputs at which a Base that stays gets the routes that it awaited (``awaitRole``)."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an asking ends, by what the guest does."""

    answered: State | Reaction
    silent: State | Reaction


ENDINGS: Final[Mapping[Input, Ending]] = {
    Input.TARGET: Ending(State.LIVE, State.TARGET),
    # The guest knows better than the API, which may err or be late: its routes stay.
    Input.ABORTED: Ending(Reaction.BACK, State.WITHDRAWN),
    Input.LEFT: Ending(Reaction.BACK, State.WITHDRAWN),
    Input.SOURCE: Ending(State.BASE, State.WITHDRAWN),
    Input.DELETED: Ending(Reaction.ORPHAN, Reaction.GONE),
}
"""By the cause of the asking, which is the input that led into it."""
