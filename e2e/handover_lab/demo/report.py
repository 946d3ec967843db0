"""What a demonstration proved: build/demo/report.json, the table a person reads, the verdict.

PURE but for `versions`, which asks the real parts who they are.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Self

from rich.table import Table

from handover_lab.network import measure
from handover_lab.network.carriers import Carrier
from handover_lab.network.measure import Packet, Switchover

MOST_LOST_AFTER_SWITCH: Final = 10
"""Pings 1 ms apart that BGP may lose until every speaker has followed."""
MOST_LOST_WITH_FRR: Final = 300
"""The same for FRR, which collects changes on each machine for a tenth of a second."""

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


@dataclass(frozen=True, slots=True)
class Migration:
    """One line of the report."""

    source: str
    target: str
    guest_pause_ms: float
    """From QMP STOP to RESUME."""
    announcement_to_route_us: float | None
    """As the agent measured it; None: it reported no cutover."""
    outage_ms: float | None
    lost: int
    lost_after_switch: int
    signal: str | None
    tcp_survived: bool

    @classmethod
    def measured(  # five facts, one migration
        cls,
        way: tuple[str, str],
        switchover: Switchover,
        pings: Sequence[Packet],
        *,
        cutover: tuple[str, float] | None,
        tcp_survived: bool,
    ) -> Self:
        """Sum up the *pings* of one migration; *cutover* is the signal and its microseconds."""
        loss = measure.loss(pings, switchover)
        signal, route_us = cutover or (None, None)
        return cls(
            *way,
            guest_pause_ms=round(switchover.pause_ms, 3),
            announcement_to_route_us=route_us,
            outage_ms=None if loss.outage_ms is None else round(loss.outage_ms, 3),
            lost=loss.lost,
            lost_after_switch=loss.lost_after_switch,
            signal=signal,
            tcp_survived=tcp_survived,
        )

    def faults(self, most_lost: int = MOST_LOST_AFTER_SWITCH) -> tuple[str, ...]:
        """Say what of it a migration with Handover must not be."""
        where = f"{self.source} → {self.target}"
        found = []
        if self.signal is None:
            found.append(f"{where}: the agent reported no cutover")
        if self.outage_ms is None:
            found.append(f"{where}: the pings never came back")
        if not self.tcp_survived:
            found.append(f"{where}: the TCP session broke")
        if self.lost_after_switch > most_lost:
            found.append(
                f"{where}: {self.lost_after_switch} pings lost after the switch,"
                f" {most_lost} allowed"
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
        most = MOST_LOST_WITH_FRR if self.carrier == "frr" else MOST_LOST_AFTER_SWITCH
        return tuple(fault for migration in self.migrations for fault in migration.faults(most))

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
        title = "What the pings felt, one per millisecond"
        table = Table(box=None, title=title, padding=(0, 1, 0, 0), pad_edge=False)
        for name in ("migration", "signal", "TCP"):
            table.add_column(name)
        for name in ("pause", "signal\nto route", "silent\nfor", "lost", "lost after\nthe switch"):
            table.add_column(name, justify="right")
        for migration in self.migrations:
            table.add_row(*row(migration))
        if self.baseline:
            table.add_row(*row(self.baseline, "\nwithout Handover"), style="dim")
        return table


def row(migration: Migration, remark: str = "") -> tuple[str, ...]:
    """Put one migration into words, in the order of the table's columns."""
    route_us, outage_ms = migration.announcement_to_route_us, migration.outage_ms
    return (
        f"{migration.source} → {migration.target}{remark}",
        migration.signal or "-",
        "lived" if migration.tcp_survived else "broke",
        f"{migration.guest_pause_ms:,.1f} ms",
        "-" if route_us is None else f"{route_us:,.0f} µs",
        "for good" if outage_ms is None else f"{outage_ms:,.0f} ms",
        f"{migration.lost:,}",
        f"{migration.lost_after_switch:,}",
    )


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
