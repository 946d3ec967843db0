"""The listeners of this node: one per endpoint that listens, opened, updated and closed.

A listener outlives the episodes of its endpoint's machine (Target, then Asking); what it hears
carries the number of the episode that its spec names.
"""

import asyncio
from typing import Final, Protocol

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Signal
from handover_nodeagent import faults, metrics
from handover_nodeagent.retry.timers import Retry
from handover_nodeagent.sniff import capture
from handover_nodeagent.sniff.listen_spec import ListenSpec
from handover_nodeagent.sniff.listener import Listener
from handover_nodeagent.sniff.probe import ProbeSeries
from handover_nodeagent.sniff.verdict import Accepted, Reason

UNSENT_PATIENCE: Final = 1.0
"""Seconds until a guest is asked again whom no probe could be sent: a link that is down, say."""

# Found once: with twenty guests at one instant the next one's route waits for the count.
_ANNOUNCED: Final = {signal: metrics.ANNOUNCEMENTS.labels(signal) for signal in Signal}


class EventSink(Protocol):
    """Who wants to know; called synchronously on the loop."""

    def heard(self, key: ObjectKey, episode: int, accepted: Accepted, received_at: int) -> None:
        """Take an announcement, received by the kernel at *received_at*, in realtime ns."""

    def unaskable(self, key: ObjectKey, episode: int) -> None:
        """Know that the guest cannot be asked: its MAC is unknown, or nobody may listen here."""

    def listening_changed(self, key: ObjectKey) -> None:
        """Know that an endpoint's listener was lost or came back."""


class EndpointListener:
    """One endpoint's listener, or the attempts to open it; the sink of that listener."""

    def __init__(self, key: ObjectKey, spec: ListenSpec, sink: EventSink) -> None:
        """Open at once."""
        self.trouble = ""
        self.spec = spec
        self._key = key
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._questions = spec.compose()
        self._listener: Listener | None = None
        self._retry = Retry(self._open)
        self._asking = False
        self._open()

    @property
    def is_open(self) -> bool:
        """Tell whether announcements are heard now."""
        return self._listener is not None and not self.trouble

    def update(self, spec: ListenSpec) -> None:
        """Listen for something else; another episode starts a probe series of its own."""
        before, self.spec = self.spec, spec
        if spec.needs_new_socket(before):
            self._reopen()
            return
        # An asking ends with its episode, whatever is still unanswered.
        if before.episode != spec.episode:
            self._asking = False
        if self._listener is None:
            return
        # The filter before the probes: an answer that comes at once would not pass the old one.
        if before.parties != spec.parties:
            self._questions = spec.compose()
            self._listener.expect(spec.expectation(self._questions))
            self._resume()
        elif before.armed != spec.armed:
            self._listener.expect(spec.expectation(self._questions))
        if before.episode != spec.episode:
            self._listener.probe(ProbeSeries(self._questions))
        elif before.interval != spec.interval and not self._asking:
            self.start_probes()

    def start_probes(self) -> None:
        """Start the fast series afresh."""
        if self._listener:
            series = self._listener.series.start(self.spec.interval, self._loop.time())
            self._listener.probe(series)

    def renew_probes(self) -> None:
        """Start the fast series afresh because of a frame: not with each one of a flood."""
        if self._listener:
            series = self._listener.series.renew(self.spec.interval, self._loop.time())
            self._listener.probe(series)

    def silence_in(self, patience: float) -> float:
        """Return in how many seconds the guest has been silent for *patience*; 0.0 when it has.

        What never left could not be answered: it is asked once more, and given its time. But a
        link that is up and has no carrier takes nothing because nobody is at its other end.
        """
        link = self.spec.link
        series = self._listener.series if self._listener else None
        if series is None or series.first_asked_at is None or not series.has_asked:
            # Nobody is at the other end of the tap: its guest has ended.
            if link.up and not link.carrier:
                return 0.0
            self.ask()
            return UNSENT_PATIENCE
        return max(0.0, series.first_asked_at + patience - self._loop.time())

    @property
    def was_asked(self) -> bool:
        """Tell whether a probe has left in this episode."""
        return self._listener is not None and self._listener.series.has_asked

    def ask(self) -> None:
        """Ask three times, now; say so where that cannot be."""
        self._asking = True
        # A guest behind a link that is down has to wait for it: it is neither silent nor unaskable.
        is_barred = bool(self.trouble) and self.spec.link.up
        if is_barred or not self._questions:
            self._loop.call_soon(self._sink.unaskable, self._key, self.spec.episode)
        elif self._listener:
            series = self._listener.series.ask(self._loop.time())
            self._listener.probe(series)

    def correct(self) -> None:
        """Tell the guest where its gateway is now."""
        if self._listener:
            self._listener.correct()

    def close(self) -> None:
        """Hear nothing more."""
        self._retry.cancel()
        if self._listener:
            self._listener.stop()
            self._listener = None

    def heard(self, accepted: Accepted, received_at: int) -> None:
        """Pass on what the listener heard."""
        listener = self._listener
        # Counted afterwards: the route is what everybody waits for.
        self._sink.heard(self._key, self.spec.episode, accepted, received_at)
        if listener and listener.asked_at is not None and accepted.is_answer:
            metrics.PROBE_TO_ANSWER.observe(self._loop.time() - listener.asked_at)
        _ANNOUNCED[accepted.signal].inc()

    def rejected(self, reason: Reason) -> None:
        """Count what proved nothing."""
        metrics.REJECTED.labels(reason).inc()

    def lost(self, trouble: str) -> None:
        """Try again, ever more patiently, until the interface is back."""
        self._fail(trouble)

    def _open(self) -> None:
        self._questions = self.spec.compose()
        try:
            self._listener = Listener(
                self.spec.link.index,
                self.spec.expectation(self._questions),
                ProbeSeries(self._questions),
                self,
            )
        except capture.CannotListenError as error:
            self._fail(str(error))
            return
        except Exception as error:  # noqa: BLE001  the root of a timer that must not be the last
            faults.note("listen", error, endpoint=str(self._key))
            self._fail(f"an error of the agent's own: {faults.describe(error)}")
            return
        was_lost, self.trouble = bool(self.trouble), ""
        self._retry.succeeded()
        if was_lost:
            self._resume()
            self._sink.listening_changed(self._key)

    def _reopen(self) -> None:
        self.close()
        # However brief: what opens after a trouble takes up the asking, and is told of.
        self.trouble = self.trouble or "the interface has changed"
        self._retry.succeeded()
        self._open()

    def _resume(self) -> None:
        """Go on where the last listener or its questions ended."""
        if self._listener is None:
            return
        self._listener.probe(ProbeSeries(self._questions))
        if self._asking:
            self.ask()
        else:
            self.start_probes()

    def _fail(self, trouble: str) -> None:
        self.close()
        is_news = trouble != self.trouble
        self.trouble = trouble
        self._retry.failed()
        if is_news:
            # Never from inside the constructor or a call of the sink's own.
            self._loop.call_soon(self._sink.listening_changed, self._key)


def send_corrections(spec: ListenSpec) -> bool:
    """Tell a guest where its gateway is now, where nobody listens; False when that fails."""
    return capture.transmit(spec.link.index, spec.compose().corrections)
