"""PURE: what one migration cost one family's flows, and what a row of them is to reach."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from handover_lab.bench.outage.moments import Moments
from handover_lab.bench.outage.rows import Row, added_by
from handover_lab.network import measure
from handover_lab.network.measure import Packet, Switchover

Line = Mapping[str, str | int | float | bool | None]
"""One line of outage.json: a row's migrations by one family's flows."""

RATIO: Final = 3.0
"""From announcement to redirect, of what the C program takes on the same path."""
REDIRECT_US: Final = 1000.0
LAST_NODE_US: Final = 2000.0
"""What is to be reached on a machine that does nothing else; shown, and never a fault."""
GAP_MS: Final = 30.0
"""With resend a client that waits for its answer stands still so much longer than its guest."""
CUTOVER: Final = 1.05
"""With resend the cutover's times, of those without."""

CALM_NS: Final = 1_000_000_000

REPORTED: Final = {
    "reported_redirect_us_p50": "announcementToRedirectMicroseconds",
    "reported_last_node_us_p50": "announcementToLastNodeMicroseconds",
    "reported_guest_silence_us_p50": "guestSilenceMicroseconds",
    "reported_clock_error_us_p50": "clockErrorMicroseconds",
}
"""What Handover itself tells in a LiveMigration's cutover, beside what was seen from outside."""


COMPARED: Final = {
    "source_memory_ratio": "source_memory_mib_median",
    "source_cpu_ratio": "source_cpu_ms_per_s_median",
    "announcement_to_route_ratio": "announcement_to_route_us_p50",
    "announcement_to_redirect_ratio": "announcement_to_redirect_us_p50",
}
"""Of a row with resend by the one without, in the same run."""
CUTOVER_RATIOS: Final = ("announcement_to_route_ratio", "announcement_to_redirect_ratio")


@dataclass(frozen=True, slots=True)
class Flows:
    """What one family's flows recorded of one migration."""

    pings: Sequence[Sequence[Packet]]
    """The first ones are what figures are taken of; after the switch none may lose any."""
    session: Sequence[Packet]
    requests: Sequence[Packet] = ()
    lost: Sequence[int] = ()
    """When those of all pings were sent, in ns, that the network has lost since the migration
    began."""
    duplicates: int = 0
    """Second answers to pings."""
    dropped: int = 0
    """What the port at the target had no room for, of anybody: it counts as delivered."""


class Source(NamedTuple):
    """What the source's agent needed while its guest could leave any moment."""

    memory_mib: float
    cpu_ms_per_s: float


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
    lost_at_ms: Sequence[float] = ()
    """How long after the stop those were sent that the network has lost since the migration began;
    negative: before."""
    duplicates: int = 0
    dropped: int = 0
    request_gap_ms: float | None = None
    wakeup_ms: float | None = None
    """From RESUME to the guest's first own frame."""
    answer_ms: float | None = None
    """How long the guest itself then took for the answer to the request that lay in its port."""
    source: Source | None = None

    @classmethod
    def of(
        cls,
        flows: Flows,
        switchover: Switchover,
        moments: Moments | None,
        reported: Mapping[str, object],
        source: Source | None = None,
    ) -> "Sample":
        """Measure the packets of one migration."""
        pings, awake_ns = flows.pings, moments.awake_ns if moments else None
        loss, *others = (measure.loss(each, switchover) for each in pings)
        return cls(
            switchover.pause_ms,
            loss.lost,
            max(lost_since(each, switched_ns(switchover, moments)) for each in pings),
            loss.outage_ms,
            measure.outage_ms(flows.session, switchover),
            moments,
            reported,
            max(lost_before(each, switchover) for each in pings),
            max(each.lost_after_switch for each in (loss, *others)),
            [(at_ns - switchover.stopped_ns) / 1e6 for at_ns in flows.lost],
            flows.duplicates,
            flows.dropped,
            measure.silence_at(flows.requests, switchover.resumed_ns),
            None if awake_ns is None else (awake_ns - switchover.resumed_ns) / 1e6,
            answer_ms(switchover, moments) if moments else None,
            source,
        )

    @property
    def lost_total(self) -> int:
        """How many these are."""
        return len(self.lost_at_ms)

    def beyond_pause(self, silence_ms: float | None) -> float | None:
        """Return how much longer than the guest's pause a silence was."""
        return None if silence_ms is None else silence_ms - self.pause_ms

    def gap_beyond(self, own_ms: float | None) -> float | None:
        """Return how much longer a client waited than the guest was paused and took itself."""
        beyond = self.beyond_pause(self.request_gap_ms)
        return None if beyond is None or own_ms is None else beyond - own_ms


def switched_ns(switchover: Switchover, moments: Moments | None) -> int:
    """Return when the agents had done all that they do; what was not seen took no time."""
    seen = (moments.routed_ns, moments.redirected_ns) if moments else ()
    return max((switchover.resumed_ns, *(at_ns for at_ns in seen if at_ns is not None)))


