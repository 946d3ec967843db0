"""The state machine's tables: every state with every input, and how an asking ends.

Read beside ``docs/states.md``, which is drawn from here. A cell is a state to enter, a reaction
that enters none, or a fork between such cells. The machine is the product's promise: whoever
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

    ``ANSWERED`` and ``SILENT`` lead on to ``ENDINGS``, by the cause of the asking; ``RETURNED`` to
    Base, Live or TimeWait: to the state before, of a redirect by what the API says of the endpoint.
    """

    STAY = "stays"
    IMPOSSIBLE = "impossible"
    GONE = "gone"
    ANSWERED = "answered"
    SILENT = "silent"
    BEFORE = "taken in the state before"
    BACK = "back, asked again later"
    UNCHANGED = "back"
    HEEDED = "followed when silent"
    ORPHAN = "gone, routes stay"
    RETURNED = "back on its own side"
    KEPT = "gone, the redirect stays a while"


class Criterion(enum.StrEnum):
    """What a fork asks of the machine and the event."""

    ROUTES_IN_AND_ARMED = "routes in and armed"
    ENDED_TARGET = "ended-role target"
    SAME_UID = "same uid"
    SOURCE_SIDE = "role or ended-role source"
    IN_DOUBT = "in doubt"
    ROUTES_IN = "routes in"
    FOUND_HERE = "found here since"
    OTHER_PEER = "another peer, or the doubted one"
    PEERS_UID = "the peer's uid"


@dataclass(frozen=True, slots=True)
class Fork:
    """One of two cells."""

    criterion: Criterion
    then: State | Reaction
    otherwise: "Cell"


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
# Not asked first: each packet until then would go where no guest is. One that is here all the same
# answers the first probe.
_REDIRECT: Final = Fork(Criterion.ROUTES_IN, State.REDIRECTED, Reaction.STAY)
# Of a guest that has come back from that very peer its word, and the API's above all, may be older
# than that: believed at once, each of the two would send on to the other.
_PEER_HAS: Final = Fork(Criterion.FOUND_HERE, _ASK, _REDIRECT)
# What does not lead to a peer cannot be released by one; without routes nothing is sent on either.
_NO_PEER: Final = {Input.PEER_HAS: Reaction.STAY, Input.PEER_RELEASED: Reaction.STAY}

TRANSITIONS: Final[Mapping[State, Mapping[Input, Cell]]] = {
    State.BASE: {
        **_IMPOSSIBLE,
        **_NO_PEER,
        Input.PEER_HAS: _PEER_HAS,
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
        **_NO_PEER,
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
        **_NO_PEER,
        # The guest was rolled back to its source, or has gone on to another node already.
        Input.PEER_HAS: _PEER_HAS,
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
        **_NO_PEER,
        # The guest was rolled back to its source, or has gone on to another node already.
        Input.PEER_HAS: _PEER_HAS,
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
        **_NO_PEER,
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
        # The answer to what is asked: the guest is elsewhere. Where that is to be asked itself the
        # asking goes on, whatever it is for; who says it again does not begin it anew.
        Input.PEER_HAS: Fork(Criterion.FOUND_HERE, Reaction.HEEDED, _REDIRECT),
        Input.PEER_RELEASED: Reaction.STAY,
        # A TimeWait's end waits; its timer is wound again when the state comes back.
        Input.TIMER_POP: Reaction.STAY,
        Input.SILENCE: Reaction.SILENT,
        Input.ASK_AGAIN: Reaction.IMPOSSIBLE,
        Input.DELETED: Reaction.BEFORE,
    },
    State.REDIRECTED: {
        **_IMPOSSIBLE,
        # A Target is what the operator waits for, with a cutover prepared. Its guest has been asked
        # all the time, so that nobody need ask it first; the redirect stays beside it for a while.
        Input.TARGET: Fork(Criterion.SAME_UID, Reaction.STAY, State.TARGET),
        Input.ANNOUNCED: Reaction.RETURNED,
        # Here and in Aborted the API says that the guest is here, where it has not answered so far.
        Input.NO_ROLE: _ASK,
        Input.ABORTED: Fork(Criterion.ENDED_TARGET, Reaction.STAY, _ASK),
        Input.VANISHED: Reaction.STAY,
        # The source of another migration has its guest, as far as the API knows.
        Input.SOURCE: Fork(Criterion.SAME_UID, Reaction.STAY, _ASK),
        # As the peer said; only the level of its routes changes.
        Input.LEFT: Reaction.STAY,
        # The guest went on to a third node, or is after all where it was said to be no more.
        Input.PEER_HAS: Fork(Criterion.OTHER_PEER, State.REDIRECTED, Reaction.STAY),
        Input.PEER_RELEASED: Fork(Criterion.PEERS_UID, _ASK, Reaction.STAY),
        Input.ASK_AGAIN: _ASK_AGAIN,
        # Senders that are late do not know that the object is gone.
        Input.DELETED: Reaction.KEPT,
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
    # By the last agent, which died with its routes in: they stay, and an answer is told to all.
    Input.ANNOUNCED: Ending(Reaction.RETURNED, Reaction.UNCHANGED),
    # It was late: nothing has happened, and nobody is told. Two that both have the guest would tell
    # each other for ever.
    Input.PEER_HAS: Ending(Reaction.UNCHANGED, State.REDIRECTED),
}
"""By the cause of the asking, which is the input that led into it."""
# Whatever the API or the peer says: a guest that is not here is better served elsewhere.
REDIRECT_ENDING: Final = Ending(Reaction.RETURNED, Reaction.BACK)
"""That of an asking in Redirected, whatever its cause."""
