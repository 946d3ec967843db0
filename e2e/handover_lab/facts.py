"""PURE: what a person should know about a running migration, built up fact by fact.

Facts come in with their time; a History is what is true now and what happened so far. How it
looks is the timeline's business.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

PHASES: Final = ("Pending", "Preparing", "Ready", "Live", "Converging", "Succeeded")

CELLS: Final = 60
GRACE_NS: Final = 500_000_000
LONGEST_NS: Final = 2_000_000_000
"""What was sent earlier before the guest ran again is not looked at: it is held for one second at
most, and a guest takes as long only where it has no processor."""

GuestState = Literal["", "boots", "awaited", "runs", "paused"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A new migration begins, or something else worth a headline."""

    at_ns: int
    title: str


@dataclass(frozen=True, slots=True)
class Phase:
    """The LiveMigration entered a phase."""

    at_ns: int
    phase: str


@dataclass(frozen=True, slots=True)
class Role:
    """The operator gave the endpoint on *node* a role; empty: took it."""

    at_ns: int
    node: str
    role: str


@dataclass(frozen=True, slots=True)
class State:
    """The agent of *node* reported a state."""

    at_ns: int
    node: str
    state: str


@dataclass(frozen=True, slots=True)
class Signal:
    """The agent of *node* heard the guest announce itself, and its route was in."""

    at_ns: int
    node: str
    signal: str
    route_us: float


@dataclass(frozen=True, slots=True)
class Route:
    """A route for the VM came or went on *node*; *how* is its device or next hop and metric."""

    at_ns: int
    node: str
    how: str
    present: bool


@dataclass(frozen=True, slots=True)
class Guest:
    """QEMU on *node* entered a state; empty: it is gone."""

    at_ns: int
    node: str
    state: GuestState


@dataclass(frozen=True, slots=True)
class Action:
    """Somebody else did something; *kind* says with what."""

    at_ns: int
    where: str
    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Note:
    """Anything else that a person should read."""

    at_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """How one flow fares: totals, and the latest stretch of time cell by cell."""

    name: str
    sent: int
    lost: int
    cells: tuple[float | None, ...]
    """The share of packets that were answered; None: none was sent."""
    late: int = 0
    """Those that were sent before the guest ran on its new node, and answered after that."""
    late_cells: frozenset[int] = frozenset()
    """In which cells answers to those came."""


Fact = Chapter | Phase | Role | State | Signal | Route | Guest | Action | Note
"""What is told as a line of the history."""


@dataclass(frozen=True, slots=True)
class Node:
    """What is true about one node."""

    name: str
    role: str = ""
    state: str = ""
    guest: GuestState = ""
    routes: tuple[str, ...] = ()
    hosts: bool = True
    """Whether VMs run there; a router has nothing but routes."""


@dataclass(frozen=True, slots=True)
class History:
    """Everything told so far."""

    began_ns: int
    nodes: tuple[Node, ...]
    title: str = ""
    phase: str = ""
    facts: tuple[Fact, ...] = ()
    flows: tuple[Traffic, ...] = ()

    def node(self, name: str) -> Node:
        """Return what is true about *name*; one that the history did not begin with is a router."""
        known = (node for node in self.nodes if node.name == name)
        return next(known, Node(name, hosts=False))


def with_fact(history: History, fact: Fact | Traffic) -> History:
    """Return *history* with *fact* in it. A fact that changes nothing is not told twice."""
    if isinstance(fact, Traffic):
        others = [flow for flow in history.flows if flow.name != fact.name]
        known = len(others) < len(history.flows)
        flows = [fact if f.name == fact.name else f for f in history.flows]
        return replace(history, flows=tuple(flows if known else [*others, fact]))
    changed = applied(history, fact)
    if changed == history and not isinstance(fact, Action | Note | Signal):
        return history
    return replace(changed, facts=(*history.facts, fact))


