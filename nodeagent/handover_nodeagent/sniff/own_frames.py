"""PURE: which frames of a guest are kept to know when it sent its last one, and how many of them.

A ring is small, and looked at seldom. A guest that sends more than fits is thinned by the kernel:
one frame of 2, 4, 8 … is kept, by chance, and the time of the last one is known that much less
exactly. What is not known exactly says so.
"""

from typing import Final, NamedTuple

from handover_nodeagent.kernel import bpf
from handover_nodeagent.kernel.bpf import Program, Step
from handover_nodeagent.sniff.ring_blocks import Geometry

GEOMETRY: Final = Geometry(block_size=4096, blocks=16, retire_ms=10)
"""64 KiB per endpoint. Blocks of one page need no contiguous memory, which a node may be out of."""
LOOK: Final = 0.1
"""Seconds between two looks: a frame a millisecond fits in several times over."""
SNAP_LENGTH: Final = 6
"""Nothing is read of a frame; with its header it takes 88 bytes with 6 of it as with one."""
CAPACITY: Final = GEOMETRY.blocks * 45
"""Frames of 88 bytes in all blocks, behind the header of each."""
MOST: Final = 4096
"""One of so many at most: enough for 14 million frames a second."""
SURGE: Final = 16
"""By how much more a ring is thinned that was full before anybody looked."""

_SOURCE: Final = 6
_RANDOM: Final = bpf.ANCILLARY + 56
"""SKF_AD_RANDOM: another number for each frame, so that no rhythm of the guest's is thinned out."""


class LastFrame(NamedTuple):
    """When the guest sent its last frame, in realtime ns, and by how much later it may have."""

    at_ns: int
    error_ns: int = 0


class Unknown(NamedTuple):
    """Why nobody can say when the guest sent its last frame."""

    reason: str


def compile_filter(mac: str | None, share: int = 1) -> Program:
    """Return the program that keeps one of *share* frames of *mac*, of anybody where None."""
    source: list[Step | str] = []
    if mac:
        octets = bytes.fromhex(mac.replace(":", ""))
        high, low = int.from_bytes(octets[:4], "big"), int.from_bytes(octets[4:], "big")
        source += [
            Step(bpf.LOAD_WORD, _SOURCE),
            Step(bpf.IF_EQUAL, high, "", "drop"),
            Step(bpf.LOAD_HALF, _SOURCE + 4),
            Step(bpf.IF_EQUAL, low, "", "drop"),
        ]
    if share > 1:
        source += [
            Step(bpf.LOAD_WORD, _RANDOM),
            Step(bpf.AND, share - 1),
            Step(bpf.IF_EQUAL, 0, "", "drop"),
        ]
    source += [Step(bpf.RETURN, SNAP_LENGTH), "drop", Step(bpf.RETURN, 0)]
    return bpf.assemble(source)


def share_after(share: int, kept: int, *, is_full: bool) -> int:
    """Return of how many frames one is to be kept, where one of *share* gave *kept* in a look.

    Half of what the ring holds is wanted, so that twice as many still fit.
    """
    sent = kept * share * (SURGE if is_full else 1)
    wanted = 1
    while wanted < MOST and sent > wanted * CAPACITY // 2:
        wanted *= 2
    return wanted


def spacing_ns(share: int, kept: int, elapsed_ns: int) -> int:
    """Return how long before a guest's end the last frame may have been that was kept of it.

    None is thinned out of one in one. Else three times the mean distance of two that are kept:
    19 of 20 gaps between frames that chance has kept are shorter.
    """
    return 0 if share == 1 else min(elapsed_ns, 3 * elapsed_ns // max(kept, 1))
