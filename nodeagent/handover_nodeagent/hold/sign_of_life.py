"""Asks a guest whose packets are held whether it takes them, as long as there are any to take.

The answers wait in a socket of their own until the next question, or the switch: none of them
wakes the loop.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Final

from handover_nodeagent.hold.asked import Asked
from handover_nodeagent.hold.recorder import HoldRecorder
from handover_nodeagent.sniff import capture, frames, packet_filter, ring_blocks, verdict
from handover_nodeagent.sniff.capture import Capture
from handover_nodeagent.sniff.listen_spec import ListenSpec
from handover_nodeagent.sniff.verdict import Accepted

INTERVAL: Final = 0.005
"""Seconds between two questions: what comes in such a time may come twice."""
OVERTAKEN_NS: Final = 2_000_000
"""A packet whose time is that much earlier may lie behind a question, all the same: a processor
that had begun with it was taken away in between."""
BUDGET: Final = 32
"""Answers that are read in one go."""
_NO_OFFLOAD: Final = bytes(ring_blocks.VIRTIO_SIZE)


class SignOfLife:
    """The questions to one guest, from its making on until ``close``."""

    def __init__(
        self, spec: ListenSpec, recorder: HoldRecorder, interval: Callable[[], float]
    ) -> None:
        """Ask by *recorder*'s socket, as often as *interval* says, in seconds."""
        self._recorder = recorder
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._asked = Asked()
        # One address is enough: all wait in the same queue. Of another one an answer would be to
        # somebody else; in IPv6 the kernel itself asks in the name that we use.
        first = sorted(spec.addresses, key=lambda address: address.version)[:1]
        spec = dataclasses.replace(spec, addresses=tuple(first))
        questions = spec.compose()
        self._question = next(iter(questions.all), None)
        self._expected = spec.expectation(questions)
        self._capture: Capture | None = None
        self._seen = (0, 0)
        self._is_owing = False
        """What came last may lie behind the last question: one more is due."""
        self._timer: asyncio.TimerHandle | None = None
        if self._question is None:
            return
        try:
            program = packet_filter.compile_filter(self._expected)
            self._capture = Capture.open(spec.link.index, program)
        except capture.CannotListenError:
            return
        self._timer = self._loop.call_later(INTERVAL, self._tick)

    def taken_until(self) -> int:
        """Return until when the guest has surely taken all, in realtime ns; 0: nobody knows."""
        self._read()
        return max(0, self._asked.taken_until_ns - OVERTAKEN_NS)

    @property
    def has_answered(self) -> bool:
        """Tell whether the guest answers at all."""
        return self._asked.taken_until_ns > 0

    @property
    def waiting_ns(self) -> int:
        """When the oldest question without an answer was asked, in realtime ns; 0: all have one."""
        return self._asked.waiting_ns

    def close(self) -> None:
        """Ask no more; again, it changes nothing."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._capture:
            self._capture.close()
            self._capture = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval(), self._tick)
        self._read()
        newest, now_ns = self._recorder.newest(), time.time_ns()
        has_come = newest != self._seen
        # Nothing has come that could be lost.
        if self._question is None or not (has_come or self._is_owing):
            return
        if not self._asked.may_ask(now_ns):
            return
        self._seen, self._is_owing = newest, has_come
        # Before it goes out: what comes in between may be behind it.
        self._asked.ask(now_ns)
        if self._recorder.send(_NO_OFFLOAD, self._question):
            self._asked.take_back()

    def _read(self) -> None:
        if self._capture is None:
            return
        for _ in range(BUDGET):
            octets = self._capture.read()
            if octets is None:
                return
            frame = frames.parse(octets)
            judged = verdict.judge(self._expected, frame) if frame else None
            if isinstance(judged, Accepted) and judged.is_answer:
                self._asked.answer()
