"""One open interface on the event loop: capture, judge, probe, and bound a flood.

From frame to ``Sink.heard`` there is no task and no await: the callback of the descriptor reads,
judges and calls. What a flood costs is bounded: so many frames per wake-up and, when more come
than any guest has reason to send, a while in which the kernel lets through nothing but a RARP.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Final, Protocol

from handover_nodeagent.sniff import capture, frames, packet_filter, verdict
from handover_nodeagent.sniff.flood import Arrivals
from handover_nodeagent.sniff.probe import ProbeSeries
from handover_nodeagent.sniff.verdict import Accepted, Expectation, Reason, Rejected

BUDGET: Final = 16
"""Frames per wake-up; then the loop's other descriptors have their turn."""
FLOOD_PAUSE: Final = 0.1
"""How long, in seconds, a flood lets nothing through but a RARP."""
CLOSE_AFTER: Final = 0.1
"""Where twenty guests announce at once, all twenty routes come before the first close."""


class Sink(Protocol):
    """Where a listener reports; called synchronously on the loop."""

    def heard(self, accepted: Accepted, received_at: int) -> None:
        """Take an announcement that the kernel received at *received_at*, in realtime ns.

        ``accepted.is_answer`` says here: to a probe that the current series has sent.
        ``accepted.mac`` is news where none was known: compose new questions then.
        """

    def rejected(self, reason: Reason) -> None:
        """Count a frame that came through the filter and changed nothing."""

    def lost(self, trouble: str) -> None:
        """The interface is down or gone: a link event or a back-off should bring a new one."""


class Listener:
    """Listens from its making on, until ``stop``.

    ``expected`` and ``series`` are to be read; ``expect`` and ``probe`` replace them.
    ``asked_at`` is when the latest probe left, by the loop's clock.
    """

    def __init__(
        self, ifindex: int, expected: Expectation, series: ProbeSeries, sink: Sink
    ) -> None:
        """Listen on the running loop; raise CannotListenError when that cannot be."""
        self._loop = asyncio.get_running_loop()
        self.expected = expected
        self._series = series
        self._drained_at: float | None = None
        self._sink = sink
        self._capture = capture.Capture.open(ifindex, packet_filter.compile_filter(expected))
        self.asked_at: float | None = None
        self._stopped = False
        self._pause: asyncio.TimerHandle | None = None
        self._reported = ""
        self._arrivals = Arrivals(self._loop.time())
        self._loop.add_reader(self._capture.fileno(), self._read)
        # Not at once: the sink is called by the loop alone, never by the constructor.
        self._probing: asyncio.Handle = self._loop.call_soon(self._ask)

    @property
    def series(self) -> ProbeSeries:
        """The series as it is by now."""
        if self._drained_at is not None:
            self._series = self._series.drained(self._drained_at)
            self._drained_at = None
        return self._series

    @series.setter
    def series(self, series: ProbeSeries) -> None:
        self._series, self._drained_at = series, None

    def expect(self, expected: Expectation) -> None:
        """Judge by *expected* from now on: another MAC, other addresses, armed or not."""
        self.expected = expected
        # A pause ends by compiling what is expected then.
        if not self._stopped and not self._pause:
            self._capture.filter(packet_filter.compile_filter(expected))

    def probe(self, series: ProbeSeries) -> None:
        """Go on with *series*, and send at once what is due of it.

        A trigger: ``listener.probe(listener.series.start(interval, loop.time()))``; an episode:
        the same with a new ``ProbeSeries(questions)``.
        """
        self.series = series
        if not self._stopped:
            self._ask()

    def correct(self) -> None:
        """Tell the guest where its gateway is now: once, after the routes went in.

        A stopped listener tells nothing: ``capture.transmit`` does it without one.
        """
        self._send(self.series.questions.corrections)

    def stop(self) -> None:
        """Hear and send nothing more, at once; the socket is closed later, off the loop.

        May be called from inside the sink; again, it changes nothing.
        """
        if self._stopped:
            return
        self._stopped = True
        # Off the loop before the descriptor is given away: its number may be another socket's soon.
        self._loop.remove_reader(self._capture.fileno())
        self._probing.cancel()
        if self._pause:
            self._pause.cancel()
        self._loop.call_later(CLOSE_AFTER, capture.close_later, self._capture.detach())

    def _read(self) -> None:
        for _ in range(BUDGET):
            octets = self._capture.read()
            if octets is None:
                break
            is_proof = self._judge(octets)
            if self._stopped:
                return
            self._arrivals.count()
            if is_proof:
                # What else this guest has to say can wait until the others' routes are in.
                break
        self._report_trouble()
        if self._arrivals.are_many and not self._stopped:
            self._limit_flood()

    def _judge(self, octets: bytes) -> bool:
        """Act on what a frame proves; tell whether it proves that the guest is here."""
        frame = frames.parse(octets)
        if frame is None:
            self._sink.rejected(Reason.IRRELEVANT)
            return False
        judgment = verdict.judge(self.expected, frame)
        if isinstance(judgment, Accepted):
            self._accept(judgment)
        elif isinstance(judgment, Rejected):
            self._sink.rejected(judgment.reason)
        else:
            self.expected = dataclasses.replace(self.expected, advertised=True)
            self.probe(self.series.confirm(self._loop.time()))
        return isinstance(judgment, Accepted)

    def _accept(self, accepted: Accepted) -> None:
        if accepted.is_answer:
            accepted = accepted._replace(is_answer=self.series.has_asked)
        # Whatever it proves, the guest runs and takes out of its queue what we have asked. What
        # follows from that is found when somebody asks: the route goes first.
        self._drained_at = self._loop.time()
        before = self.expected
        self._sink.heard(accepted, self._capture.received_at())
        # The sink has set another expectation meanwhile: that one counts.
        if self.expected is not before:
            return
        if before.mac is None:
            self.expect(before.knowing(accepted.source))
        elif before.advertised and accepted.is_answer:
            self.expected = dataclasses.replace(before, advertised=False)

    def _ask(self) -> None:
        self._probing.cancel()
        now = self._loop.time()
        self.series, due = self.series.take(now)
        self.asked_at = now if due else self.asked_at
        self.series = self.series.unsent(len(due) - self._send(due))
        if self.series.due is not None and not self._stopped:
            self._probing = self._loop.call_at(self.series.due, self._ask)

    def _send(self, octets: Sequence[bytes]) -> int:
        """Return how many were sent."""
        if self._stopped:
            return 0
        sent = sum(map(self._capture.send, octets))
        self._report_trouble()
        return sent

    def _report_trouble(self) -> None:
        trouble = self._capture.trouble
        if trouble and trouble != self._reported:
            self._sink.lost(trouble)
        self._reported = trouble

    def _limit_flood(self) -> None:
        """Let only a RARP through for a while or, when that is what floods us, nothing."""
        is_flood = self._arrivals.end_window(self._loop.time())
        if is_flood and self._pause:
            # What is queued first is read afterwards: a true RARP is late, not lost.
            self._loop.remove_reader(self._capture.fileno())
        elif is_flood:
            self._capture.filter(packet_filter.compile_rarp_only(self.expected))
            self._pause = self._loop.call_later(FLOOD_PAUSE, self._listen_again)

    def _listen_again(self) -> None:
        self._pause = None
        self._capture.filter(packet_filter.compile_filter(self.expected))
        # Where it was never removed this changes nothing.
        self._loop.add_reader(self._capture.fileno(), self._read)
