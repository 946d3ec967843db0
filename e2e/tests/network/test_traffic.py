"""Flows against the guest's own echo server, here without a guest around it."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from handover_lab.guest import initramfs
from handover_lab.network import flow, measure, stream
from handover_lab.network.flow import ANSWERED, BROKEN, RECORD, SENT
from handover_lab.network.measure import Packet
from handover_lab.network.namespaces import Namespace
from handover_lab.network.traffic import (
    Direction,
    Flow,
    Kind,
    Recording,
    Stream,
    TrafficError,
)
from handover_lab.testing.speaking import comes_true

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The echo server, compiled as the guest gets it."""
    path = tmp_path_factory.mktemp("server") / "echo-server"
    initramfs.compile_server(path)
    return path


@pytest.fixture
def place() -> Iterator[Namespace]:
    """A namespace of its own, in which loopback is up."""
    namespace = Namespace.make("traffic")
    yield namespace
    namespace.end()


@pytest.fixture
def serving(place: Namespace, server: Path) -> Iterator["subprocess.Popen[str]"]:
    """The echo server, running and ready."""
    process = subprocess.Popen(place.command(str(server)), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "guest: ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@needs_root
@pytest.mark.root
@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", ["ping", "udp", "tcp", "request"])
async def test_every_packet_is_answered(
    place: Namespace, tmp_path: Path, kind: Kind, address: str
) -> None:
    sender = Flow.start(place, kind, address, 1, tmp_path / "flow")
    await sender.answered()
    await sender.answered(time.time_ns())

    recording = await sender.stop()

    packets = recording.packets()
    assert len(packets) > 1
    assert not recording.broken
    assert all(p.answered_ns is not None and p.answered_ns >= p.sent_ns for p in packets)


@needs_root
@pytest.mark.root
@pytest.mark.usefixtures("serving")
async def test_a_request_waits_for_the_answer_to_the_one_before(
    place: Namespace, tmp_path: Path
) -> None:
    sender = Flow.start(place, "request", "127.0.0.1", 1, tmp_path / "flow")
    await sender.answered()
    place.run("ip link set lo down")
    await asyncio.sleep(0.3)
    sender.recording.read()
    waiting = len(sender.recording.sent)
    await asyncio.sleep(0.2)
    sender.recording.read()
    assert len(sender.recording.sent) == waiting
    place.run("ip link set lo up")
    await sender.answered(time.time_ns())

    packets = (await sender.stop()).packets()

    assert len(packets) > waiting
    for one, next_one in pairwise(packets):
        assert one.answered_ns is not None
        assert one.answered_ns <= next_one.sent_ns


@needs_root
@pytest.mark.root
@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("kind", ["tcp", "request"])
async def test_a_session_begins_when_its_route_has_come(
    place: Namespace, tmp_path: Path, kind: Kind
) -> None:
    place.run("ip address add 10.9.9.9/32 dev lo; ip route del local 10.9.9.9 table local")
    sender = Flow.start(place, kind, "10.9.9.9", 1, tmp_path / "flow")
    ping = Flow.start(place, "ping", "10.9.9.9", 1, tmp_path / "ping")
    # Nobody tells when somebody could not connect; this one sends in vain just as long.
    await comes_true(lambda: len(read(ping).sent) > 100)
    place.run("ip route add local 10.9.9.9 dev lo table local")

    await sender.answered()

    assert not (await sender.stop()).broken
    packets = (await ping.stop()).packets()
    assert packets[0].answered_ns is None


@needs_root
@pytest.mark.root
async def test_two_pings_side_by_side_keep_their_answers_apart(
    place: Namespace, tmp_path: Path
) -> None:
    senders = [Flow.start(place, "ping", "127.0.0.1", 1, tmp_path / name) for name in "ab"]
    for sender in senders:
        await sender.answered()
    place.run("ip link set lo down")
    await asyncio.gather(*(sender.stop() for sender in senders))

    for sender in senders:
        assert len(sender.recording.answered) <= len(sender.recording.sent)
        assert all(number < len(sender.recording.sent) for number in sender.recording.answered)


@needs_root
@pytest.mark.root
@pytest.mark.usefixtures("serving")
async def test_packets_without_a_way_are_lost_and_the_flow_goes_on(
    place: Namespace, tmp_path: Path
) -> None:
    sender = Flow.start(place, "udp", "127.0.0.1", 1, tmp_path / "flow")
    await sender.answered()
    place.run("ip link set lo down")
    await sent_more(sender)
    place.run("ip link set lo up")
    await sender.answered(time.time_ns())

    recording = await sender.stop()

    assert any(packet.answered_ns is None for packet in recording.packets())


@needs_root
@pytest.mark.root
@pytest.mark.usefixtures("serving")
async def test_what_was_overtaken_is_answered_or_lost(place: Namespace, tmp_path: Path) -> None:
    sender = Flow.start(place, "udp", "127.0.0.1", 1, tmp_path / "flow")
    await sender.answered()
    place.run("ip link set lo down")
    await sent_more(sender)
    place.run("ip link set lo up")
    began = time.time_ns()
    await sent_more(sender)
    now = time.time_ns()

    await sender.overtaken(now)

    before = measure.between(sender.recording.packets(), began, now)
    assert before
    assert all(packet.answered_ns is not None for packet in before)
    await sender.stop()


@needs_root
@pytest.mark.root
async def test_a_session_does_not_survive_its_server(
    place: Namespace, serving: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    sender = Flow.start(place, "tcp", "127.0.0.1", 1, tmp_path / "flow")
    await sender.answered()
    serving.kill()

    with pytest.raises(TrafficError, match="TCP session: "):
        await sender.answered(time.time_ns() + 10**9)

    assert (await sender.stop()).broken


@needs_root
@pytest.mark.root
async def test_no_server_is_said_in_words(place: Namespace, tmp_path: Path) -> None:
    sender = Flow.start(place, "tcp", "127.0.0.1", 1, tmp_path / "flow")

    with pytest.raises(TrafficError, match=r"tcp to 127\.0\.0\.1 got no answer.*refused"):
        await sender.answered()
    await sender.stop()


@pytest.mark.parametrize(
    ("answers", "trouble"),
    [
        (b"aa 1 0\naa 2 1\n", None),
        (b"aa 1 0\nbb 2 1\n", "forgot"),
        (b"aa 1 0\naa 1 1\n", "forgot"),
        (b"", "closed"),
    ],
    ids=["the same memory", "another boot", "another connection", "closed"],
)
def test_a_session_knows_the_memory_behind_it(answers: bytes, trouble: str | None) -> None:
    session = flow.Memory()

    if trouble is None:
        assert list(session.numbers(answers)) == [0, 1]
    else:
        with pytest.raises(flow.BrokenSessionError, match=trouble):
            list(session.numbers(answers))


def test_a_session_reads_lines_in_any_pieces() -> None:
    session = flow.Memory()

    assert [n for piece in (b"aa 1", b" 0\naa 2 ", b"1\n") for n in session.numbers(piece)] == [
        0,
        1,
    ]


def read(sender: Flow) -> Recording:
    """Return what a flow has recorded so far."""
    sender.recording.read()
    return sender.recording


def test_a_recording_is_read_on_from_where_the_last_look_ended(tmp_path: Path) -> None:
    path = tmp_path / "flow"
    whole = RECORD.pack(SENT, 0, 10) + RECORD.pack(ANSWERED, 0, 15) + RECORD.pack(SENT, 1, 20)
    path.write_bytes(whole + RECORD.pack(ANSWERED, 1, 25)[:5])
    recording = Recording(path)
    recording.read()
    assert (Packet(10, 15), Packet(20, None)) == recording.packets()

    with path.open("ab") as file:
        file.write(RECORD.pack(ANSWERED, 1, 25)[5:] + RECORD.pack(BROKEN, 0, 30))
    recording.read()

    assert (Packet(10, 15), Packet(20, 25)) == recording.packets()
    assert recording.broken


def test_the_first_of_two_answers_counts(tmp_path: Path) -> None:
    path = tmp_path / "flow"
    path.write_bytes(
        RECORD.pack(SENT, 0, 1) + RECORD.pack(ANSWERED, 0, 2) + RECORD.pack(ANSWERED, 0, 3)
    )
    recording = Recording(path)
    recording.read()

    assert (Packet(1, 2, is_doubled=True),) == recording.packets()
    assert recording.doubled == {0}


async def sent_more(sender: Flow) -> None:
    """Wait until *sender* has tried some packets more."""
    sender.recording.read()
    before = len(sender.recording.sent)
    while len(sender.recording.sent) < before + 5:
        await asyncio.sleep(0.01)
        sender.recording.read()


@needs_root
@pytest.mark.root
@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("direction", ["download", "upload"])
async def test_a_stream_gets_through_at_its_pace(
    place: Namespace, tmp_path: Path, direction: Direction, address: str
) -> None:
    running = Stream.start(place, direction, address, tmp_path / "stream")
    await running.flows()
    began_ns = time.time_ns()
    await asyncio.sleep(1)
    progress = await running.stop()

    rate = measure.rate(progress, began_ns, began_ns + 10**9)
    assert 0.3 < rate / (len(stream.SEGMENT) / stream.TICK_S) < 1.2


@needs_root
@pytest.mark.root
async def test_a_stream_to_nobody_says_so(place: Namespace, tmp_path: Path) -> None:
    running = Stream.start(place, "download", "127.0.0.1", tmp_path / "stream")

    with pytest.raises(TrafficError, match="refused"):
        await running.flows()
    assert await running.stop() == ()
