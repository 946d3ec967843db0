"""Which of the agent's privileges are missing, and what that costs."""

from pathlib import Path
from typing import Final

# Bits of linux/capability.h.
_NEEDED: Final = {
    12: "CAP_NET_ADMIN is missing: routes, neighbors and the ARP guard cannot be changed",
    13: "CAP_NET_RAW is missing: no guest can be heard or probed",
}

SYS_NICE: Final = 23


def missing() -> tuple[str, ...]:
    """Return a sentence for each privilege that this thread does not have."""
    return read(_status())


def holds(number: int) -> bool:
    """Tell whether this thread has the capability *number*."""
    return bool(_effective(_status()) & 1 << number)


def read(status: str) -> tuple[str, ...]:
    """Find in the kernel's *status* of a process what is missing."""
    effective = _effective(status)
    return tuple(text for bit, text in _NEEDED.items() if not effective & 1 << bit)


def _status() -> str:
    # Of the thread, not the process: capabilities are a thread's own.
    return Path("/proc/thread-self/status").read_text(encoding="ascii")


def _effective(status: str) -> int:
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines["CapEff"], 16)