def applied(history: History, fact: Fact) -> History:  # noqa: PLR0911  # one per kind of fact
    """Return what is true after *fact*, without having it told."""
    match fact:
        case Chapter(_, title):
            return replace(history, title=title, phase="")
        case Phase(_, phase):
            return replace(history, phase=phase)
        case Role(_, name, role):
            return put(history, replace(history.node(name), role=role))
        case State(_, name, state):
            return put(history, replace(history.node(name), state=state))
        case Guest(_, name, state):
            return put(history, replace(history.node(name), guest=state))
        case Route(_, name, how, present):
            others = tuple(route for route in history.node(name).routes if route != how)
            routes = (*others, how) if present else others
            return put(history, replace(history.node(name), routes=tuple(sorted(routes))))
        case _:
            return history


def put(history: History, node: Node) -> History:
    """Replace what is known about *node*; a new one comes last."""
    known = [node if other.name == node.name else other for other in history.nodes]
    return replace(history, nodes=tuple(known if node in known else [*known, node]))


def line(fact: Fact) -> tuple[str, str, str]:  # noqa: PLR0911  # one per kind of fact
    """Put *fact* into words: where, what kind, what happened."""
    match fact:
        case Chapter(_, title):
            return "", "", title
        case Phase(_, phase):
            return "cluster", "phase", phase
        case Role(_, node, role):
            return node, "role", role or "none any more"
        case State(_, node, state):
            return node, "state", state or "its endpoint is gone"
        case Signal(_, node, signal, route_us):
            return node, "signal", f"{signal} heard, route in after {route_us:,.0f} µs"
        case Route(_, node, how, present):
            return node, "route", f"{'+' if present else '-'} {how}"
        case Guest(_, node, state):
            return node, "guest", GUEST_WORDS[state]
        case Action(_, where, kind, what):
            return where, kind, what
        case Note(_, text):
            return "", "", text


GUEST_WORDS: Final[dict[GuestState, str]] = {
    "": "its QEMU ends",
    "boots": "boots",
    "awaited": "an empty QEMU waits for it",
    "runs": "runs here",
    "paused": "stops here",
}


def traffic(
    name: str,
    sent: Sequence[int],
    answered: Mapping[int, int],
    now_ns: int,
    cell_ns: int,
    resumed: Sequence[int] = (),
) -> Traffic:
    """Sum up a flow: when its packets were *sent*, and by number when they were *answered*.

    The guest ran again, on another node, at each moment of *resumed*. The newest packets may still
    be on their way: they are left out of losses and cells. The cost is that of the cells and of
    what may be late, however long the flow has run.
    """
    end = now_ns - GRACE_NS
    first = end - CELLS * cell_ns
    settled = bisect.bisect_left(sent, end)
    on_their_way = sum(number in answered for number in range(settled, len(sent)))
    counts = [[0, 0] for _ in range(CELLS)]
    for number in range(bisect.bisect_left(sent, first), settled):
        cell = counts[(sent[number] - first) // cell_ns]
        cell[0] += 1
        cell[1] += number in answered
    lost = settled - (len(answered) - on_their_way)
    arrivals = late_arrivals(sent, answered, resumed)
    shown = frozenset((at - first) // cell_ns for at in arrivals if first <= at < end)
    cells = tuple(ok / n if n else None for n, ok in counts)
    return Traffic(name, len(sent), lost, cells, len(arrivals), shown)


def late_arrivals(
    sent: Sequence[int], answered: Mapping[int, int], resumed: Sequence[int]
) -> list[int]:
    """Return when answers came to what was sent before a moment of *resumed*, and not earlier."""
    found: dict[int, int] = {}
    for moment in resumed:
        first, behind = (bisect.bisect_left(sent, at) for at in (moment - LONGEST_NS, moment))
        for number in range(first, behind):
            if answered.get(number, 0) >= moment:
                found[number] = answered[number]
    return list(found.values())
