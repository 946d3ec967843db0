"""Which eBPF programs hang on the node's interfaces: at tc by netlink, at tcx by bpf(2)."""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from handover_nodeagent.kernel import syscalls
from handover_nodeagent.kernel.netlink import codec, dump
from handover_nodeagent.network.model import Link

_GET_FILTER: Final = 46
_TC_BODY: Final = struct.Struct("=BxxxiIII")
"""Family, index, handle, parent, priority and protocol."""
_PARENTS: Final = (0xFFFFFFF2, 0xFFFFFFF3)
"""clsact's ingress and egress."""
_KIND: Final = 1
_OPTIONS: Final = 2
_BPF_NAME: Final = 7

_TCX: Final = (46, 47)
"""BPF_TCX_INGRESS and BPF_TCX_EGRESS."""


def at_tc(links: Iterable[Link]) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the programs at clsact by interface. Raises ObservationError."""
    found = {link.name: tuple(dict.fromkeys(_filters(link.index))) for link in links}
    return {name: programs for name, programs in found.items() if programs}


def at_tcx(links: Iterable[Link]) -> Mapping[str, tuple[str, ...]] | None:
    """Return who has tcx programs, whose names only more privilege tells; None: nobody may ask."""
    found: dict[str, tuple[str, ...]] = {}
    for link in links:
        counts = [syscalls.count_programs(link.index, place) for place in _TCX]
        if None in counts:
            return None
        if any(counts):
            found[link.name] = ("tcx",)
    return found


def _filters(index: int) -> Iterator[str]:
    for parent in _PARENTS:
        request = codec.compose(_GET_FILTER, codec.DUMP, _TC_BODY.pack(0, index, 0, parent, 0))
        for message in dump.read(request):
            start = codec.HEADER.size + _TC_BODY.size
            shown = codec.attributes(message, start)
            if codec.to_text(shown.get(_KIND, b"")) == "bpf" and _OPTIONS in shown:
                name = codec.attributes(shown[_OPTIONS], 0).get(_BPF_NAME, b"unnamed")
                yield codec.to_text(name)


def processes() -> frozenset[str]:
    """Return the names of all processes that are to be seen from here."""
    names: set[str] = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                    names.add(file.read().strip())
            except OSError:
                continue
    return frozenset(names)
