"""PURE: what one migration cost one family's flows, and what a row of them is to reach."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from handover_lab.bench.outage.moments import Moments
from handover_lab.bench.outage.rows import Row
from handover_lab.network import measure
from handover_lab.network.measure import Packet, Switchover

Line = Mapping[str, str | int | float | bool | None]
"""One line of outage.json: a row's migrations by one family's flows."""

RATIO: Final = 3.0
"""From announcement to redirect, of what the C program takes on the same path."""
REDIRECT_US: Final = 1000.0
LAST_NODE_US: Final = 2000.0
"""What is to be reached on a machine that does nothing else; shown, and never a fault."""


CALM_NS: Final = 1_000_000_000

REPORTED: Final = {
    "reported_redirect_us_p50": "announcementToRedirectMicroseconds",
    "reported_last_node_us_p50": "announcementToLastNodeMicroseconds",
    "reported_guest_silence_us_p50": "guestSilenceMicroseconds",
    "reported_clock_error_us_p50": "clockErrorMicroseconds",
}
"""What Handover itself tells in a LiveMigration's cutover, beside what was seen from outside."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One migration, by one family's flows; None: it was not measured, or never ended."""

    pause_ms: float
    lost: int
    lost_after_switch: int
    """Sent once the agents had done their part: the target's route was in, and the redirect."""
    silence_ms: float | None
    tcp_gap_ms: float | None
    moments: Moments | None
    reported: Mapping[str, object] = field(default_factory=dict)
    lost_before: int = 0
    """In the second before it stopped, which no network has lost: the guest could not keep up."""
    lost_after_resume: int = 0
    """Those too that met a source which could not know so far that its guest had gone."""

    @classmethod
    def of(
        cls,
        pings: Sequence[Sequence[Packet]],
        session: Sequence[Packet],
        switchover: Switchover,
        moments: Moments | None,
        reported: Mapping[str, object],
    ) -> "Sample":
        """Measure the packets of one migration.

        The first of the *pings* is what figures are taken of; after the switch none may lose any.
        """
        loss, *others = (measure.loss(each, switchover) for each in pings)
        return cls(
            switchover.pause_ms,
            loss.lost,
            max(lost_since(each, switched_ns(switchover, moments)) for each in pings),
            loss.outage_ms,
            measure.outage_ms(session, switchover),
            moments,
            reported,
            max(lost_before(each, switchover) for each in pings),
            max(each.lost_after_switch for each in (loss, *others)),
        )

    def beyond_pause(self, silence_ms: float | None) -> float | None:
        """Return how much longer than the guest's pause a silence was."""
        return None if silence_ms is None else silence_ms - self.pause_ms


def switched_ns(switchover: Switchover, moments: Moments | None) -> int:
    """Return when the agents had done all that they do; what was not seen took no time."""
    seen = (moments.routed_ns, moments.redirected_ns) if moments else ()
    return max((switchover.resumed_ns, *(at_ns for at_ns in seen if at_ns is not None)))


def lost_since(pings: Sequence[Packet], since_ns: int) -> int:
    """Count the unanswered pings that were sent since then."""
    return sum(packet.answered_ns is None and packet.sent_ns >= since_ns for packet in pings)


def lost_before(pings: Sequence[Packet], switchover: Switchover) -> int:
    """Count the unanswered pings of the second before the switchover could lose any."""
    end = switchover.stopped_ns - measure.IN_FLIGHT_NS
    before = measure.between(pings, end - CALM_NS, end)
    return sum(packet.answered_ns is None for packet in before)


def line(row: Row, family: int, samples: Sequence[Sample], wanted: int) -> Line:
    """Sum up a row's *samples* of one family, of which so many were *wanted*."""
    lost = [sample.lost_after_switch for sample in samples]
    beyond = (sample.beyond_pause(sample.silence_ms) for sample in samples)
    silences = [each for each in beyond if each is not None]
    moments = [sample.moments for sample in samples if sample.moments]

    def after(name: str) -> float | None:
        return _p50(each.after_announcement_us(getattr(each, name)) for each in moments)

    return {
        "carrier": row.carrier,
        "redirect": row.redirect,
        "topology": row.topology,
        "family": family,
        "n": len(samples),
        "failed": wanted - len(samples),
        "pause_ms_median": _p50(sample.pause_ms for sample in samples),
        "lost_median": _p50(sample.lost for sample in samples),
        "lost_after_switch_max": max(lost, default=None),
        "lost_after_switch_median": _p50(lost),
        "lost_after_resume_max": max((each.lost_after_resume for each in samples), default=None),
        "lost_after_resume_median": _p50(each.lost_after_resume for each in samples),
        "silence_minus_pause_ms_median": _p50(silences),
        "silence_minus_pause_ms_max": max(silences, default=None),
        "tcp_gap_minus_pause_ms_median": _p50(
            sample.beyond_pause(sample.tcp_gap_ms) for sample in samples
        ),
        "flows_that_never_came_back": sum(
            (sample.silence_ms is None) + (sample.tcp_gap_ms is None) for sample in samples
        ),
        "announcement_to_route_us_p50": after("routed_ns"),
        "announcement_to_redirect_us_p50": after("redirected_ns"),
        "have_to_ack_us_p50": _p50(each.statement_to_answer_us for each in moments),
        "announcement_to_last_node_us_p50": after("last_node_ns"),
        "floor_us_p50": after("floor_ns"),
        **{
            name: _p50(sample.reported.get(told) for sample in samples)
            for name, told in REPORTED.items()
        },
    }


def ratio(lines: Sequence[Line]) -> float | None:
    """Return from announcement to redirect, as a multiple of what the C program took.

    All rows together, as the floor is measured in those without a redirect: both programs at once
    would wait for each other.
    """
    agent = _p50(each["announcement_to_redirect_us_p50"] for each in lines if each["redirect"])
    floor = _p50(each["floor_us_p50"] for each in lines if not each["redirect"])
    return agent / floor if agent and floor else None


def faults(lines: Sequence[Line]) -> Iterator[str]:
    """Say what was not reached, in a sentence each."""
    for each in lines:
        name = title(each)
        if each["failed"]:
            yield f"{name}: {each['failed']} migrations could not be measured (a busy machine?)"
        if each["flows_that_never_came_back"]:
            yield f"{name}: {each['flows_that_never_came_back']} flows never came back"
        if not each["redirect"]:
            continue
        if each["lost_after_switch_max"]:
            yield f"{name}: {each['lost_after_switch_max']} lost after the switch"
        if each["announcement_to_redirect_us_p50"] is None:
            yield f"{name}: nobody saw a redirect"
    reached = ratio(lines)
    if reached is not None and reached > RATIO:
        yield f"the redirect took {reached:.1f} times as long as the C program, not {RATIO:g}"


def title(each: Line) -> str:
    """Name a line."""
    redirect = " + redirect" if each["redirect"] else ""
    return f"{each['carrier']}{redirect}, {each['topology']}, IPv{each['family']}"


def _p50(values: Iterable[object]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float)]
    return round(statistics.median(known), 3) if known else None
