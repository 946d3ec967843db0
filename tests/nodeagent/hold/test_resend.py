"""What is held goes on once, in order and paced, by a sender that may refuse or be full."""

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import pytest
from tests.nodeagent.hold.conftest import Recorders
from tests.nodeagent.hold.port import Port, mapped, number_of, numbers, until
from tests.nodeagent.sniff.conftest import Wire

from handover_api.workloadendpoint import HoldReason
from handover_nodeagent.hold import bounds, pacing, resend, segments
from handover_nodeagent.hold.recorder import HoldRecorder, Position
from handover_nodeagent.hold.resend import Counts, Resend, Span
from handover_nodeagent.hold.segments import Fragment, Unsendable
from handover_nodeagent.hold.senders import Buffers, PortSender
from handover_nodeagent.sniff.ring_blocks import Frame

pytestmark = pytest.mark.root

ALL: Final = Span(0, 0)
LARGE: Final = 1400


class Sender:
    """Takes what is sent, and says of it what it is told to."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.times: list[float] = []
        self.calls = 0
        self.says: Callable[[int], int] = lambda _: 0
        self.parts: Callable[[int], int] = lambda _: 1
        self.is_closed = False

    def split(self, frame: Frame) -> Sequence[Buffers] | Unsendable:
        parts = self.parts(number_of(frame.octets))
        return [(frame.octets,)] * parts if parts else Unsendable("it is told to")

    def send(self, buffers: Buffers) -> int:
        assert not self.is_closed
        self.calls += 1
        number = number_of(buffers[0])
        said = self.says(number)
        if not said:
            self.taken.append(number)
            self.times.append(asyncio.get_running_loop().time())
        return said

    def close(self) -> None:
        self.is_closed = True


class Ended:
    """What a resend told at its end, which comes once."""

    def __init__(self) -> None:
        self.counts: Counts | None = None

    @property
    def is_over(self) -> bool:
        return self.counts is not None

    def __call__(self, counts: Counts) -> None:
        assert not self.is_over
        self.counts = counts


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.fixture
def ended() -> Ended:
    return Ended()


Begin = Callable[..., Resend]


@pytest.fixture
def begin(recorder: HoldRecorder, sender: Sender, ended: Ended) -> Iterator[Begin]:
    made: list[Resend] = []

    def start(span: Span = ALL) -> Resend:
        made.append(Resend(recorder, sender, span, ended))
        return made[-1]

    yield start
    for it in made:
        # What it still has would keep the ring's memory.
        ended.counts = None
        it.end()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be waited for that may still come to the port."""
    monkeypatch.setattr(pacing, "LINGER", 0.02)


def times_of(recorder: HoldRecorder) -> list[int]:
    return [held.frame.received_ns for held in recorder.frames(Position())]


@pytest.mark.usefixtures("brief")
async def test_all_of_the_span_goes_once_and_the_oldest_first(
    recorder: HoldRecorder, begin: Begin, sender: Sender, ended: Ended, port: Port
) -> None:
    port.put(range(300))
    received = times_of(recorder)
    begin(Span(received[10], 0))
    await until(lambda: ended.counts)
    assert sender.taken == list(range(10, 300))
    assert ended.counts == Counts(held=290, resent=290)
    assert sender.is_closed


@pytest.mark.usefixtures("brief")
async def test_nothing_is_an_end_soon(begin: Begin, sender: Sender, ended: Ended) -> None:
    assert begin().counts == Counts()
    assert not ended.is_over
    await until(lambda: ended.counts)
    assert ended.counts == Counts()
    assert sender.is_closed


async def test_what_comes_to_the_port_a_little_later_goes_too(
    begin: Begin, sender: Sender, ended: Ended, port: Port
) -> None:
    port.put(range(10))
    it = begin()
    for number in range(10, 40, 10):
        await until(lambda number=number: len(sender.taken) == number)  # type: ignore[misc]
        port.put(range(number, number + 10))
    assert not ended.is_over
    began = it._ends_at - pacing.LINGER
    await until(lambda: ended.counts)
    assert asyncio.get_running_loop().time() - began >= pacing.LINGER
    assert sender.taken == list(range(40))
    assert ended.counts == Counts(held=40, resent=40)


