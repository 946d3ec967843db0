"""Whose packets are held while a migration of theirs is armed, and when they are sent again.

``follow``  A source's port is recorded until its guest is gone.
``resend``  Its redirect is in: what the guest did not take goes the same way.
``leave``   Nothing more is held of it; what is on its way goes on.

A guest that stood still and runs on in its place is given what its port had no room for.

Nothing depends on it: where it cannot be, a migration goes as without.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from handover_api.conditions import EndpointReason
from handover_api.configuration import HoldPackets, Mode, Settings, SourceRedirect
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Hold, HoldReason, RedirectStatus, Role
from handover_nodeagent import metrics
from handover_nodeagent.hold import bounds, packet_filter, senders, sign_of_life, stall
from handover_nodeagent.hold.recorder import HoldRecorder
from handover_nodeagent.hold.resend import Counts, Resend, Span
from handover_nodeagent.hold.senders import PortSender, Sender
from handover_nodeagent.hold.sign_of_life import SignOfLife
from handover_nodeagent.hold.stall import Stall
from handover_nodeagent.network.model import Encapsulated, IPAddress, Redirection, Via
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown

LAG_NS: Final = 20_000_000
"""For how long a packet may wait in the port while its guest, which answers no questions, sends."""
_BUSY: Final = 2
"""Of so many guests each is asked as often as can be; of more they take turns."""
_REASONS: Final = {
    HoldReason.NO_RING: EndpointReason.NO_RING,
    HoldReason.NO_ROOM: EndpointReason.NO_ROOM,
    HoldReason.TOO_MUCH: EndpointReason.TOO_MUCH,
}
_THINNED: Final = (
    f"more came than could be held: frames beyond {packet_filter.LARGEST} octets are left out"
)
_OUTCOMES: Final = ("held", "resent", "doubled", "dropped")

_log: Final = structlog.get_logger()

Readiness = tuple[bool, EndpointReason, str]


class _Port(NamedTuple):
    """What is recorded: in another migration, or at another interface, it begins anew."""

    uid: str | None
    ifindex: int
    addresses: tuple[IPAddress, ...]


@dataclass(slots=True)
class _Recorded:
    """One endpoint's port; no recorder where the node has no room for one more."""

    port: _Port
    recorder: HoldRecorder | None
    sign: SignOfLife | None = None
    stall: Stall = dataclasses.field(default_factory=Stall)
    returned: Resend | None = None
    """What is given to the guest here, once more."""
    is_closed: bool = False

    def close(self) -> None:
        """Hold nothing more; what the guest is being given it gets."""
        self.is_closed = True
        if self.sign:
            self.sign.close()
        if self.recorder and self.returned is None:
            self.recorder.close()

    def end_return(self) -> None:
        """Give nothing more to the guest here."""
        if self.returned:
            self.returned.end()

    @property
    def trouble(self) -> tuple[HoldReason, str] | None:
        """Why nothing is held."""
        if self.recorder is None:
            return HoldReason.NO_ROOM, "64 MiB are held for other guests of this node"
        return self.recorder.trouble


