"""What a demonstration proved: build/demo/report.json, the table a person reads, the verdict.

PURE but for `versions`, which asks the real parts who they are.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, NamedTuple, Self

from rich.table import Table

from handover_api.workloadendpoint import Hold
from handover_lab.network import measure
from handover_lab.network.carriers import Carrier
from handover_lab.network.measure import Packet, Switchover

BUSY: Final = 2.0
"""A load per processor that the demonstration alone does not reach."""

ASK: Final[Mapping[str, Sequence[str]]] = {
    "qemu": ("qemu-system-x86_64", "--version"),
    "bird": ("bird", "--version"),
    "frr": ("/usr/lib/frr/bgpd", "--version"),
    "containerd": ("containerd", "--version"),
    "runc": ("runc", "--version"),
    "linux": ("uname", "-r"),
}


class Told(NamedTuple):
    """What Handover says of a cutover, in microseconds since the announcement."""

    signal: str
    route_us: float
    redirect_us: float | None
    switched_ns: int
    """When the target had its route, and the source sent on to it."""
    hold: Hold | None = None
    """What became of the packets that the source held."""


class Counted(NamedTuple):
    """One flow, from its first packet to its last."""

    sent: int
    lost: int
    """All that had no answer."""
    lost_by_guest: int | None = None
    """Of these, such as came to the guest; None: nobody has looked there."""
    lost_at_s: tuple[float, ...] = ()
    """When each that is lost was sent, in the time of the timeline."""

    @classmethod
    def of(
        cls, packets: Sequence[Packet], lost_ns: Sequence[int] | None = None, began_ns: int = 0
    ) -> Self:
        """Count *packets*, all of them; the timeline began at *began_ns*.

        At *lost_ns* those were sent that came to no guest; None: nobody has looked.
        """
        unanswered = [packet.sent_ns for packet in packets if packet.answered_ns is None]
        moments = tuple(round((sent_ns - began_ns) / 1e9, 4) for sent_ns in unanswered)
        by_guest = None if lost_ns is None else len(unanswered) - len(lost_ns)
        return cls(len(packets), len(unanswered), by_guest, moments)

    @property
    def lost_on_the_way(self) -> int:
        """How many came to no guest, as far as anybody has looked."""
        return 0 if self.lost_by_guest is None else self.lost - self.lost_by_guest


@dataclass(frozen=True, slots=True)
class Migration:
    """One line of the report."""

    source: str
    target: str
    guest_pause_ms: float
    """From QMP STOP to RESUME."""
    announcement_to_route_us: float | None
    """As the agent measured it; None: it reported no cutover."""
    announcement_to_redirect_us: float | None
    """The same; None: nothing was sent on."""
    outage_ms: float | None
    sent: int
    lost: int
    """All that had no answer, from the migration's begin to its end."""
    lost_after_resume: int
    """Of these, sent when the guest ran again."""
    lost_after_switch: int
    """Of these, sent when the target had its route and the source sent on to it."""
    lost_by_guest: int | None
    """Of all that were lost, such as came to the guest; None: nobody has looked there."""
    late: int
    """Sent before the guest ran again, and answered after that."""
    longest_late_ms: float | None
    """The longest that one of them took; None: none was late."""
    doubled: int
    """Answered more than once, as they came to the guest twice."""
    hold: Mapping[str, object] | None
    """What Handover says of packets that the source held; None: nothing."""
    signal: str | None
    tcp_survived: bool

    @classmethod
    def measured(  # six facts, one migration
        cls,
        way: tuple[str, str],
        switchover: Switchover,
        pings: Sequence[Packet],
        *,
        lost_ns: Sequence[int] | None = None,
        told: Told | None,
        tcp_survived: bool,
    ) -> Self:
        """Sum up the *pings* of one migration; None was *told* where Handover was not.

        At *lost_ns* those were sent that came to no guest; None: nobody has looked.
        """
        loss = measure.loss(pings, switchover)
        switched_ns = max(switchover.resumed_ns, told.switched_ns if told else 0)
        unanswered = [ping.sent_ns for ping in pings if ping.answered_ns is None]
        late = measure.late(pings, switchover.resumed_ns)
        trips_ms = [((ping.answered_ns or 0) - ping.sent_ns) / 1e6 for ping in late]
        hold = told.hold if told else None
        return cls(
            *way,
            guest_pause_ms=round(switchover.pause_ms, 3),
            announcement_to_route_us=told.route_us if told else None,
            announcement_to_redirect_us=told.redirect_us if told else None,
            outage_ms=None if loss.outage_ms is None else round(loss.outage_ms, 3),
            sent=len(pings),
            lost=len(unanswered),
            lost_after_resume=loss.lost_after_switch,
            lost_after_switch=sum(sent_ns >= switched_ns for sent_ns in unanswered),
            lost_by_guest=None if lost_ns is None else len(unanswered) - len(lost_ns),
            late=len(late),
            longest_late_ms=round(max(trips_ms), 3) if trips_ms else None,
            doubled=sum(ping.is_doubled for ping in pings),
            hold=hold.model_dump(mode="json") if hold else None,
            signal=told.signal if told else None,
            tcp_survived=tcp_survived,
        )

    def faults(self) -> tuple[str, ...]:
        """Say what of it a migration with Handover must not be."""
        where = f"{self.source} → {self.target}"
        found = []
        if self.signal is None:
            found.append(f"{where}: the agent reported no cutover")
        if self.outage_ms is None:
            found.append(f"{where}: the pings never came back")
        if not self.tcp_survived:
            found.append(f"{where}: the TCP session broke")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Report:
    """All migrations with Handover, the one without, and what they were measured on."""

    migrations: tuple[Migration, ...]
    baseline: Migration | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    carrier: Carrier = "bird"
    flows: Mapping[str, Counted] = field(default_factory=dict)
    """All that was sent with Handover, also between the migrations, by the flow's name."""

    @property
    def faults(self) -> tuple[str, ...]:
        """All that went wrong; the migration without Handover does not count."""
        if not self.migrations:
            return ("no migration took place",)
        found = [fault for migration in self.migrations for fault in migration.faults()]
        found += (
            f"{name}: {one.lost_on_the_way:,} of {one.sent:,} lost on their way to the guest"
            for name, one in self.flows.items()
            if one.lost_on_the_way
        )
        return tuple(found)

    def advice(self, load: float, processors: int) -> str:
        """Say what somebody can do about the faults; *load* is the machine's, of a minute."""
        if load > BUSY * processors:
            return (
                f"The machine is busy (load {load:.1f} on {processors} processors), and an emulated"
                " VM then answers late: end what else runs here, and try again."
            )
        return (
            "Try again; if it stays so, build/demo/timeline.txt says what happened when, and"
            " report.json has every figure."
        )

    def to_object(self) -> dict[str, object]:
        """Return what report.json holds."""
        return {
            "migrations": [asdict(migration) for migration in self.migrations],
            "baseline": asdict(self.baseline) if self.baseline else None,
            "carrier": self.carrier,
            "versions": dict(self.versions),
            "flows": {name: counted._asdict() for name, counted in self.flows.items()},
        }

    def table(self) -> Table:
        """Draw the summary for a person."""
        # Narrow enough for a terminal of 80 columns.
        title = "What the pings felt, one per millisecond"
        table = Table(box=None, title=title, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("")
        for migration in self.migrations:
            table.add_column(way(migration), justify="right")
        shown = list(self.migrations)
        if self.baseline:
            table.add_column(
                f"{way(self.baseline)}\nwithout Handover", justify="right", style="dim"
            )
            shown.append(self.baseline)
        columns = [values(migration) for migration in shown]
        for label in LABELS:
            table.add_row(label, *(column[label] for column in columns))
        table.caption = self.in_all()
        return table

    def in_all(self) -> str:
        """Say what was lost of each flow with Handover, from its begin to its end."""
        lost = (
            f"{name} {one.lost:,} of {one.sent:,}{whose(one)}" for name, one in self.flows.items()
        )
        return f"Lost with Handover, from begin to end:\n{', '.join(lost)}" if self.flows else ""


LABELS: Final = (
    *("guest paused", "pings lost in all", "  of these after the switch"),
    *("  of these by the guest", "late, not lost", "  the longest took"),
    *("answered twice", "no answer for", "announcement"),
    *("  until the route was in", "  until the source sent on"),
    *("held by the source", "  sent again", "TCP session"),
)
"""The rows of the table."""


def whose(flow: Counted) -> str:
    """Say how many of its lost packets the guest had, where it had any."""
    return f" ({flow.lost_by_guest:,} by the guest)" if flow.lost_by_guest else ""


def way(migration: Migration) -> str:
    """Say from where to where."""
    return f"{migration.source} → {migration.target}"


def values(migration: Migration) -> dict[str, str]:
    """Put one migration into words, by the label of each row."""
    hold, outage_ms = migration.hold or {}, migration.outage_ms
    words = (
        milliseconds(migration.guest_pause_ms),
        f"{migration.lost:,}",
        f"{migration.lost_after_switch:,}",
        "-" if migration.lost_by_guest is None else f"{migration.lost_by_guest:,}",
        f"{migration.late:,}",
        milliseconds(migration.longest_late_ms),
        f"{migration.doubled:,}",
        "for good" if outage_ms is None else milliseconds(outage_ms),
        migration.signal or "-",
        milliseconds(migration.announcement_to_route_us, 1e3),
        milliseconds(migration.announcement_to_redirect_us, 1e3),
        str(hold.get("held", "-")),
        " ".join(str(hold[name]) for name in ("resent", "reason") if hold.get(name) is not None)
        or "-",
        "lived" if migration.tcp_survived else "broke",
    )
    return dict(zip(LABELS, words, strict=True))


def milliseconds(value: float | None, per_ms: float = 1) -> str:
    """Say so many in milliseconds, of which each is *per_ms*; "-" where there are none."""
    if value is None:
        return "-"
    found = value / per_ms
    return f"{found:,.2f} ms" if found < 10 else f"{found:,.0f} ms"


def versions(more: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """Ask each part for its version, ours and *more*; one that is not there is left out."""
    found = {}
    for name, argv in {**ASK, **(more or {})}.items():
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if version := re.search(r"v?(\d+\.\d+[\w.+~-]*)", done.stdout + done.stderr):
            found[name] = version[1]
    return found
