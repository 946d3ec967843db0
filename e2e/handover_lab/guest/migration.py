"""A live migration between two QEMU processes, with the instants that matter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab.guest.qemu import Event, Guest
from handover_lab.network.measure import Switchover


@dataclass(frozen=True, slots=True)
class Limits:
    """How QEMU trades the guest's pause against the time of copying."""

    downtime_ms: int = 40
    bytes_per_second: int = 200_000_000
    postcopy: bool = False
    """Let the guest move first and its memory follow."""


SHORT_PAUSE: Final = Limits()
"""A pause of about 10 ms here."""

LONG_PAUSE: Final = Limits(downtime_ms=2000, bytes_per_second=40_000_000)
"""A pause of some 100 ms: that of a busy VM on a slow network."""

POSTCOPY: Final = Limits(bytes_per_second=5_000_000, postcopy=True)
"""Slow before the switchover, so that there is memory left to follow."""

CRAWL: Final = 1_000_000
"""So slow, in bytes per second, that a migration cannot end."""

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
    began = await begin(source, target, f"unix:{channel}", limits)
    old = source.events.index(began, old)
    if limits.postcopy:
        await source.execute("migrate-start-postcopy")
    stopped = await happens(source, "STOP", old)
    resumed = await target.expect("RESUME")
    await happens(source, "MIGRATION:completed", old)
    await target.expect("MIGRATION:completed")
    return Switchover(began.at_ns, stopped.at_ns, resumed.at_ns)


async def begin(source: Guest, target: Guest, channel: str, limits: Limits) -> Event:
    """Let the target listen at *channel* and the source send; returns when the guest runs on.

    The guest stands still for some ms while QEMU takes its first list of dirty pages. Else an
    emulated processor that is just then filling its TLB goes on writing, unseen, into pages that
    are being sent, and wakes up on the target with a bit of old memory: QEMU 7.2, one migration in
    a hundred on a busy machine. After the second list nothing is sent while the guest runs, if the
    limits let that one be the last.
    """
    switches = {"events": True, "postcopy-ram": limits.postcopy}
    capabilities = [{"capability": name, "state": state} for name, state in switches.items()]
    for side in (target, source):
        await side.execute("migrate-set-capabilities", {"capabilities": capabilities})
    await target.execute("migrate-incoming", {"uri": channel})
    await limit(source, Limits(0, CRAWL))
    old = len(source.events)
    await source.execute("stop")
    try:
        await source.execute("migrate", {"uri": channel})
        await happens(source, "MIGRATION:active", old)
    finally:
        await source.execute("cont")
    await limit(source, limits)
    return await source.expect("RESUME", after=old)


async def limit(source: Guest, limits: Limits) -> None:
    """Set *limits*, before a migration or while one runs."""
    await source.execute(
        "migrate-set-parameters",
        {"downtime-limit": limits.downtime_ms, "max-bandwidth": limits.bytes_per_second},
    )


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
