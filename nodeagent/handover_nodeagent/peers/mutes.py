"""PURE: who is not read for a while because he sends too much, and the filter that sees to it.

A datagram that the kernel drops costs a processor some 0.2 µs, one that is read 5 to 10 and the
buffer in which others' would have had room. Whoever is muted sends on or stops: it is tried after a
time that doubles while he does not.
"""

import enum
from collections.abc import Collection, Iterator
from typing import Final

from handover_nodeagent.kernel import bpf
from handover_nodeagent.kernel.bpf import Step
from handover_nodeagent.network.model import IPAddress

FIRST: Final = 0.1
"""Seconds: a burst that was none of a flood is over by then, and a HAVE is said again after it."""
LAST: Final = 6.4
"""Seconds: what is left of a flood is then a burst in that time. While it is read the buffer may be
full, and lose what others say: on a busy node for as long as the loop waits for its processor."""
CALM: Final = 30.0
"""Seconds after which somebody who sends too much begins with FIRST again."""
MOST: Final = 400
"""Addresses in a filter: nine instructions for one of IPv6, of 4096 that a program may have."""

# SKF_NET_OFF of linux/filter.h: what a UDP socket's filter is shown begins at the UDP header, and
# a load from here on is one of the network header before it.
_NETWORK_HEADER: Final = 0xFFF00000
# Where the source stands in the headers of RFC 791 and RFC 8200, by the address's size.
_SOURCE: Final = {4: 12, 16: 8}
_WORD: Final = 4
_KEEP: Final = Step(bpf.RETURN, bpf.EVERYTHING)
_DROP: Final = Step(bpf.RETURN, 0)


class Group(enum.Enum):
    """Who is muted together: their addresses may be as many as there are datagrams, or one."""

    STRANGERS = "strangers"
    TUNNEL = "tunnel"


Muted = IPAddress | Group


class Mutes:
    """Who is muted, and until when; whoever calls says what time it is."""

    def __init__(self) -> None:
        self._until: dict[Muted, float] = {}
        # Of those that were muted lately: for how long, and until when.
        self._before: dict[Muted, tuple[float, float]] = {}

    @property
    def due(self) -> float | None:
        """When the next one is read again; None when nobody is muted."""
        return min(self._until.values(), default=None)

    @property
    def muted(self) -> frozenset[Muted]:
        """Who is not to be read now."""
        return frozenset(self._until)

    def mute(self, sender: Muted, now: float) -> bool:
        """Read *sender* no more for a while; tell whether that is new."""
        if sender in self._until:
            return False
        lasting, until = self._before.get(sender, (0.0, now))
        is_again = lasting and now < until + CALM
        lasting = min(lasting * 2, LAST) if is_again else FIRST
        self._until[sender] = now + lasting
        self._before[sender] = lasting, now + lasting
        return True

    def expire(self, now: float) -> bool:
        """Read again who has been muted long enough; tell whether there was one."""
        over = [sender for sender, until in self._until.items() if until <= now]
        for sender in over:
            del self._until[sender]
        if over:
            self._before = {
                sender: before for sender, before in self._before.items() if now < before[1] + CALM
            }
        return bool(over)


def program(size: int, muted: Collection[Muted], known: Collection[IPAddress]) -> bpf.Program:
    """Return the filter of a UDP socket of one family, whose addresses have *size* bytes.

    Where strangers are muted, only *known* addresses pass, MOST of them.
    """
    addresses = [one.packed for one in muted if not isinstance(one, Group)]
    dropped = [one for one in addresses if len(one) == size][:MOST]
    if Group.STRANGERS not in muted:
        return bpf.assemble([*_each(dropped, _DROP), _KEEP])
    kept = [one.packed for one in known if len(one.packed) == size and one.packed not in dropped]
    return bpf.assemble([*_each(kept[:MOST], _KEEP), _DROP])


def tunnel_program(muted: Collection[Muted]) -> bpf.Program:
    """Return the filter of a tunnel's socket, which drops all or nothing."""
    return bpf.DROP_ALL if Group.TUNNEL in muted else bpf.assemble([_KEEP])


def _each(addresses: Collection[bytes], verdict: Step) -> Iterator[Step | str]:
    for address in addresses:
        for at in range(0, len(address), _WORD):
            word = int.from_bytes(address[at : at + _WORD], "big")
            yield Step(bpf.LOAD_WORD, _NETWORK_HEADER + _SOURCE[len(address)] + at)
            yield Step(bpf.IF_EQUAL, word, "", "next")
        yield verdict
        yield "next"
