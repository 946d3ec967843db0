"""When a guest sent its last frame, on a running loop, beside a kernel that keeps the times."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.nodeagent.sniff.conftest import GUEST_MAC, RARP, Wire, run

from handover_lab import paths
from handover_nodeagent.sniff import capture, own_frames, ring
from handover_nodeagent.sniff.last_frame import LastFrameRecorder
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown
from handover_nodeagent.sniff.ring import NoRing

pytestmark = pytest.mark.root

FLOOD_MAC: Final = "52:54:00:66:00:01"
"""Of the bench's flood."""
PER_SECOND: Final = 200_000

Recorders = Callable[..., LastFrameRecorder]


@pytest.fixture
async def recorders(wire: Wire) -> AsyncIterator[Recorders]:
    made: list[LastFrameRecorder] = []

    def make(mac: str | None = GUEST_MAC, ifindex: int = wire.tap) -> LastFrameRecorder:
        made.append(LastFrameRecorder(ifindex, mac))
        return made[-1]

    yield make
    for recorder in made:
        recorder.close()


@pytest.fixture
async def recorder(recorders: Recorders) -> LastFrameRecorder:
    it = recorders()
    await recording(it)
    return it


@pytest.fixture
def guest(wire: Wire) -> Iterator[socket.socket]:
    # What the guest's kernel sends of itself would be later than the last frame of the test.
    with wire.inside_guest():
        Path("/proc/sys/net/ipv6/conf/eth/disable_ipv6").write_text("1", encoding="ascii")
    with wire.guest_socket() as sock:
        yield sock


async def until(is_so: Callable[[], bool]) -> None:
    """Return once *is_so*; fail after 5 s."""
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110  nothing tells us
            await asyncio.sleep(0.002)


async def recording(recorder: LastFrameRecorder) -> None:
    await until(lambda: recorder.is_recording)


def known(recorder: LastFrameRecorder) -> LastFrame:
    last = recorder.last()
    assert isinstance(last, LastFrame), last
    return last


async def test_the_last_frame_is_known_at_once_and_stays_known(
    guest: socket.socket, recorder: LastFrameRecorder
) -> None:
    guest.send(RARP)
    before = time.time_ns()
    guest.send(RARP)
    after = time.time_ns()
    at_once = known(recorder)
    assert before <= at_once.at_ns <= after
    assert at_once.error_ns == 0
    # Its block is handed over, and given back by a look.
    await asyncio.sleep(3 * own_frames.LOOK)
    assert known(recorder) == at_once


async def test_a_silent_guest_has_no_last_frame(
    guest: socket.socket, recorder: LastFrameRecorder
) -> None:
    assert recorder.last() == Unknown("the guest has sent nothing")
    guest.send(RARP.replace(bytes.fromhex("525400650002"), bytes.fromhex("525400650003")))
    assert recorder.last() == Unknown("the guest has sent nothing")


async def test_a_guest_whose_mac_is_unknown_is_anybody(
    guest: socket.socket, recorders: Recorders
) -> None:
    recorder = recorders(None)
    await recording(recorder)
    guest.send(RARP.replace(bytes.fromhex("525400650002"), bytes.fromhex("525400650003")))
    assert known(recorder).at_ns <= time.time_ns()


async def test_until_it_is_open_nobody_knows(recorders: Recorders) -> None:
    recorder = recorders()
    assert not recorder.is_recording
    assert recorder.last() == Unknown("the ring is still being opened")
    await recording(recorder)


async def test_a_ring_that_cannot_be_says_why(recorders: Recorders) -> None:
    recorder = recorders(GUEST_MAC, 4711)
    await until(lambda: recorder.last() == Unknown("the interface is gone"))


async def test_a_socket_that_cannot_be_says_why(
    recorders: Recorders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "open_socket", lambda: NoRing("CAP_NET_RAW is missing"))
    recorder = recorders()
    assert recorder.last() == Unknown("CAP_NET_RAW is missing")
    recorder.close()


async def test_one_that_was_closed_knows_nothing_more(
    guest: socket.socket, recorder: LastFrameRecorder
) -> None:
    guest.send(RARP)
    recorder.close()
    recorder.close()
    assert recorder.last() == Unknown("nobody records it any more")
    await asyncio.sleep(2 * own_frames.LOOK)


