"""Which programs run here: eBPF ones at tcx, which netlink does not show, and processes."""

import os
from collections.abc import Iterable, Mapping
from typing import Final

from handover_nodeagent.kernel import syscalls
from handover_nodeagent.network.model import Link

_TCX: Final = (46, 47)
"""BPF_TCX_INGRESS and BPF_TCX_EGRESS of linux/bpf.h."""


def at_tcx(links: Iterable[Link]) -> Mapping[str, tuple[str, ...]] | None:
    """Return who has tcx programs, whose names only more privilege tells; None: nobody may ask."""
    found: dict[str, tuple[str, ...]] = {}
    for link in links:
        counts = [syscalls.count_programs(link.index, place) for place in _TCX]
        # It is the privilege that is missing: what one link is refused all others are, too.
        if None in counts:
            return None
        if any(counts):
            found[link.name] = ("tcx",)
    return found


def processes() -> frozenset[str]:
    """Return the names of all processes that are to be seen from here."""
    names: set[str] = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                # It may have ended since it was listed.
                with open(f"/proc/{entry.name}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                    names.add(file.read().strip())
            except OSError:
                continue
    return frozenset(names)