async def test_what_has_gone_is_given_back_and_nothing_before(
    recorder: HoldRecorder, begin: Begin, sender: Sender, port: Port
) -> None:
    port.put(range(300), LARGE)
    begin()
    await until(lambda: len(sender.taken) >= pacing.FIRST)
    first = numbers(recorder)[0]
    assert 0 < first <= len(sender.taken)
    await until(lambda: len(sender.taken) == 300)
    assert sender.taken == list(range(300))


async def test_only_so_many_go_at_once_and_the_others_are_paced(
    begin: Begin, sender: Sender, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "TURN", 0.02)
    port.put(range(600))
    begin()
    await until(lambda: len(sender.taken) == 600)
    assert sender.taken == list(range(600))
    per_turn = pacing.LEAST_RATE * pacing.TURN
    # Later on a busy machine, but never sooner.
    for place, at in enumerate(sender.times):
        turns = -(-(place + 1 - pacing.FIRST) // per_turn)
        assert at - sender.times[0] >= 0.9 * pacing.TURN * turns
    assert sender.times[pacing.FIRST - 1] < sender.times[pacing.FIRST]


async def test_no_credit_is_saved_beyond_what_may_go_at_once(
    begin: Begin, sender: Sender, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "TURN", 0.1)
    monkeypatch.setattr(pacing, "LINGER", 5.0)
    begin()
    # It has looked in vain, and would have had a turn's worth more by now.
    await asyncio.sleep(3 * pacing.TURN)
    port.put(range(600))
    await until(lambda: len(sender.taken) > pacing.FIRST)
    assert sender.times[pacing.FIRST] - sender.times[0] >= 0.9 * pacing.TURN


def per_turn(sender: Sender) -> Callable[[int], Awaitable[list[int]]]:
    """Return what waits for so many packets, and tells how many each turn of the loop had."""
    counts = [0]

    def count(_: int) -> int:
        counts[-1] += 1
        return 0

    sender.says = count

    async def wait(packets: int) -> list[int]:
        while len(sender.taken) < packets:
            counts.append(0)
            await asyncio.sleep(0)
        return [each for each in counts if each]

    return wait


async def test_others_have_their_turn_within_what_goes_at_once(
    begin: Begin, sender: Sender, port: Port
) -> None:
    port.put(range(pacing.FIRST))
    wait = per_turn(sender)
    begin()
    full = [resend.PER_TURN] * (pacing.FIRST // resend.PER_TURN)
    assert await wait(pacing.FIRST) == full


def in_fragments(monkeypatch: pytest.MonkeyPatch, last: Mapping[bytes, int]) -> None:
    """Let frames 61 to 79 be fragments of packets by turns, each until its *last* one."""

    def fragment(frame: bytes) -> Fragment | None:
        number = number_of(frame)
        packet = sorted(last)[number % len(last)]
        is_one = 60 < number < 80 and number <= last[packet]
        return Fragment(packet, number < last[packet]) if is_one else None

    monkeypatch.setattr(segments, "fragment", fragment)


async def test_a_turn_ends_with_whole_packets_though_those_of_two_are_mixed(
    begin: Begin, sender: Sender, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 64 of others between two fragments, and a kernel gives their packet up."""
    in_fragments(monkeypatch, {b"a": 72, b"b": 65})
    port.put(range(200))
    wait = per_turn(sender)
    begin()
    assert (await wait(200))[:2] == [73, resend.PER_TURN]


async def test_whose_last_fragment_does_not_come_holds_up_nobody_for_long(
    begin: Begin, sender: Sender, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_fragments(monkeypatch, {b"a": 9999, b"b": 62})
    port.put(range(250))
    wait = per_turn(sender)
    begin()
    turns = await wait(250)
    assert turns[:2] == [resend.PER_TURN + resend.LONGEST, resend.PER_TURN]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
@pytest.mark.usefixtures("brief")
async def test_a_queue_that_is_full_costs_no_packet_and_is_asked_only_now_and_then(
    begin: Begin,
    sender: Sender,
    ended: Ended,
    port: Port,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(pacing, "TURN", 0.02)
    port.put(range(100))
    is_full = True
    sender.says = lambda one: number if one == 50 and is_full else 0
    begin()
    began = asyncio.get_running_loop().time()
    await until(lambda: sender.calls >= 55)
    # 50 that went, and five attempts.
    assert asyncio.get_running_loop().time() - began >= 3 * pacing.TURN
    assert sender.taken == list(range(50))
    is_full = False
    await until(lambda: ended.counts)
    assert sender.taken == list(range(100))
    assert ended.counts == Counts(held=100, resent=100)


async def test_a_queue_that_stays_full_keeps_nothing_for_good(
    begin: Begin,
    sender: Sender,
    ended: Ended,
    port: Port,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacing, "LAST", 0.1)
    port.put(range(10))
    sender.says = lambda number: errno.ENOBUFS if number == 3 else 0
    begin()
    await until(lambda: ended.counts)
    assert sender.taken == [0, 1, 2]
    assert ended.counts == Counts(held=10, resent=3, dropped=7, reason=HoldReason.TOO_MUCH)


@pytest.mark.usefixtures("brief")
async def test_what_is_refused_is_dropped_and_the_rest_goes(
    begin: Begin, sender: Sender, ended: Ended, port: Port
) -> None:
    port.put(range(10))
    sender.says = lambda number: errno.EPERM if number == 3 else 0
    sender.parts = lambda number: {7: 0, 3: 3, 4: 3}.get(number, 1)
    begin()
    await until(lambda: ended.counts)
    assert sender.taken == [0, 1, 2, 4, 4, 4, 5, 6, 8, 9]
    assert ended.counts == Counts(held=10, resent=8, dropped=2, reason=HoldReason.REFUSED)


@pytest.mark.usefixtures("brief")
async def test_a_frame_of_which_a_part_is_refused_is_dropped(
    begin: Begin, sender: Sender, ended: Ended, port: Port
) -> None:
    port.put(range(3))
    sender.parts = lambda _: 3
    sender.says = lambda number: errno.EPERM if (number, sender.calls) == (1, 5) else 0
    begin()
    await until(lambda: ended.counts)
    assert sender.taken == [0, 0, 0, 1, 1, 2, 2, 2]
    assert ended.counts == Counts(held=3, resent=2, dropped=1, reason=HoldReason.REFUSED)


@pytest.mark.usefixtures("brief")
async def test_what_the_guest_may_have_had_counts_as_doubled(
    recorder: HoldRecorder, begin: Begin, sender: Sender, ended: Ended, port: Port
) -> None:
    port.put(range(10))
    received = times_of(recorder)
    # Until that very time; what was refused is not there twice.
    sender.says = lambda number: errno.EPERM if number == 2 else 0
    begin(Span(received[1], received[4]))
    await until(lambda: ended.counts)
    expected = Counts(held=9, resent=8, doubled=3, dropped=1, reason=HoldReason.REFUSED)
    assert ended.counts == expected


@pytest.mark.usefixtures("brief")
async def test_what_went_before_past_a_bound_counts_as_dropped(
    recorder: HoldRecorder, begin: Begin, ended: Ended, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    port.put(range(5))
    received = times_of(recorder)
    monkeypatch.setattr(bounds, "LONGEST_NS", 10_000_000)
    await until(lambda: recorder.dropped_since(0) == 5)
    monkeypatch.undo()
    port.put(range(5, 8))
    begin(Span(received[0], 0))
    await until(lambda: ended.counts)
    assert ended.counts == Counts(held=8, resent=3, dropped=5, reason=HoldReason.TOO_MUCH)


@pytest.mark.usefixtures("brief")
async def test_what_the_ring_has_no_room_for_meanwhile_counts_as_dropped(
    begin: Begin, sender: Sender, ended: Ended, port: Port
) -> None:
    port.put(range(600), LARGE)
    begin()
    await until(lambda: ended.counts)
    kept = len(sender.taken)
    assert sender.taken == list(range(kept))
    assert ended.counts == Counts(600, kept, 0, 600 - kept, HoldReason.TOO_MUCH)
    assert kept < 600


class TestEnd:
    """It may be ended at any moment."""

    async def test_what_is_left_counts_as_dropped(
        self, begin: Begin, sender: Sender, ended: Ended, port: Port
    ) -> None:
        port.put(range(100))
        it = begin()
        port.put(range(100, 110))
        it.end()
        assert sender.taken == list(range(resend.PER_TURN))
        gone, left = resend.PER_TURN, 110 - resend.PER_TURN
        assert ended.counts == Counts(110, gone, 0, left, HoldReason.TOO_MUCH)
        assert sender.is_closed
        it.end()
        await asyncio.sleep(2 * pacing.TURN)
        assert len(sender.taken) == resend.PER_TURN

    async def test_a_frame_that_has_gone_in_part_is_one_that_is_left(
        self, begin: Begin, sender: Sender, ended: Ended, port: Port
    ) -> None:
        port.put(range(3))
        sender.parts = lambda _: 3
        sender.says = lambda _: errno.EAGAIN if sender.calls >= 5 else 0
        begin().end()
        assert sender.taken == [0, 0, 0, 1]
        assert ended.counts == Counts(3, 1, 0, 2, HoldReason.TOO_MUCH)

    async def test_what_is_outside_of_the_span_is_not_left(
        self, recorder: HoldRecorder, begin: Begin, sender: Sender, ended: Ended, port: Port
    ) -> None:
        port.put(range(10))
        received = times_of(recorder)
        sender.says = lambda number: errno.EAGAIN if number == 5 else 0
        begin(Span(received[2], 0, spared=2, until_ns=received[7])).end()
        assert sender.taken == [4]
        assert ended.counts == Counts(4, 1, 0, 3, HoldReason.TOO_MUCH)

    async def test_the_ring_can_be_closed_right_then(
        self, recorder: HoldRecorder, sender: Sender, port: Port
    ) -> None:
        port.put(range(100))
        sender.says = lambda number: errno.EAGAIN if number == 50 else 0
        it = Resend(recorder, sender, ALL, lambda _: recorder.close())
        it.end()
        await until(lambda: mapped() == 0)


# Into the port itself, once a guest runs on.


async def test_what_found_no_room_is_given_to_the_guest_and_the_recorder_goes_on(
    recorders: Recorders, wire: Wire, ended: Ended, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing that comes later is waited for.
    monkeypatch.setattr(pacing, "LINGER", 60)
    taken_ns = 0
    recorder = recorders(4, lambda: taken_ns)
    await until(lambda: recorder.is_holding)
    port.put(range(100))
    received = times_of(recorder)
    with wire.guest_socket() as guest:
        guest.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        guest.bind(("eth", 3))
        guest.settimeout(5)
        span = Span(received[10], 0, spared=50, until_ns=received[89])
        Resend(recorder, PortSender(recorder), span, ended)
        await until(lambda: ended.counts)
        assert [number_of(guest.recv(100)) for _ in range(30)] == list(range(60, 90))
        guest.settimeout(0)
        with pytest.raises(BlockingIOError):
            guest.recv(100)
    # What is behind the span is not lost by that: the recorder holds it as before.
    assert ended.counts == Counts(held=30, resent=30)
    assert numbers(recorder)[-1] == 99
    port.put([100])
    assert numbers(recorder)[-1] == 100
    taken_ns = time.time_ns()
    recorder.look_again()
    await until(lambda: numbers(recorder) == [])
