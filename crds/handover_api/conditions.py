"""Condition types and their reasons: what ``kubectl describe`` and ``kubectl wait`` can meet.

Each name is a promise to whoever waits for it: none is renamed, none changes its meaning. A new one
is named here, decided in the ``status/conditions.py`` of the program that writes it, and explained
in docs/conditions.md and in the schema (``crds/*.yaml``); tests compare all of these.
"""

import enum


class MigrationCondition(enum.StrEnum):
    """Condition types of a LiveMigration."""

    # True in the end, if all goes well.
    SOURCE_RESOLVED = "SourceResolved"
    TARGET_RESOLVED = "TargetResolved"
    TARGET_READY = "TargetReady"
    REDIRECTABLE = "Redirectable"
    CUT_OVER = "CutOver"
    CONVERGED = "Converged"
    FINISHED = "Finished"
    # These are there only once something was wrong.
    CONFLICTED = "Conflicted"
    SOURCE_LINGERS = "SourceLingers"
    ADDRESS_KEPT = "AddressKept"
    CONTRADICTED = "Contradicted"


class MigrationReason(enum.StrEnum):
    """Reasons of a LiveMigration's conditions."""

    RESOLVED = "Resolved"
    NOT_FOUND = "NotFound"
    GONE = "Gone"
    READY = "Ready"
    NOT_READY = "NotReady"
    OFF = "Off"
    LISTENING = "Listening"
    NOT_LISTENING = "NotListening"
    AWAITING_AGENT = "AwaitingAgent"
    AGENT_SILENT = "AgentSilent"
    NODE_ABSENT = "NodeAbsent"
    NO_TARGET = "NoTarget"
    ANNOUNCED = "Announced"
    NOT_ANNOUNCED = "NotAnnounced"
    ALL_IN_BASE = "AllInBase"
    CONVERGING = "Converging"
    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    ABORTED = "Aborted"
    SELECTOR_MATCHES_SOURCE = "SelectorMatchesSource"
    SUPERSEDED = "Superseded"
    ENDPOINT_CLAIMED = "EndpointClaimed"
    TARGETS_ON_TWO_NODES = "TargetsOnTwoNodes"
    NO_CONFLICT = "NoConflict"
    WITHDRAWING = "Withdrawing"
    STILL_ROUTED = "StillRouted"
    WITHDRAWN = "Withdrawn"
    ADDRESS_CHANGED = "AddressChanged"
    NOT_FOLLOWED = "NotFollowed"
    KEPT = "Kept"
    GUEST_MOVED = "GuestMoved"
    FOLLOWED = "Followed"


class EndpointCondition(enum.StrEnum):
    """Condition types of a WorkloadEndpoint."""

    # These and Configured are always there, the others while there is something to say.
    PROGRAMMED = "Programmed"
    LISTENING = "Listening"
    STILL_ALIVE = "StillAlive"
    ADDRESS_NOT_ALLOWED = "AddressNotAllowed"
    ADDRESS_SHARED = "AddressShared"
    TARGET_TIMEOUT = "TargetTimeout"
    CONFIGURED = "Configured"
    UNGUARDED = "Unguarded"
    INTERFACE_DOUBTED = "InterfaceDoubted"
    REDIRECTABLE = "Redirectable"
    ADVERTISED = "Advertised"
    HOLDING = "Holding"


# One reason may serve several conditions; message and type say the rest.
class EndpointReason(enum.StrEnum):
    """Reasons of a WorkloadEndpoint's conditions."""

    PROGRAMMED = "Programmed"
    SUPPRESSED = "Suppressed"
    INTERFACE_NOT_FOUND = "InterfaceNotFound"
    INTERFACE_REFUSED = "InterfaceRefused"
    INTERFACE_AMBIGUOUS = "InterfaceAmbiguous"
    REFUSED = "Refused"
    INTERNAL_ERROR = "InternalError"
    UNREADABLE = "Unreadable"
    SHADOWED = "Shadowed"
    PENDING = "Pending"
    LINK_DOWN = "LinkDown"
    NOT_OWNED = "NotOwned"
    NOT_ACTIVE = "NotActive"
    HANDED_BACK = "HandedBack"
    LISTENING = "Listening"
    NOT_NEEDED = "NotNeeded"
    CANNOT_LISTEN = "CannotListen"
    GUEST_ANSWERS = "GuestAnswers"
    CANNOT_ASK = "CannotAsk"
    NOT_ALLOWED = "NotAllowed"
    SHARED = "Shared"
    SERVED_ELSEWHERE = "ServedElsewhere"
    NOT_ANNOUNCED = "NotAnnounced"
    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    GUARD_REFUSED = "GuardRefused"
    GUARD_CONTESTED = "GuardContested"
    WOULD_BE_REFUSED = "WouldBeRefused"
    READY = "Ready"
    OFF = "Off"
    NO_PEER = "NoPeer"
    PEER_SILENT = "PeerSilent"
    NOT_PROVED = "NotProved"
    NOT_ON_LINK = "NotOnLink"
    TUNNEL_REFUSED = "TunnelRefused"
    PORT_TAKEN = "PortTaken"
    DEVICE_TAKEN = "DeviceTaken"
    ONE_FAMILY_ONLY = "OneFamilyOnly"
    ADVERTISED = "Advertised"
    STRICT_REVERSE_PATH = "StrictReversePath"
    NO_NEXT_HOP = "NoNextHop"
    HOLDING = "Holding"
    NO_RING = "NoRing"
    NO_ROOM = "NoRoom"
    TOO_MUCH = "TooMuch"
    NOT_REDIRECTABLE = "NotRedirectable"


# The operator's word alone: what an agent makes of a configuration its endpoints' Configured says.
class ConfigurationCondition(enum.StrEnum):
    """Condition types of a HandoverConfiguration."""

    ACCEPTED = "Accepted"
    APPLIED = "Applied"
    OVERRIDDEN = "Overridden"


class ConfigurationReason(enum.StrEnum):
    """Reasons of a HandoverConfiguration's conditions."""

    VALID = "Valid"
    UNKNOWN_NAME = "UnknownName"
    DEFAULT_ONLY = "DefaultOnly"
    INVALID = "Invalid"
    APPLIED = "Applied"
    REFUSED = "Refused"
    SET_ELSEWHERE = "SetElsewhere"
    AS_GIVEN = "AsGiven"
