"""What a demonstration proved: build/demo/report.json, the table a person reads, the verdict.

PURE but for `versions`, which asks the real parts who they are.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, NamedTuple, Self

from rich.table import Table

from handover_lab.network import measure
from handover_lab.network.carriers import Carrier
from handover_lab.network.measure import Packet, Switchover

MOST_LOST_AFTER_SWITCH: Final = 10
"""Pings 1 ms apart that a guest may lose which somebody emulates on a busy machine."""

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
    lost: int
    lost_after_resume: int
    """Of these, sent when the guest ran again."""
    lost_after_switch: int
    """Of these, sent when the target had its route and the source sent on to it."""
    signal: str | None
    tcp_survived: bool

    @classmethod
    def measured(  # five facts, one migration
        cls,
        way: tuple[str, str],
        switchover: Switchover,
        pings: Sequence[Packet],
        *,
        told: Told | None,
        tcp_survived: bool,
    ) -> Self:
        """Sum up the *pings* of one migration; None was *told* where Handover was not."""
        loss = measure.loss(pings, switchover)
        switched_ns = max(switchover.resumed_ns, told.switched_ns if told else 0)
        late = [ping for ping in pings if ping.answered_ns is None and ping.sent_ns >= switched_ns]
        return cls(
            *way,
            guest_pause_ms=round(switchover.pause_ms, 3),
            announcement_to_route_us=told.route_us if told else None,
            announcement_to_redirect_us=told.redirect_us if told else None,
            outage_ms=None if loss.outage_ms is None else round(loss.outage_ms, 3),
            lost=loss.lost,
            lost_after_resume=loss.lost_after_switch,
            lost_after_switch=len(late),
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
        if self.lost_after_switch > MOST_LOST_AFTER_SWITCH:
            found.append(
                f"{where}: {self.lost_after_switch} pings lost after the switch,"
                f" {MOST_LOST_AFTER_SWITCH} allowed"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Report:
    """All migrations with Handover, the one without, and what they were measured on."""

    migrations: tuple[Migration, ...]
    baseline: Migration | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    carrier: Carrier = "bird"

    @property
    def faults(self) -> tuple[str, ...]:
        """All that went wrong; the migration without Handover does not count."""
        if not self.migrations:
            return ("no migration took place",)
        return tuple(fault for migration in self.migrations for fault in migration.faults())

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
        }

    def table(self) -> Table:
        """Draw the summary for a person."""
        # Narrow enough for a terminal of 80 columns.
        title = "What the pings felt, one per millisecond; all times in ms"
        table = Table(box=None, title=title, padding=(0, 1, 0, 0), pad_edge=False)
        table.caption = (
            "After the switch: sent once the target had its route and the source sent on to it."
        )
        for name in ("migration", "signal", "TCP"):
            table.add_column(name)
        columns = ("pause", "to\nroute", "to\nredirect", "silent\nfor", "lost", "after the\nswitch")
        for name in columns:
            table.add_column(name, justify="right")
        for migration in self.migrations:
            table.add_row(*row(migration))
        if self.baseline:
            table.add_row(*row(self.baseline, "\nwithout Handover"), style="dim")
        return table


def row(migration: Migration, remark: str = "") -> tuple[str, ...]:
    """Put one migration into words, in the order of the table's columns."""
    outage_ms = migration.outage_ms
    return (
        f"{migration.source} → {migration.target}{remark}",
        migration.signal or "-",
        "lived" if migration.tcp_survived else "broke",
        f"{migration.guest_pause_ms:,.1f}",
        milliseconds(migration.announcement_to_route_us),
        milliseconds(migration.announcement_to_redirect_us),
        "for good" if outage_ms is None else f"{outage_ms:,.0f}",
        f"{migration.lost:,}",
        f"{migration.lost_after_switch:,}",
    )


def milliseconds(value: float | None) -> str:
    """Say so many µs in milliseconds; "-" where there are none."""
    return "-" if value is None else f"{value / 1e3:,.2f}"


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
