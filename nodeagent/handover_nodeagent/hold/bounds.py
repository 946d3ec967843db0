"""PURE: how much is held, for how long, and which of it goes first.

A ring is full of what came last only if somebody gives its oldest blocks back in time: the kernel
itself has no room for the newest.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from handover_nodeagent.sniff.ring_blocks import Block, Geometry

BLOCK_SIZE: Final = 128 * 1024
"""The largest frame that a sender leaves to be cut by a device (GSO) has 64 KiB and must fit."""
MOST_BLOCKS: Final = 64
LEAST_BLOCKS: Final = 4
NODE_BLOCKS: Final = 512
"""8 MiB for an endpoint and 64 MiB for a node; of less than half a MiB nobody would profit."""
_SHARE: Final = 8
"""Of what is free: the first ring has 8 MiB, and there is something left for the thirtieth."""
RETIRE_MS: Final = 150
"""A ring of four blocks holds half a second of a guest that gets a packet now and then."""

LONGEST_NS: Final = 1_000_000_000
"""A pause for longer than that is nobody's migration."""
TRAIN_NS: Final = 5_000_000
"""Within that all fragments of a packet come: they are kept for as long after they were taken."""
SLOWEST_LOOK: Final = 0.02
FASTEST_LOOK: Final = 0.002
"""Seconds between two looks at a ring."""


def allot(used: int) -> int:
    """Return how many blocks the next ring has where *used* ones are given; 0: there is no room."""
    free = NODE_BLOCKS - used
    wanted = min(MOST_BLOCKS, max(LEAST_BLOCKS, free // _SHARE))
    return wanted if wanted <= free else 0


def geometry(blocks: int) -> Geometry:
    """Return the ring of so many blocks."""
    return Geometry(BLOCK_SIZE, blocks, RETIRE_MS)


class Release(NamedTuple):
    """How many of the oldest blocks are given back."""

    taken: int
    """Of packets that the guest has."""
    dropped: int
    """After them: past a bound, whether the guest has them or not."""


def release(retired: Sequence[Block], taken_until_ns: int, now_ns: int, blocks: int) -> Release:
    """Decide which of the *retired* go, where the guest has taken all until *taken_until_ns*.

    A quarter of a ring of *blocks* stays free, for what comes until the next look, beside the
    block that is being filled.
    """
    taken = 0
    while taken < len(retired) and retired[taken].last_ns < taken_until_ns:
        taken += 1
    kept = retired[taken:]
    too_old = sum(block.opened_ns < now_ns - LONGEST_NS for block in kept)
    too_many = len(kept) + 1 - (blocks - blocks // 4)
    return Release(taken, max(too_old, too_many, 0))


def until_next_look(come: int, blocks: int, elapsed: float) -> float:
    """Return the seconds until a ring is looked at, in which *come* blocks came in *elapsed*.

    An eighth of it is to be filled until then, half of what is kept free.
    """
    if not come:
        return SLOWEST_LOOK
    return min(SLOWEST_LOOK, max(FASTEST_LOOK, elapsed * blocks / 8 / come))
