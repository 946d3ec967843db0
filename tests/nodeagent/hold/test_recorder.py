"""What goes into a guest's port is held against a real kernel, and given back in time."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import pytest
from tests.nodeagent.hold.conftest import Recorders
from tests.nodeagent.hold.port import Port, mapped, number_of, numbers, packet, sockets, until
from tests.nodeagent.sniff.conftest import GARP, Wire, run

from handover_api.workloadendpoint import HoldReason
from handover_nodeagent.hold import bounds
from handover_nodeagent.hold.recorder import HoldRecorder, Position
from handover_nodeagent.sniff import capture, ring
from handover_nodeagent.sniff.ring import NoRing

pytestmark = pytest.mark.root

LARGE: Final = 1400
PER_BLOCK: Final = 88
"""Frames of that size in a block, at most."""
FOREVER: Final = 10**20


class Taken:
    """Says until when the guest has taken all, and counts who looks."""

    def __init__(self) -> None:
        self.until_ns = 0
        self.looks = 0
        self.then: Callable[[], None] = lambda: None

    def __call__(self) -> int:
        self.looks += 1
        self.then()
        return self.until_ns

    async def look(self, count: int = 1) -> None:
        """Return once so many looks more have begun."""
        wanted = self.looks + count
        await until(lambda: self.looks >= wanted)


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def guest(wire: Wire) -> Iterator[socket.socket]:
    with wire.guest_socket() as sock:
        yield sock


async def holding(recorders: Recorders, taken: Taken, blocks: int = 4) -> HoldRecorder:
    it = recorders(blocks, taken)
    await until(lambda: it.is_holding)
    return it


async def retired(recorder: HoldRecorder) -> None:
    """Return once all that was sent is in blocks that were handed over."""
    sequence, packets = recorder.newest()
    assert packets
    await until(lambda: recorder.newest()[0] > sequence)


async def test_what_goes_into_the_port_is_held_and_nothing_that_the_guest_sends(
    recorder: HoldRecorder, port: Port, guest: socket.socket
) -> None:
    port.put([1, 2])
    port.send(GARP)
    guest.send(packet(7))
    port.put([3])
    held = list(recorder.frames(Position()))
    assert [bytes(one.frame.octets) for one in held] == [packet(number) for number in (1, 2, 3)]
    del held
    assert recorder.count_since(0) == 3
    assert recorder.trouble is None


async def test_all_behind_a_position_follows_it(recorder: HoldRecorder, port: Port) -> None:
    port.put(range(5))
    positions = [held.behind for held in recorder.frames(Position())]
    assert numbers(recorder, positions[2]) == [3, 4]
    assert numbers(recorder, positions[-1]) == []
    await retired(recorder)
    port.put(range(5, 7))
    assert numbers(recorder, positions[2]) == [3, 4, 5, 6]
    assert numbers(recorder, positions[-1]) == [5, 6]
    newest = [held.behind for held in recorder.frames(Position())][-2]
    assert numbers(recorder, newest) == [6]


async def test_another_packet_makes_it_newer(recorder: HoldRecorder, port: Port) -> None:
    seen = {recorder.newest()}
    for number in range(3):
        port.put([number])
        assert recorder.newest() not in seen
        assert recorder.newest() == recorder.newest()
        seen.add(recorder.newest())


async def test_what_was_taken_is_given_back_and_nothing_else(
    recorders: Recorders, taken: Taken, port: Port
) -> None:
    recorder = await holding(recorders, taken)
    port.put([1, 2])
    await retired(recorder)
    await taken.look(2)
    assert numbers(recorder) == [1, 2]
    received = [held.frame.received_ns for held in recorder.frames(Position())]
    port.put([3])
    # Its block goes as a whole, or not at all.
    taken.until_ns = received[-1]
    await taken.look(2)
    assert numbers(recorder) == [1, 2, 3]
    taken.until_ns = received[-1] + 1
    await until(lambda: numbers(recorder) == [3])
    assert recorder.dropped_since(0) == 0


async def test_what_is_too_old_goes_and_is_counted(
    recorders: Recorders, taken: Taken, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = await holding(recorders, taken)
    port.put([1, 2])
    (_, received) = [held.frame.received_ns for held in recorder.frames(Position())]
    monkeypatch.setattr(bounds, "LONGEST_NS", 10_000_000)
    await until(lambda: numbers(recorder) == [])
    assert recorder.dropped_since(received) == 2
    assert recorder.dropped_since(received + 1) == 0
    # Once the guest is known to have them nobody lost them.
    taken.until_ns = received + 1
    await taken.look(2)
    assert recorder.dropped_since(0) == 0


async def test_the_newest_stay_where_more_comes_than_fits(
    recorders: Recorders, taken: Taken, port: Port
) -> None:
    recorder = await holding(recorders, taken)
    for begin in range(0, 1000, 40):
        port.put(range(begin, begin + 40), LARGE)
        await taken.look()
    await taken.look()
    kept = numbers(recorder)
    assert kept == list(range(kept[0], 1000))
    assert PER_BLOCK < len(kept) < 3 * PER_BLOCK
    assert recorder.dropped_since(0) == kept[0]
    assert recorder.trouble is None


async def test_a_flood_that_the_loop_cannot_keep_up_with_ends_it(
    recorders: Recorders, taken: Taken, port: Port
) -> None:
    changes: list[tuple[bool, bool]] = []
    recorder: HoldRecorder = recorders(
        4, taken, lambda: changes.append((recorder.is_holding, recorder.is_thinned))
    )
    await until(lambda: recorder.is_holding)
    # Meanwhile nobody looks.
    port.put(range(5 * PER_BLOCK), LARGE)
    await until(lambda: recorder.is_thinned)
    assert recorder.is_holding
    port.put(range(5 * PER_BLOCK), LARGE)
    await until(lambda: not recorder.is_holding)
    assert changes == [(True, False), (True, True), (False, True)]
    assert recorder.trouble
    assert recorder.trouble[0] is HoldReason.TOO_MUCH
    assert numbers(recorder) == []
    await until(lambda: mapped() == 0)


async def test_what_found_no_room_is_counted_while_nobody_gives_back(
    recorder: HoldRecorder, port: Port
) -> None:
    recorder.pause_looking()
    port.put(range(5 * PER_BLOCK), LARGE)
    kept = len(numbers(recorder))
    assert recorder.lost_packets() == 5 * PER_BLOCK - kept
    assert recorder.lost_packets() == 0
    assert recorder.is_holding


async def test_without_looks_only_what_is_asked_for_is_given_back(
    recorders: Recorders, taken: Taken, port: Port
) -> None:
    recorder = await holding(recorders, taken)
    port.put([1, 2])
    recorder.pause_looking()
    taken.until_ns, looks = FOREVER, taken.looks
    # For longer than between two looks.
    await retired(recorder)
    assert taken.looks == looks
    port.put([3])
    assert numbers(recorder) == [1, 2, 3]
    positions = [held.behind for held in recorder.frames(Position())]
    recorder.release_until(positions[1])
    assert numbers(recorder) == [1, 2, 3]
    recorder.release_until(positions[2])
    assert numbers(recorder) == [3]
    recorder.look_again()
    await until(lambda: numbers(recorder) == [])


async def test_it_is_looked_at_no_more_often_however_often_that_is_asked_for(
    recorders: Recorders, taken: Taken
) -> None:
    recorder = await holding(recorders, taken)
    for _ in range(5):
        recorder.look_again()
    loop = asyncio.get_running_loop()
    began, looks = loop.time(), taken.looks
    await taken.look(10)
    assert taken.looks - looks <= 2 + (loop.time() - began) / bounds.SLOWEST_LOOK


async def test_only_what_has_come_since_the_last_look_makes_the_next_one_sooner(
    recorders: Recorders, taken: Taken, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    come = []

    def noting(count: int, blocks: int, elapsed: float) -> float:
        assert blocks == 4
        assert elapsed > 0
        come.append(count)
        return bounds.FASTEST_LOOK

    monkeypatch.setattr(bounds, "until_next_look", noting)
    recorder = await holding(recorders, taken)
    port.put([1])
    await until(lambda: sum(come) == 1)
    await taken.look(3)
    assert (sum(come), max(come)) == (1, 1)
    taken.until_ns = FOREVER
    await until(lambda: numbers(recorder) == [])
    await taken.look(3)
    assert sum(come) == 1


async def test_a_pause_within_a_look_gives_nothing_back(
    recorders: Recorders, taken: Taken, port: Port
) -> None:
    recorder = await holding(recorders, taken)
    port.put([1])
    await retired(recorder)
    taken.until_ns, taken.then = FOREVER, recorder.pause_looking
    await taken.look()
    assert numbers(recorder) == [1]


async def test_packets_are_counted_by_their_time(recorder: HoldRecorder, port: Port) -> None:
    port.put([1, 2])
    (_, received) = [held.frame.received_ns for held in recorder.frames(Position())]
    await retired(recorder)
    port.put([3])
    assert recorder.count_since(received) == 3
    # Of the block that is being filled no time is known.
    assert recorder.count_since(received + 1) == 1


async def test_it_sends_into_the_port_and_does_not_hold_that(
    recorder: HoldRecorder, port: Port, guest: socket.socket
) -> None:
    guest.bind(("eth", 3))
    guest.settimeout(5)
    port.put([1])
    assert recorder.send(bytes(10), packet(2)) == 0
    assert [number_of(guest.recv(100)) for _ in range(2)] == [1, 2]
    assert numbers(recorder) == [1]


async def test_a_full_ring_has_a_newest_packet(recorder: HoldRecorder, port: Port) -> None:
    recorder.pause_looking()
    port.put(range(5 * PER_BLOCK), LARGE)
    sequence, packets = recorder.newest()
    assert sequence == 4
    assert packets > 1


def holds_nothing(recorder: HoldRecorder) -> None:
    assert not recorder.is_holding
    assert recorder.trouble is None
    assert numbers(recorder) == []
    assert recorder.newest() == (0, 0)
    assert recorder.count_since(0) == recorder.lost_packets() == 0
    assert recorder.send(bytes(10), packet(1)) == 0
    recorder.release_until(Position(9, 9))


async def test_until_it_is_open_and_after_its_end_nothing_is_held(
    recorders: Recorders, port: Port
) -> None:
    recorder = recorders()
    holds_nothing(recorder)
    await until(lambda: recorder.is_holding)
    port.put([1])
    recorder.close()
    recorder.close()
    recorder.look_again()
    holds_nothing(recorder)


@pytest.mark.parametrize(
    ("ifindex", "opens", "reason"),
    [
        pytest.param(4711, True, "the interface is gone", id="no interface"),
        pytest.param(1, False, "CAP_NET_RAW is missing", id="no privilege"),
    ],
)
@pytest.mark.usefixtures("port")
async def test_where_no_ring_can_be_it_says_why(
    recorders: Recorders, monkeypatch: pytest.MonkeyPatch, ifindex: int, *, opens: bool, reason: str
) -> None:
    if not opens:
        monkeypatch.setattr(ring, "open_socket", lambda: NoRing("CAP_NET_RAW is missing"))
    changed = asyncio.Event()
    recorder = recorders(changed=changed.set, ifindex=ifindex)
    await asyncio.wait_for(changed.wait(), 5)
    assert recorder.trouble == (
        HoldReason.NO_RING,
        f"what a paused guest misses is lost: {reason}",
    )
    assert not recorder.is_holding


async def test_an_interface_that_vanishes_raises_nothing(
    recorders: Recorders, taken: Taken, port: Port
) -> None:
    recorder = await holding(recorders, taken)
    port.put([1])
    run("ip link delete tap")
    await taken.look(2)
    assert numbers(recorder) == [1]


@pytest.mark.usefixtures("port")
class TestClose:
    """Whenever it comes, no socket and no memory is left."""

    @pytest.fixture(autouse=True)
    async def leaves_nothing(self, recorders: Recorders) -> None:
        self.recorders = recorders
        assert mapped() == 0

    async def nothing_is_left(self) -> None:
        await until(lambda: mapped() == 0)
        # The port's own.
        await until(lambda: sockets() == 1)

    async def test_while_it_opens(self) -> None:
        may_open = threading.Event()
        capture.in_background(partial(may_open.wait, 5))
        self.recorders().close()
        assert sockets() == 2
        may_open.set()
        await self.nothing_is_left()

    async def test_as_soon_as_it_is_open(self) -> None:
        closed = asyncio.Event()

        def close() -> None:
            assert mapped() == 1
            recorder.close()
            closed.set()

        recorder = self.recorders(changed=close)
        await asyncio.wait_for(closed.wait(), 5)
        await self.nothing_is_left()

    async def test_full_of_packets(self, port: Port) -> None:
        recorder = self.recorders()
        await until(lambda: recorder.is_holding)
        assert mapped() == 1
        port.put(range(1000), LARGE)
        recorder.close()
        await self.nothing_is_left()

    async def test_in_a_look(self, taken: Taken, port: Port) -> None:
        recorder = self.recorders(4, taken)
        await until(lambda: recorder.is_holding)
        taken.then = recorder.close
        port.put([1])
        await taken.look()
        assert not recorder.is_holding
        await self.nothing_is_left()
        looks = taken.looks
        await asyncio.sleep(3 * bounds.SLOWEST_LOOK)
        assert taken.looks == looks

    async def test_while_its_frames_are_being_read(self, port: Port) -> None:
        recorder = self.recorders()
        await until(lambda: recorder.is_holding)
        port.put([1, 2])
        frames = recorder.frames(Position())
        assert number_of(next(frames).frame.octets) == 1
        # Whoever reads ends first.
        frames.close()  # type: ignore[attr-defined]
        recorder.close()
        await self.nothing_is_left()
