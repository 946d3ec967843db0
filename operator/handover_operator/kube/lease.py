"""The Lease by which replicas agree on one that writes: what to do about it, and what to write.

Pure. Clocks of two machines are never compared: a Lease has expired when *we* have seen no new
version of it for as long as its holder asked for. Its holder stops writing earlier than that,
counted from before it asked for its last renewal, so that there are never two who write.
"""

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# Kubernetes' MicroTime: RFC 3339 with six digits of a second (metav1.RFC3339Micro).
MICRO_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"

LEAST_TIMEOUT: Final = 0.5
"""Seconds for a renewal: half of what is left would at last be too short for any answer."""


@dataclass(frozen=True, slots=True)
class Periods:
    """Seconds. A replica that has died is followed within ``duration + poll`` at most.

    ``renewal``: between two renewals. ``deadline``: without a renewal for so long, the holder
    stops writing. ``duration``: another may then take over. ``poll``: between two reads of a
    Lease that somebody else holds.
    """

    # As Kubernetes' own components have them: a renewal may take four seconds, and be tried twice
    # more. What a guest waits for meanwhile is written by whoever lives (standby.py).
    renewal: float = 2.0
    deadline: float = 10.0
    duration: int = 15
    poll: float = 1.0


@dataclass(frozen=True, slots=True)
class Lease:
    """What the object says; it does not exist when it has no ``version``."""

    holder: str = ""
    duration: float = 0.0
    version: str = ""
    transitions: int = 0
    acquired: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A version of the Lease, and since when we know it, by our own clock."""

    lease: Lease
    since: float


class Step(enum.StrEnum):
    """What to do about the Lease."""

    RENEW = "renew"
    CLAIM = "claim"
    WAIT = "wait"


def read(raw: Mapping[str, Any]) -> Lease:
    """Read a coordination.k8s.io/v1 Lease; what is absent was never held."""
    spec = raw.get("spec") or {}
    return Lease(
        holder=spec.get("holderIdentity") or "",
        duration=spec.get("leaseDurationSeconds") or 0,
        version=raw["metadata"]["resourceVersion"],
        transitions=spec.get("leaseTransitions") or 0,
        acquired=spec.get("acquireTime") or "",
    )


def see(before: Sighting | None, found: Lease | None, now: float) -> Sighting:
    """Take in what was found; None: there is no Lease.

    One that was deleted while somebody held it counts as held until it would have expired.
    """
    if found is None:
        held = Lease() if before is None else before.lease
        found = Lease(held.holder, held.duration, transitions=held.transitions)
    if before is not None and before.lease.version == found.version:
        return before
    return Sighting(found, now)


def step(seen: Sighting, identity: str, now: float) -> Step:
    """Decide what the replica *identity* does next."""
    if seen.lease.holder == identity:
        return Step.RENEW
    if not seen.lease.holder or now - seen.since >= seen.lease.duration:
        return Step.CLAIM
    return Step.WAIT


def is_renewed_by_another(before: Sighting | None, seen: Sighting, identity: str) -> bool:
    """Return whether *seen* shows that another replica lives and holds the Lease."""
    # Who has just begun knows not how old the first version is that it sees.
    is_new = before is not None and before.lease.version != seen.lease.version
    return is_new and seen.lease.holder not in {"", identity}


def seconds_for_renewal(left: float) -> float:
    """Return how long a renewal may take when *left* seconds are left of our time.

    Where this one is stuck, another connection may get through.
    """
    return min(left, max(left / 2, LEAST_TIMEOUT))


def seconds_to_next_read(seen: Sighting, periods: Periods, now: float) -> float:
    """Return how many seconds to wait before a Lease is read again that somebody holds."""
    return min(periods.poll, max(seen.since + seen.lease.duration - now, 0.0))


def held(seen: Sighting, identity: str, periods: Periods, when: dt.datetime) -> dict[str, object]:
    """Compose the spec by which *identity* holds the Lease from now on, or still."""
    lease, text = seen.lease, when.strftime(MICRO_TIME)
    is_ours = lease.holder == identity
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": periods.duration,
        "acquireTime": lease.acquired if is_ours and lease.acquired else text,
        "renewTime": text,
        "leaseTransitions": lease.transitions + (0 if is_ours or not lease.version else 1),
    }


def released(when: dt.datetime) -> dict[str, object]:
    """Compose the spec by which nobody holds the Lease."""
    return {
        "holderIdentity": "",
        # The API server refuses 0; a Lease without a holder is taken at once anyway (``step``).
        "leaseDurationSeconds": 1,
        "renewTime": when.strftime(MICRO_TIME),
    }
