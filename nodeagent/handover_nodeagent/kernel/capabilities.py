"""Which of the two privileges of the agent are missing, and what that costs."""

from pathlib import Path
from typing import Final

_NEEDED: Final = {
    12: "CAP_NET_ADMIN is missing: routes, neighbours and the ARP guard cannot be changed",
    13: "CAP_NET_RAW is missing: no guest can be heard or probed",
}


def missing() -> tuple[str, ...]:
    """Return a sentence for each privilege that this thread does not have."""
    return read(Path("/proc/thread-self/status").read_text(encoding="ascii"))


def read(status: str) -> tuple[str, ...]:
    """Find in the kernel's *status* of a process what is missing."""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    effective = int(lines["CapEff"], 16)
    return tuple(text for bit, text in _NEEDED.items() if not effective & 1 << bit)
