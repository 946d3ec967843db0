"""Reads the sockets of the direct path on the loop: a bounded batch a turn, judged at once.

Nothing of a datagram outlives its turn but what the trust has accepted. Who floods is muted in the
kernel; a port that is taken is tried again, and until then the reason can be told.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final

from handover_nodeagent import faults, metrics
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import messages, mutes, sockets
from handover_nodeagent.peers.relations import Relations
from handover_nodeagent.peers.sockets import Datagram, Socket
from handover_nodeagent.peers.trust import Accepted, Refused, Source, Trust
from handover_nodeagent.retry.timers import Retry

BATCH: Final = 32
"""Datagrams that are read in one turn of the loop: a third of a millisecond, after which a guest
that announces itself has its turn."""

Accept = Callable[[Accepted, Datagram], None]


class Reader:
    """The sockets of this node's addresses; ``refusals`` says which of them cannot be had, why."""

    def __init__(self, relations: Relations, trust: Trust, accept: Accept) -> None:
        self._relations = relations
        self._trust = trust
        self._accept = accept
        self._mutes = mutes.Mutes()
        self._sockets: list[Socket] = []
        self._wanted: tuple[tuple[IPAddress, ...], int] = ((), 0)
        self._retry = Retry(self._open)
        self.refusals: tuple[sockets.Refusal, ...] = ()

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Where this agent is reached."""
        return tuple(one.address for one in self._sockets)

    @property
    def due(self) -> float | None:
        """When somebody is to be read again."""
        return self._mutes.due

    def listen(self, addresses: Collection[IPAddress], port: int) -> None:
        """Have a socket at each address; what is there already stays."""
        if self._wanted != (tuple(addresses), port):
            self.close()
            self._wanted = tuple(addresses), port
            self._open()

    def close(self) -> None:
        """Read nothing more."""
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            loop.remove_reader(one.fileno())
            one.close()
        self._sockets = []
        self._wanted = (), 0
        self._retry.succeeded()

    def send(self, octets: bytes, address: IPAddress, port: int) -> bool:
        """Send from the first address of that family; False where there is none, or not now."""
        for one in self._sockets:
            if one.address.version == address.version:
                sent = one.send(octets, address, port)
                metrics.SENT_MESSAGES.labels("sent" if sent else "failed").inc()
                return sent
        return False

    def take(self, octets: bytes, source: Source, received_ns: int) -> None:
        """Judge a datagram that has come, by the tunnel where *source* is None."""
        now = asyncio.get_running_loop().time()
        judgment = self._trust.judge(octets, source, now)
        if isinstance(judgment, Accepted):
            self._accept(judgment, Datagram(octets, source, received_ns))
            return
        metrics.REFUSED_MESSAGES.labels(judgment.value).inc()
        # The tunnel's socket has room of its own.
        if judgment is Refused.FLOOD and source is not None:
            sender = source if self._relations.has_address(source) else None
            if self._mutes.mute(sender, now):
                self._filter()

    def expire(self, now: float) -> None:
        """Read those again who have been muted for long enough."""
        if self._mutes.expire(now):
            self._filter()

    def _open(self) -> None:
        addresses, port = self._wanted
        there = set(self.addresses)
        missing = [address for address in addresses if address not in there]
        opened, refusals = sockets.open_all(missing, port)
        loop = asyncio.get_running_loop()
        for one in opened:
            loop.add_reader(one.fileno(), self._read, one)
        self._sockets = sorted(
            [*self._sockets, *opened], key=lambda one: addresses.index(one.address)
        )
        self.refusals = tuple(refusals)
        if self._mutes.muted:
            self._filter()
        if refusals:
            self._retry.failed()
        else:
            self._retry.succeeded()

    def _read(self, one: Socket) -> None:
        for _ in range(BATCH):
            datagram = one.receive()
            if datagram is None:
                return
            received = datagram.received_ns
            # A kernel without timestamps is no reason to hear nothing.
            received = time.time_ns() if received == messages.NEVER else received
            try:
                self.take(datagram.octets, datagram.source, received)
            except Exception as error:  # noqa: BLE001  the next datagram is another migration's
                faults.note("message", error)

    def _filter(self) -> None:
        # Peers first: where not all fit, the nodes that are none have the API.
        known = (*self._relations.peer_addresses, *self._relations.addresses)
        for one in self._sockets:
            size = len(one.address.packed)
            one.filter(mutes.program(size, self._mutes.muted, dict.fromkeys(known)))