def answer_ms(switchover: Switchover, moments: Moments) -> float | None:
    """Return how long the guest had a request of the client until it answered, but for its pause.

    Its kernel answers pings long before its programs run again where a processor is emulated: what
    that does for the first time since it moved has to be translated anew.
    """
    if moments.answered_ns is None:
        return None
    stopped, resumed = switchover.stopped_ns, switchover.resumed_ns
    before = max(0, stopped - (moments.waiting_ns or stopped))
    return (before + moments.answered_ns - max(moments.asked_ns or 0, resumed)) / 1e6


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
    sources = [sample.source for sample in samples if sample.source]
    beyond_answers = (sample.gap_beyond(sample.answer_ms) for sample in samples)
    gaps = [each for each in beyond_answers if each is not None]

    def after(name: str) -> float | None:
        return _p50(each.after_announcement_us(getattr(each, name)) for each in moments)

    return {
        "carrier": row.carrier,
        "redirect": row.redirect,
        "resend": row.resend,
        "topology": row.topology,
        "family": family,
        "n": len(samples),
        "failed": wanted - len(samples),
        "pause_ms_median": _p50(sample.pause_ms for sample in samples),
        "lost_median": _p50(sample.lost for sample in samples),
        "lost_total_max": max((each.lost_total for each in samples), default=None),
        "lost_total_median": _p50(each.lost_total for each in samples),
        "duplicates_max": max((each.duplicates for each in samples), default=None),
        "duplicates_median": _p50(each.duplicates for each in samples),
        "dropped_at_port_max": max((each.dropped for each in samples), default=None),
        "lost_after_switch_max": max(lost, default=None),
        "lost_after_switch_median": _p50(lost),
        "lost_after_resume_max": max((each.lost_after_resume for each in samples), default=None),
        "lost_after_resume_median": _p50(each.lost_after_resume for each in samples),
        "silence_minus_pause_ms_median": _p50(silences),
        "silence_minus_pause_ms_max": max(silences, default=None),
        "tcp_gap_minus_pause_ms_median": _p50(
            sample.beyond_pause(sample.tcp_gap_ms) for sample in samples
        ),
        "wakeup_ms_median": _p50(sample.wakeup_ms for sample in samples),
        "answer_ms_median": _p50(sample.answer_ms for sample in samples),
        "tcp_gap_minus_pause_and_first_frame_ms_median": _p50(
            sample.gap_beyond(sample.wakeup_ms) for sample in samples
        ),
        "tcp_gap_minus_pause_and_wakeup_ms_median": _p50(gaps),
        "tcp_gap_minus_pause_and_wakeup_ms_max": max(gaps, default=None),
        "flows_that_never_came_back": sum(
            gap is None
            for sample in samples
            for gap in (sample.silence_ms, sample.tcp_gap_ms, sample.request_gap_ms)
        ),
        "source_memory_mib_median": _p50(each.memory_mib for each in sources),
        "source_cpu_ms_per_s_median": _p50(each.cpu_ms_per_s for each in sources),
        **dict.fromkeys(COMPARED),
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


def compared(lines: Sequence[Line]) -> list[Line]:
    """Add to lines with resend what they are of those without, which were measured in turns."""
    without = {_place(each): each for each in lines if each["redirect"] and not each["resend"]}
    return [
        {**each, **_ratios(each, without[_place(each)])}
        if each["resend"] and _place(each) in without
        else each
        for each in lines
    ]


def cutover_ratio(lines: Sequence[Line], name: str) -> float | None:
    """Return the median of all lines' ratios: one line has too few migrations to judge by."""
    return _p50(each[name] for each in lines)


def ratio(lines: Sequence[Line]) -> float | None:
    """Return from announcement to redirect, as a multiple of what the C program took.

    All rows without resend together, as the floor is measured in those without a redirect: both
    programs at once would wait for each other.
    """
    redirected = (each for each in lines if each["redirect"] and not each["resend"])
    agent = _p50(each["announcement_to_redirect_us_p50"] for each in redirected)
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
        if each["redirect"]:
            yield from faults_of_redirect(each, name)
        if each["resend"]:
            yield from faults_of_resend(each, name)
    yield from slow_cutovers(lines)


def faults_of_redirect(each: Line, name: str) -> Iterator[str]:
    """Say what a line with a redirect did not reach."""
    if each["lost_after_switch_max"]:
        yield f"{name}: {each['lost_after_switch_max']} lost after the switch"
    if each["announcement_to_redirect_us_p50"] is None:
        yield f"{name}: nobody saw a redirect"


def faults_of_resend(each: Line, name: str) -> Iterator[str]:
    """Say what a line with resend did not reach."""
    if each["lost_total_max"]:
        yield f"{name}: {each['lost_total_max']} lost in all"
    gap = each["tcp_gap_minus_pause_and_wakeup_ms_median"]
    if gap is None:
        yield f"{name}: nobody saw a client's gap, or the guest's answer"
    elif float(gap) > GAP_MS:
        yield f"{name}: a client waited {gap:.0f} ms beyond pause and answer, not {GAP_MS:g}"
    if each["source_memory_mib_median"] is None:
        yield f"{name}: the source held nothing"


def slow_cutovers(lines: Sequence[Line]) -> Iterator[str]:
    """Say which part of the cutover took too long, all lines together."""
    for name in CUTOVER_RATIOS:
        slower = cutover_ratio(lines, name)
        if slower is not None and slower > CUTOVER:
            what = name.removesuffix("_ratio").replace("_to_", " to ")
            yield f"{what}: with resend {slower:.2f} times as long as without, not {CUTOVER:g}"
    reached = ratio(lines)
    if reached is not None and reached > RATIO:
        yield f"the redirect took {reached:.1f} times as long as the C program, not {RATIO:g}"


def title(each: Line) -> str:
    """Name a line."""
    added = added_by(redirect=bool(each["redirect"]), resend=bool(each["resend"]))
    return f"{each['carrier']}{added}, {each['topology']}, IPv{each['family']}"


def _place(each: Line) -> tuple[object, ...]:
    return each["carrier"], each["topology"], each["family"]


def _ratios(each: Line, without: Line) -> Line:
    return {
        name: round(float(value) / float(other), 3)
        if (value := each[key]) is not None and (other := without[key])
        else None
        for name, key in COMPARED.items()
    }


def _p50(values: Iterable[object]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float)]
    return round(statistics.median(known), 3) if known else None
