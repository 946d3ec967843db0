"""What a machine wants done that cannot be derived from its state: frozen intents.

Routes, neighbors, listening and timers are never commanded: the loop derives them from the
machine after each step (``machine.py``, ``timers.py``, ``desired.py``).
"""

import enum
from dataclasses import dataclass
from typing import Final

from handover_api.workloadendpoint import Signal


@dataclass(frozen=True, slots=True)
class StartProbes:
    """Start the fast probe series afresh, first probe now."""

    episode: int


@dataclass(frozen=True, slots=True)
class RenewProbes:
    """Start the fast probe series afresh because of a frame: once a second, however many come."""

    episode: int


@dataclass(frozen=True, slots=True)
class AskGuest:
    """Probe the guest three times 20 ms apart, whatever ``probeInterval`` says.

    Where no MAC is known, feed :class:`events.Unaskable` instead.
    """

    episode: int


@dataclass(frozen=True, slots=True)
class AnnounceGateway:
    """Routes went in: one probe more and, for IPv6, an unsolicited NA of the gateway.

    They correct the guest's entry for its gateway, which on another node may have another MAC.
    """


@dataclass(frozen=True, slots=True)
class RecordCutover:
    """The guest was heard and the network followed: report what it took."""

    signal: Signal


@dataclass(frozen=True, slots=True)
class TellPeers:
    """The guest's routes go in here or out: the agents of the other side are to hear of it."""

    has_guest: bool


@dataclass(frozen=True, slots=True)
class KeepRedirect:
    """The machine needs its redirect no more, but senders that are late do, for a while."""


@dataclass(frozen=True, slots=True)
class KeepOrphan:
    """The endpoint is gone but its guest answers: its routes stay as they are."""


class EventReason(enum.StrEnum):
    """Reasons of the Kubernetes Events that a machine asks for."""

    # Users' words: alerts and scripts go by them, so they stay as they are.
    CUT_OVER = "CutOver"
    WITHDRAWN = "Withdrawn"
    STILL_ALIVE = "StillAlive"
    ORPHAN_ROUTE = "OrphanRoute"
    REDIRECTED = "Redirected"
    RETURNED = "Returned"


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Tell the endpoint's readers; the sentence is ``SENTENCES[reason]``."""

    reason: EventReason


# Whoever reads an Event has not read the table: each says what was heard and what follows.
SENTENCES: Final = {
    EventReason.CUT_OVER: "The guest runs here; its routes follow with elevated priority",
    EventReason.WITHDRAWN: "No guest answers here any more; its routes are withdrawn",
    EventReason.STILL_ALIVE: "The guest should be gone but answers; its routes stay",
    EventReason.ORPHAN_ROUTE: "The endpoint was deleted but its guest answers; its routes stay "
    "until it is silent, its interface goes or an endpoint claims the address",
    EventReason.REDIRECTED: "The other node has the guest; what still comes here is sent on to it",
    EventReason.RETURNED: "The guest answers here again; its routes lead to it, no longer to the "
    "other node",
}

# What asks the guest; whoever carries these out passes over all other commands.
Asks = StartProbes | RenewProbes | AskGuest
Command = Asks | AnnounceGateway | RecordCutover | TellPeers | KeepRedirect | KeepOrphan | EmitEvent