class Holding:
    """The ports of all endpoints that are recorded, and what became of what was held."""

    def __init__(
        self,
        last_frame: Callable[[ObjectKey], LastFrame | Unknown],
        find_mac: Callable[[IPAddress, int], str | None],
        changed: Callable[[ObjectKey], None],
    ) -> None:
        """Ask *find_mac* for a neighbor's; call *changed* when there is something else to tell."""
        self._last_frame = last_frame
        self._find_mac = find_mac
        self._changed = changed
        self._recorded: dict[ObjectKey, _Recorded] = {}
        self._sending: set[Resend] = set()
        # None where it is not known so far; a migration that nobody asks for any more has none.
        self._results: dict[ObjectKey, tuple[str | None, Counts | None]] = {}

    def follow(self, endpoint: Endpoint, settings: Settings) -> None:
        """Record an armed source's port, and no other's; again, it changes nothing."""
        port, known = _port(endpoint, settings), self._recorded.get(endpoint.key)
        if known and known.port == port:
            return
        self.leave(endpoint.key)
        if port:
            self._recorded[endpoint.key] = self._record(endpoint, port, settings)
            self._count_bytes()

    def resend(self, endpoint: Endpoint, settings: Settings) -> None:
        """Send again what the guest did not take, as its redirect goes: once for each migration."""
        known = self._recorded.pop(endpoint.key, None)
        if known is None:
            return
        key, uid, recorder = endpoint.key, known.port.uid, known.recorder
        self._results[key] = uid, None
        trouble = known.trouble
        if recorder is None or trouble or not recorder.is_holding:
            counts = Counts(reason=trouble[0] if trouble else HoldReason.NO_RING)
        elif sender := self._open_sender(endpoint.redirection, settings):
            self._send(key, known, recorder, sender)
            return
        else:
            counts = Counts(reason=HoldReason.NOT_REDIRECTED)
        known.close()
        self._finish(key, uid, counts)

    def leave(self, key: ObjectKey) -> None:
        """Hold nothing more of an endpoint."""
        known = self._recorded.pop(key, None)
        if known:
            known.close()
            self._count_bytes()

    def forget(self, key: ObjectKey) -> None:
        """Know that an endpoint is gone, or another one."""
        self.leave(key)
        self._results.pop(key, None)

    def close(self) -> None:
        """Hold nothing more of anybody, and send nothing more."""
        for key in tuple(self._recorded):
            self.leave(key)
        for resend in tuple(self._sending):
            resend.end()

    def readiness(self, endpoint: Endpoint, settings: Settings) -> Readiness | None:
        """Tell whether packets are held, and why or why not; None where nobody needs it."""
        if not _is_leaving(endpoint):
            return None
        known = self._recorded.get(endpoint.key)
        if known is None:
            return _idle(endpoint, settings)
        if known.trouble:
            reason, text = known.trouble
            return False, _REASONS[reason], text
        if known.recorder and known.recorder.is_holding:
            return True, EndpointReason.HOLDING, _THINNED if known.recorder.is_thinned else ""
        return False, EndpointReason.PENDING, "the ring is still being opened"

    def add_to(self, endpoint: Endpoint, status: RedirectStatus | None) -> RedirectStatus | None:
        """Add what became of held packets to what is told of a redirect."""
        uid, counts = self._results.get(endpoint.key, (None, None))
        current = status.migration_uid if status else endpoint.machine.uid
        if counts is None or uid != current:
            return status
        hold = Hold(**dataclasses.asdict(counts))
        status = status or RedirectStatus(migration_uid=uid)
        return status.model_copy(update={"hold": hold})

    def _record(self, endpoint: Endpoint, port: _Port, settings: Settings) -> _Recorded:
        key, blocks = endpoint.key, bounds.allot(sum(one.blocks for one in self._recorders()))
        recorded = _Recorded(port, None)

        def taken_until() -> int:
            return self._look(key, recorded)

        def changed() -> None:
            self._changed(key)
            self._count_bytes()

        if blocks and endpoint.link:
            recorder = HoldRecorder(port.ifindex, port.addresses, blocks, taken_until, changed)
            recorded.recorder = recorder
            spec = dataclasses.replace(endpoint.listen_spec_on(endpoint.link, settings), armed=True)
            recorded.sign = SignOfLife(spec, recorder, self._interval)
        return recorded

    def _taken_until(self, key: ObjectKey, recorded: _Recorded) -> int:
        """Return until when a guest has taken what went into its port; 0: nobody knows."""
        answered = recorded.sign.taken_until() if recorded.sign else 0
        if answered:
            return answered
        last = self._last_frame(key)
        return last.at_ns - LAG_NS if isinstance(last, LastFrame) else 0

    def _look(self, key: ObjectKey, recorded: _Recorded) -> int:
        """Return what may be given back of what is held, and see whether the guest stood still."""
        before, taken = recorded.stall.since_ns, self._taken_until(key, recorded)
        sign, now_ns = recorded.sign, time.time_ns()
        # Of a guest that never answers nobody can tell whether it stands still.
        if sign is None or not sign.has_answered:
            return taken
        # Nearly always: whoever has answered a moment ago does not.
        if before is None and not 0 < sign.waiting_ns < now_ns - stall.STILL_NS:
            return taken
        last = self._last_frame(key)
        if isinstance(last, Unknown):
            return taken
        ended = recorded.stall.observe(now_ns, taken, sign.waiting_ns, last.at_ns)
        if ended is not None:
            self._give(recorded, Span(ended, 0, stall.QUEUED, now_ns))
        # What it missed is needed until it has been given that.
        return taken if before is None else before

    def _interval(self) -> float:
        """Return the seconds between two questions to a guest, by how many there are."""
        return sign_of_life.INTERVAL * max(1, len(self._recorded) / _BUSY)

    def _send(
        self, key: ObjectKey, known: _Recorded, recorder: HoldRecorder, sender: Sender
    ) -> None:
        known.end_return()
        # Of a guest that was never heard everything counts.
        since = self._taken_until(key, known)
        if known.sign:
            known.sign.close()
        last = self._last_frame(key)
        doubtful = last.at_ns + last.error_ns if isinstance(last, LastFrame) else 0
        sending: list[Resend] = []

        def done(counts: Counts) -> None:
            recorder.close()
            self._sending.difference_update(sending)
            self._finish(key, known.port.uid, counts)

        resend = Resend(recorder, sender, Span(since, doubtful), done)
        sending.append(resend)
        self._sending.add(resend)

    def _give(self, recorded: _Recorded, span: Span) -> None:
        """Give a guest that runs on here what its port had no room for while it stood still."""
        recorder = recorded.recorder
        if recorder is None or recorder.count_since(span.since_ns) <= span.spared:
            return

        def done(counts: Counts) -> None:
            self._sending.difference_update({recorded.returned} - {None})
            recorded.returned = None
            if recorded.is_closed:
                recorder.close()
                self._count_bytes()
            else:
                recorder.look_again()
            _log.info("packets_given", interface=recorded.port.ifindex, packets=counts.resent)

        recorded.returned = Resend(recorder, PortSender(recorder), span, done)
        self._sending.add(recorded.returned)

    def _finish(self, key: ObjectKey, uid: str | None, counts: Counts) -> None:
        for outcome in _OUTCOMES:
            metrics.HOLD.labels(outcome).inc(getattr(counts, outcome))
        _log.info("held_packets", endpoint=str(key), **dataclasses.asdict(counts))
        if self._results.get(key) == (uid, None):
            self._results[key] = uid, counts
        self._count_bytes()
        self._changed(key)

    def _open_sender(self, redirection: Redirection | None, settings: Settings) -> Sender | None:
        if redirection is None:
            return None
        way = redirection.ipv4 or redirection.ipv6
        try:
            if isinstance(way, Encapsulated):
                return senders.TunnelSender(way, settings.redirect_port)
            if isinstance(way, Via):
                mac = self._find_mac(way.gateway, redirection.oif)
                return senders.LinkSender(redirection.oif, mac) if mac else None
        except OSError as error:
            _log.warning("cannot_resend", why=str(error))
        return None

    def _recorders(self) -> set[HoldRecorder]:
        waiting = {one.recorder for one in self._recorded.values() if one.recorder}
        return waiting | {one.recorder for one in self._sending}

    def _count_bytes(self) -> None:
        blocks = sum(one.blocks for one in self._recorders() if one.is_holding)
        metrics.HOLD_BYTES.set(blocks * bounds.BLOCK_SIZE)


def _is_leaving(endpoint: Endpoint) -> bool:
    """Tell whether the guest may leave any moment."""
    machine = endpoint.machine
    is_source = machine.assignment.role is Role.SOURCE and machine.assignment.armed
    return is_source and machine.underlying.redirect is None


def _port(endpoint: Endpoint, settings: Settings) -> _Port | None:
    is_on = (
        settings.mode is Mode.ACTIVE
        and settings.hold_packets is HoldPackets.AUTO
        and settings.source_redirect is not SourceRedirect.OFF
    )
    if endpoint.link is None or not is_on or not _is_leaving(endpoint):
        return None
    return _Port(endpoint.machine.uid, endpoint.link.index, endpoint.admission.allowed)


def _idle(endpoint: Endpoint, settings: Settings) -> Readiness | None:
    """Say why nothing is recorded of a guest that may leave."""
    if settings.mode is not Mode.ACTIVE or endpoint.is_paused or endpoint.link is None:
        return None
    if settings.hold_packets is HoldPackets.OFF:
        return False, EndpointReason.OFF, "holdPackets is off"
    return False, EndpointReason.NOT_REDIRECTABLE, "sourceRedirect is off"