def sockets() -> int:
    """Return how many packet sockets there are in this thread's namespace."""
    return len(Path("/proc/thread-self/net/packet").read_text().splitlines()) - 1


async def test_one_that_is_closed_while_it_opens_leaves_nothing_open(wire: Wire) -> None:
    for _ in range(5):
        LastFrameRecorder(wire.tap, GUEST_MAC).close()
    assert sockets() > 0
    await until(lambda: sockets() == 0)


@contextlib.contextmanager
def thread_that_waits() -> Iterator[None]:
    """Keep the thread that opens and closes from both, as a kernel that takes its time."""
    is_over = threading.Event()
    capture.in_background(is_over.wait)
    try:
        yield
    finally:
        is_over.set()


async def test_the_loop_waits_neither_for_the_opening_nor_for_the_closing(
    recorders: Recorders,
) -> None:
    with thread_that_waits():
        made = [recorders() for _ in range(10)]
        await asyncio.sleep(0.1)
        assert not any(recorder.is_recording for recorder in made)
    await asyncio.gather(*map(recording, made))

    with thread_that_waits():
        for recorder in made:
            recorder.close()
        await asyncio.sleep(0.1)
        # Nobody else closes them.
        assert sockets() == 10
    await until(lambda: sockets() == 0)


async def test_a_burst_that_nobody_looked_at_says_how_little_is_known(
    guest: socket.socket, recorder: LastFrameRecorder
) -> None:
    """Until the next look the ring is full, and what is lost is the newest."""
    for _ in range(4 * own_frames.CAPACITY):
        guest.send(RARP)
    ended = time.time_ns()
    last = known(recorder)
    assert last.at_ns < ended <= last.at_ns + last.error_ns


async def test_an_interface_that_vanishes_raises_nothing(
    guest: socket.socket, recorder: LastFrameRecorder
) -> None:
    guest.send(RARP)
    last = known(recorder)
    run("ip link delete tap")
    await asyncio.sleep(2 * own_frames.LOOK)
    assert known(recorder) == last


@pytest.fixture(scope="session")
def flooder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    program = tmp_path_factory.mktemp("bench") / "bench"
    source = paths.ROOT / "e2e" / "bench" / "bench.c"
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


def start(flooder: Path, wire: Wire) -> subprocess.Popen[bytes]:
    """Start the flood in the guest."""
    with wire.inside_guest():
        return subprocess.Popen([flooder, "flood", "eth", "udp", str(PER_SECOND)])


def received() -> int:
    """Return how many frames have come from the guest."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    (line,) = (line for line in lines if line.strip().startswith("tap:"))
    return int(line.split()[2])


def sent_after() -> int:
    """Wait for one more frame; return when none of it had come so far."""
    before = now = time.time_ns()
    count = received()
    while received() == count:
        before, now = now, time.time_ns()
    return before


async def spent(seconds: float) -> float:
    """Return what of a processor this thread uses in so many seconds of the loop."""
    before = time.thread_time()
    await asyncio.sleep(seconds)
    return time.thread_time() - before


async def test_a_flood_costs_the_loop_no_more_than_silence_and_its_end_is_known(
    wire: Wire, recorders: Recorders, flooder: Path
) -> None:
    """200,000 frames a second, as from a guest that sends all it can."""
    recorder = recorders(FLOOD_MAC)
    await recording(recorder)
    silent = min([await spent(0.5) for _ in range(3)])
    flood = start(flooder, wire)
    # In one ring no more than a two-hundredth of a second would fit, so it is thinned.
    await until(lambda: thinned(recorder))
    flooded = min([await spent(0.5) for _ in range(3)])
    # On a busy machine the flood itself waits for a processor now and then.
    alive = sent_after()
    await asyncio.to_thread(flood.kill)
    await asyncio.to_thread(flood.wait)
    ended = time.time_ns()
    last = known(recorder)
    # A look costs what its headers cost, however many frames there were.
    assert flooded < 10 * max(silent, 0.0005)
    assert last.error_ns < 20_000_000
    # One gap in twenty is longer than the error says; one in eight thousand three times as long.
    assert alive - 3 * last.error_ns <= last.at_ns <= ended


def thinned(recorder: LastFrameRecorder) -> bool:
    """Tell whether a part of the frames is kept."""
    last = recorder.last()
    return isinstance(last, LastFrame) and 0 < last.error_ns < 20_000_000
