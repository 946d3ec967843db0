"""What happened to one endpoint: frozen facts, the only input of its state machine.

Each event knows its ``input``, the column of the transition table that it means. An event that
stems from a listener or a timer carries the number of the episode that started those.
"""

import enum
from dataclasses import dataclass
from typing import ClassVar

from handover_api.assignment import Assignment
from handover_api.workloadendpoint import Role, Signal


class Input(enum.StrEnum):
    """The columns of the transition table, in the order in which they are drawn."""

    TARGET = "Target"
    ANNOUNCED = "Announced"
    NO_ROLE = "NoRole"
    ABORTED = "Aborted"
    VANISHED = "Vanished"
    SOURCE = "Source"
    LEFT = "Left"
    PEER_HAS = "PeerHas"
    PEER_RELEASED = "PeerReleased"
    TIMER_POP = "TimerPop"
    SILENCE = "Silence"
    ASK_AGAIN = "AskAgain"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True)
class Assigned:
    """Role, uid or outcome changed; made by :func:`inputs.of_change` only.

    ``routes_in``: the endpoint's own routes are in the kernel at this moment.
    """

    # The only event of more than one column: which it is depends on role and outcome.
    input: Input
    assignment: Assignment
    routes_in: bool = False


@dataclass(frozen=True, slots=True)
class Updated:
    """The assignment changed in something that moves no machine: ``armed``, a name."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class AwaitLifted:
    """The endpoint's spec no longer says ``awaitRole``."""


@dataclass(frozen=True, slots=True)
class Announced:
    """The sniffer accepted a frame of the guest.

    ``answers_probe``: it answers a probe that was sent in this very episode.
    """

    input: ClassVar[Input] = Input.ANNOUNCED
    episode: int
    signal: Signal
    answers_probe: bool = False


@dataclass(frozen=True, slots=True)
class PeerHas:
    """The endpoint of *role* in migration *uid* has the guest; the way to its node is prepared.

    Its agent said so, or the API, which named it as a peer before. Either may be late.
    """

    input: ClassVar[Input] = Input.PEER_HAS
    uid: str
    role: Role


@dataclass(frozen=True, slots=True)
class PeerReleased:
    """A peer in migration *uid* has the guest no more, by the word of its agent."""

    input: ClassVar[Input] = Input.PEER_RELEASED
    uid: str


@dataclass(frozen=True, slots=True)
class TimerPopped:
    """The convergence time of a TimeWait is over."""

    input: ClassVar[Input] = Input.TIMER_POP
    episode: int


@dataclass(frozen=True, slots=True)
class FellSilent:
    """An asking ended without an answer."""

    input: ClassVar[Input] = Input.SILENCE
    episode: int


@dataclass(frozen=True, slots=True)
class Unaskable:
    """An asking cannot be put: nobody knows the guest's MAC.

    With routes in the machine takes it for an answer, without for silence.
    """

    # That of silence: the machine makes an answer of it, where it has routes to lose.
    input: ClassVar[Input] = Input.SILENCE
    episode: int


@dataclass(frozen=True, slots=True)
class AskAgainDue:
    """A guest that answered although it should be gone is to be asked once more."""

    input: ClassVar[Input] = Input.ASK_AGAIN
    episode: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """The endpoint's object is gone."""

    input: ClassVar[Input] = Input.DELETED


# Unions, so that mypy knows which of them carry an episode, and which an input.
TimerEvent = TimerPopped | FellSilent | AskAgainDue
"""What a machine's timer feeds to it."""
EpisodeEvent = Announced | Unaskable | TimerEvent
"""What was started in one episode and means nothing in a later one."""
PeerEvent = PeerHas | PeerReleased
"""What is known of the other side of a migration."""
TableEvent = Assigned | Deleted | PeerEvent | EpisodeEvent
"""What has a column in the table."""
Event = TableEvent | Updated | AwaitLifted
