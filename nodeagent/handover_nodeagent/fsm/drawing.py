"""Draws the state machine from its tables: ``python -m handover_nodeagent.fsm.drawing``.

``docs/states.md`` is this module's output, and a test keeps it fresh.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from handover_api.workloadendpoint import State
from handover_nodeagent.fsm.events import Input
from handover_nodeagent.fsm.machine import LISTENING, ROUTES
from handover_nodeagent.fsm.table import (
    ENDINGS,
    REDIRECT_ENDING,
    TRANSITIONS,
    Cell,
    Fork,
    Reaction,
)

_COMMAND: Final = "python -m handover_nodeagent.fsm.drawing"
# Mermaid's start and end of a diagram of states.
_END: Final = "[*]"
# The cells that most pairs have: signs let the others stand out.
_SIGNS: Final = {Reaction.STAY: "·", Reaction.IMPOSSIBLE: "✗"}
# By hand, as timers are code; a state without an entry here could not be drawn.
_TIMERS: Final = {
    State.BASE: "",
    State.TARGET: "",
    State.LIVE: "",
    State.TIME_WAIT: "`liveMigrationRouteConvergenceTime`, then TimerPop",
    State.WITHDRAWN: "",
    State.ASKING: "250 ms, then Silence",
    State.REDIRECTED: "",
}
# By hand, as ``step`` reads these off the machine: the ends of "back on its own side".
_OWN_SIDES: Final = {
    State.BASE: " if role or ended-role source",
    State.LIVE: " if role target",
    State.TIME_WAIT: " if ended-role target",
}
_GONE: Final = frozenset({Reaction.GONE, Reaction.KEPT})
_PAGE: Final = """\
# The states of an endpoint

<!-- Drawn by `{command}` from the tables in fsm/table.py: change those, then draw again. -->

What the node agent does for one endpoint; `handover_nodeagent/fsm/__init__.py` tells the theory.

## On the way of a migration

```mermaid
{migration}
```

## Asking the guest

No route of a guest that answers is taken out on the API's word alone: the guest is asked first.

```mermaid
{asking}
```

## When the peer has the guest

Late packets are sent on to the node that has the guest, by a route in the place of the endpoint's
own; what the guest did not take while it was paused is sent again by it. The guest is asked all the
time; one that answers here has its route at once.

```mermaid
{redirect}
```

## Every state with every input

`·` the state stays, `✗` cannot be (left alone and counted).

{transitions}

NoRole: the target's role was removed with outcome Succeeded; Left: the source's was. Aborted: a
role was removed with outcome Aborted. Vanished: a role or an outcome went without a word. PeerHas:
the agent of the migration's other side, or the API, says that the guest is there; PeerReleased:
that agent says that it is there no more. In doubt: the guest should be gone but answers, or should
be here but is silent and a peer has it; AskAgain is the timer of that. TimerPop waits while the
guest is asked, and in TimeWait until there is no doubt: the time begins when the API agrees with
the guest. For Withdrawn, two probe answers some time apart are one Announced; for Redirected, and
where a peer's word has the guest asked, only an answer to a probe is. Found here since: the guest
came back although that peer had it, in the same migration. A peer's word that comes after that may
be older, as the API's often is; so the guest is asked before it is followed. Followed when silent:
the asking goes on, and if nobody answers the peer has the guest.

## How an asking ends

{endings}

Announced: to the last agent, which died before it is known to have told anybody; the next one asks.

A deleted endpoint's guest that answers keeps its routes until it is found silent, its interface
goes or an endpoint claims the address; it is asked again like a guest in doubt.

An asking in Redirected has the same ends whatever its cause. Answered: {returned}. Silent: {kept};
what is back is the redirect.

Back, asked again later: the routes stay, condition StillAlive says why, and the guest is asked
again after 1 s, doubling to 60 s. Back: nothing has changed, and nobody is told. Another role, uid
or outcome ends the asking and is taken in the state before it; a peer that has the guest by its own
word, or the API's, has it asked there once more.

## What follows from a state

{levels}

