"""Reads the sockets of the direct path on the loop: a bounded batch a turn, judged at once.

Nothing of a datagram outlives its turn but what the trust has accepted. Who floods is muted in the
kernel; a port that is taken is tried again, and until then the reason can be told.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from handover_nodeagent import faults, metrics
from handover_nodeagent.kernel import scheduling
from handover_nodeagent.peers import messages, mutes
from handover_nodeagent.peers.relations import Relation, Relations
from handover_nodeagent.peers.sink import Done
from handover_nodeagent.peers.sockets import Datagram, Place, Refusal, Socket
from handover_nodeagent.peers.statements import Destination
from handover_nodeagent.peers.trust import Accepted, Refused, Source, Trust
from handover_nodeagent.retry.timers import Retry

BATCH: Final = 32
"""Datagrams that are read in one turn of the loop: a third of a millisecond, after which a guest
that announces itself has its turn."""

_SENT: Final = metrics.SENT_MESSAGES.labels("sent")
_FAILED: Final = metrics.SENT_MESSAGES.labels("failed")

Acted = Mapping[Relation, Done | None]
"""Upon what was acted before it was judged, and what came of it."""
Act = Callable[[Datagram], Acted]
Accept = Callable[[Accepted, Datagram, Acted], None]


class Reader:
    """The sockets of this agent; ``refusals`` says which of them cannot be had, and why."""

    def __init__(
        self,
        relations: Relations,
        trust: Trust,
        act: Act,
        accept: Accept,
        opened: Callable[[], None],
    ) -> None:
        """Call *act* with all, *accept* with what was believed.

        *opened* is called when the sockets may be others.
        """
        self._act = act
        self._opened = opened
        self._relations = relations
        self._trust = trust
        self._accept = accept
        self._mutes = mutes.Mutes()
        self._wanted: tuple[Place, ...] = ()
        self._sockets: dict[Place, Socket] = {}
        self._senders: dict[tuple[int, int], Socket] = {}
        self._retry = Retry(self._open)
        self.refusals: Mapping[Place, Refusal] = {}

    @property
    def places(self) -> tuple[Place, ...]:
        """Where this agent is reached, in the order in which that was asked for."""
        return tuple(place for place in self._wanted if place in self._sockets)

    @property
    def due(self) -> float | None:
        """When somebody is to be read again."""
        return self._mutes.due

    def listen(self, places: Collection[Place]) -> None:
        """Have a socket at each of *places* and nowhere else; what is there already stays."""
        self._wanted = tuple(places)
        for place in self._sockets.keys() - set(places):
            one = self._sockets.pop(place)
            asyncio.get_running_loop().remove_reader(one.fileno())
            one.close()
        self._open()

    def close(self) -> None:
        """Read nothing more."""
        self.listen(())

    def send(self, octets: bytes, to: Destination, device: int = 0) -> bool:
        """Send from the first place of that family and device; False where it cannot be sent."""
        sender = self._senders.get((to.address.version, device))
        if sender is None:
            return False
        sent = sender.send(octets, to.host, to.port)
        (_SENT if sent else _FAILED).inc()
        return sent

    def take(self, datagram: Datagram) -> None:
        """Judge what has come."""
        acted = self._act(datagram)
        if acted:
            # What is left of it is the proof and the answer, and somebody else's route may wait.
            scheduling.give_way()
        now = asyncio.get_running_loop().time()
        judgment = self._trust.judge(datagram.octets, datagram.source, now)
        if isinstance(judgment, Accepted):
            self._accept(judgment, datagram, acted)
            return
        metrics.REFUSED_MESSAGES.labels(judgment.value).inc()
        if judgment is Refused.FLOOD and self._mutes.mute(self._sender(datagram.source), now):
            self._filter()

    def expire(self, now: float) -> None:
        """Read those again who have been muted for long enough."""
        if self._mutes.expire(now):
            self._filter()

    def _sender(self, source: Source) -> mutes.Muted:
        if source is None:
            return mutes.Group.TUNNEL
        return source if self._relations.has_address(source) else mutes.Group.STRANGERS

    def _open(self) -> None:
        refusals = {}
        for place in self._wanted:
            if place in self._sockets:
                continue
            opened = Socket.open(place)
            if isinstance(opened, Refusal):
                refusals[place] = opened
                continue
            self._sockets[place] = opened
            asyncio.get_running_loop().add_reader(opened.fileno(), self._read, opened)
        self.refusals = refusals
        # Of several the first that was asked for: it is the last one here.
        self._senders = {
            (place.address.version, place.device): self._sockets[place]
            for place in reversed(self.places)
        }
        if self._mutes.muted:
            self._filter()
        if refusals:
            self._retry.failed()
        else:
            self._retry.succeeded()
        self._opened()

    def _read(self, one: Socket) -> None:
        for _ in range(BATCH):
            datagram = one.receive()
            if datagram is None:
                return
            if datagram.received_ns == messages.NEVER:
                # A kernel without timestamps is no reason to hear nothing.
                datagram = datagram._replace(received_ns=time.time_ns())
            try:
                self.take(datagram)
            except Exception as error:  # noqa: BLE001  the next datagram is another migration's
                faults.note("message", error)

    def _filter(self) -> None:
        # Peers first: where not all fit, the nodes that are none have the API.
        known = dict.fromkeys((*self._relations.peer_addresses, *self._relations.addresses))
        muted = self._mutes.muted
        for place, one in self._sockets.items():
            size = len(place.address.packed)
            is_tunnels = place.device != 0
            program = mutes.tunnel_program(muted) if is_tunnels else None
            one.filter(program or mutes.program(size, muted, known))
