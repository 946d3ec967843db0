"""A live migration between two QEMU processes, with the instants that matter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab.guest import Event, Guest
from handover_lab.measure import Switchover


@dataclass(frozen=True, slots=True)
class Limits:
    """How QEMU trades the guest's pause against the time of copying."""

    downtime_ms: int = 10
    bytes_per_second: int = 4_000_000_000
    postcopy: bool = False
    """Let the guest move first and its memory follow."""


SHORT_PAUSE: Final = Limits()
"""A pause of 5 to 14 ms here, the first one after boot more."""

LONG_PAUSE: Final = Limits(downtime_ms=2000, bytes_per_second=40_000_000)
"""A pause of up to 280 ms: that of a busy VM on a slow network."""

POSTCOPY: Final = Limits(bytes_per_second=5_000_000, postcopy=True)
"""Slow before the switchover, so that there is memory left to follow."""

FAILURES: Final = ("MIGRATION:failed", "MIGRATION:cancelled")


async def migrate(
    source: Guest, target: Guest, channel: Path, limits: Limits = SHORT_PAUSE
) -> Switchover:
    """Move the VM over the unix socket *channel*, which crosses network namespaces.

    The source's process stays behind, paused, until its owner ends it.

    Raises:
        GuestError: it failed or was cancelled; the VM then runs on at the source.
    """
    old = len(source.events)
    await begin(source, target, f"unix:{channel}", limits)
    began = await happens(source, "MIGRATION:setup", old)
    if limits.postcopy:
        await happens(source, "MIGRATION:active", old)
        await source.execute("migrate-start-postcopy")
    stopped = await happens(source, "STOP", old)
    resumed = await target.expect("RESUME")
    await happens(source, "MIGRATION:completed", old)
    await target.expect("MIGRATION:completed")
    return Switchover(began.at_ns, stopped.at_ns, resumed.at_ns)


async def begin(source: Guest, target: Guest, channel: str, limits: Limits) -> None:
    """Let the target listen at *channel* and the source send."""
    switches = {"events": True, "postcopy-ram": limits.postcopy}
    capabilities = [{"capability": name, "state": state} for name, state in switches.items()]
    for side in (target, source):
        await side.execute("migrate-set-capabilities", {"capabilities": capabilities})
    await target.execute("migrate-incoming", {"uri": channel})
    await source.execute(
        "migrate-set-parameters",
        {"downtime-limit": limits.downtime_ms, "max-bandwidth": limits.bytes_per_second},
    )
    await source.execute("migrate", {"uri": channel})


async def happens(source: Guest, key: str, old: int) -> Event:
    """Wait for *key* at the source, unless the migration ends otherwise."""
    event = await source.expect(key, *FAILURES, after=old)
    if event.key != key:
        source.fail(f"The migration ended as {event.key.removeprefix('MIGRATION:')}")
    return event


async def cancel(source: Guest) -> None:
    """Call a running migration off; returns when the VM is the source's alone again."""
    old = len(source.events)
    await source.execute("migrate_cancel")
    # QEMU says "failed" when the cancellation cuts a write short.
    await source.expect(*FAILURES, after=old)