A Redirected whose guest is gone by the API's word, too, has private routes: nobody exports them,
and all others win. They outlive the endpoint by `liveMigrationRouteConvergenceTime`.
"""


def page() -> str:
    """Return the whole page in Markdown."""
    return _PAGE.format(
        command=_COMMAND,
        migration=_diagram(_edges(lambda ends: not {State.ASKING, State.REDIRECTED} & {*ends})),
        asking=_diagram((*_edges(_is_of_asking), *_asking_edges())),
        redirect=_diagram((*_edges(lambda ends: State.REDIRECTED in ends), *_redirect_edges())),
        transitions=_transition_table(),
        endings=_ending_table(),
        returned=REDIRECT_ENDING.answered,
        kept=REDIRECT_ENDING.silent,
        levels=_level_table(),
    )


def _is_of_asking(ends: tuple[str, str]) -> bool:
    return State.ASKING in ends and State.REDIRECTED not in ends


Edge = tuple[str, str, str]
"""From, to, label."""


def _branches(cell: Cell, condition: str = "") -> Iterator[tuple[State | Reaction, str]]:
    """Return where a cell may lead, and on which condition."""
    if isinstance(cell, Fork):
        before = f"{condition}," if condition else ""
        # Where the other branch cannot be, a condition on the arrow would only be noise.
        is_choice = cell.otherwise is not Reaction.IMPOSSIBLE
        yield cell.then, f"{before} if {cell.criterion}" if is_choice else ""
        yield from _branches(cell.otherwise, f"{before} unless {cell.criterion}")
    else:
        yield cell, condition


def _edges(wanted: Callable[[tuple[str, str]], bool]) -> Iterator[Edge]:
    """Return the edges between states, without those that stay."""
    # But for PeerHas, Asking's own row enters no state: its ends are _asking_edges.
    for state, row in TRANSITIONS.items():
        for input_ in Input:
            for goal, condition in _branches(row[input_]):
                end = _END if goal in _GONE else goal
                if (isinstance(goal, State) or end is _END) and wanted((state, end)):
                    yield state, end, f"{input_}{condition}"


def _redirect_edges() -> Iterator[Edge]:
    """Return the ends of a Redirected whose guest answers, asked for a reason or as ever."""
    for state, condition in _OWN_SIDES.items():
        yield State.REDIRECTED, state, f"{Input.ANNOUNCED}{condition}"
        yield State.ASKING, state, "answered"
    yield State.ASKING, State.REDIRECTED, "silent"


def _asking_edges() -> Iterator[Edge]:
    """Return the ends of an asking, as "answer: causes"."""
    causes: dict[tuple[str, str], list[str]] = {}
    for cause, ending in ENDINGS.items():
        for goal, answer in ((ending.answered, "answered"), (ending.silent, "silent")):
            for end in _ends(goal, cause):
                causes.setdefault((end, answer), []).append(cause)
    for (end, answer), them in causes.items():
        yield State.ASKING, end, f"{answer} ({', '.join(them)})"


def _ends(goal: State | Reaction, cause: Input) -> Iterable[str]:
    """Return the states in which an asking for *cause* may end by *goal*."""
    if isinstance(goal, State):
        return (goal,)
    # Gone, with or without its routes: the machine ends.
    if goal not in {Reaction.BACK, Reaction.UNCHANGED, Reaction.RETURNED}:
        return (_END,)
    # Back means to each state from which this cause leads into an asking.
    return tuple(
        state
        for state, row in TRANSITIONS.items()
        if State.ASKING in {branch for branch, _ in _branches(row[cause])}
        and state is not State.REDIRECTED
    )


def _diagram(edges: Iterable[Edge]) -> str:
    """Draw one arrow per pair of states, its labels below each other."""
    # Mermaid draws a second arrow of a pair over the first.
    labels: dict[tuple[str, str], list[str]] = {}
    for start, end, label in edges:
        labels.setdefault((start, end), []).append(label)
    arrows = (
        f"    {start} --> {end}: {'<br/>'.join(them)}" for (start, end), them in labels.items()
    )
    return "\n".join(("stateDiagram-v2", *arrows))


def _text(cell: Cell) -> str:
    """Write a cell as in the table of the page."""
    if isinstance(cell, Fork):
        return f"{cell.criterion}: {_text(cell.then)}; else {_text(cell.otherwise)}"
    if isinstance(cell, State):
        return f"**{cell}**"
    return _SIGNS.get(cell, str(cell))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _transition_table() -> str:
    rows = (
        (f"**{state}**", *(_text(row[input_]) for input_ in Input))
        for state, row in TRANSITIONS.items()
    )
    return _table(("state \\ input", *Input), rows)


def _ending_table() -> str:
    rows = (
        (cause, _text(ending.answered), _text(ending.silent)) for cause, ending in ENDINGS.items()
    )
    return _table(("cause", "answered", "silent for 250 ms"), rows)


def _level_table() -> str:
    rows = (
        (
            f"**{state}**",
            ROUTES.get(state, "as in the state before"),
            "yes" if state in LISTENING else "no",
            _TIMERS[state],
        )
        for state in State
    )
    return _table(("state", "routes", "listening", "timer"), rows)


if __name__ == "__main__":  # pragma: no cover - a test compares page() with docs/states.md
    sys.stdout.write(page())
