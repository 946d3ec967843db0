"""The socket against a real kernel: what it sees, what it never sees, how it closes."""

import os
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from tests.nodeagent.sniff.conftest import GARP, GUEST_MAC, RARP, Wire, run

from handover_nodeagent.sniff import frames, packet_filter
from handover_nodeagent.sniff.capture import CannotListenError, Capture, transmit
from handover_nodeagent.sniff.verdict import Expectation

pytestmark = pytest.mark.root

MAC = bytes.fromhex("525400650002")
UDP = RARP[:12] + b"\x08\x00\x45" + bytes(60)
EXPECTED = Expectation.of(GUEST_MAC, [ip_address("10.65.0.2")])
PROGRAM = packet_filter.compile_filter(EXPECTED)


@pytest.fixture
def capture(wire: Wire) -> Iterator[Capture]:
    opened = Capture.open(wire.tap, PROGRAM)
    yield opened
    opened.close()


@pytest.fixture
def guest(wire: Wire) -> Iterator[socket.socket]:
    with wire.guest_socket() as sock:
        yield sock


def wait(capture: Capture) -> bytes | None:
    """Return the next frame, None when none comes for five seconds."""
    select.select([capture], [], [], 5)
    return capture.read()


def frames_until(capture: Capture, last: bytes) -> list[bytes]:
    """Return what comes before *last*, which the guest has sent as the last one."""
    seen = []
    while (octets := wait(capture)) != last:
        assert octets is not None
        seen.append(octets)
    return seen


def test_only_what_may_announce_the_guest_is_seen(capture: Capture, guest: socket.socket) -> None:
    for octets in (UDP, GARP, GARP[:28] + bytes(14), GARP.replace(MAC, b"\x02" * 6), RARP):
        guest.send(octets)
    assert frames_until(capture, RARP) == [GARP]
    assert capture.read() is None
    assert capture.trouble == ""


def test_a_vlan_tagged_frame_is_never_seen(capture: Capture, guest: socket.socket) -> None:
    # The kernel has taken the tag off when the filter looks: only the tag's own flag tells.
    for octets in (GARP, RARP):
        guest.send(octets[:12] + b"\x81\x00\x00\x07" + octets[12:])
    guest.send(RARP)
    assert frames_until(capture, RARP) == []


@pytest.mark.parametrize("tag", ["81000000", "8100e000", "88a80000"])
def test_a_tag_of_vlan_0_is_none(capture: Capture, guest: socket.socket, tag: str) -> None:
    """As the kernel's own ARP takes it: such a tag carries a priority alone."""
    guest.send(GARP[:12] + bytes.fromhex(tag) + GARP[12:])
    guest.send(RARP)
    assert frames_until(capture, RARP) == [GARP]


def test_one_more_priority_tag_is_read_and_any_vlan_behind_one_is_not(
    capture: Capture, guest: socket.socket
) -> None:
    """The kernel takes off the first tag alone before it shows the frame."""
    twice = GARP[:12] + bytes.fromhex("81000000") * 2 + GARP[12:]
    guest.send(twice)
    guest.send(GARP[:12] + bytes.fromhex("8100000081000007") + GARP[12:])
    guest.send(GARP[:12] + bytes.fromhex("88a8000781000000") + GARP[12:])
    guest.send(GARP[:12] + bytes.fromhex("81000000") * 3 + GARP[12:])
    guest.send(RARP)
    seen = frames_until(capture, RARP)
    assert seen == [twice[:12] + twice[16:]]
    assert frames.parse(seen[0]) == frames.parse(GARP)


def test_without_the_filter_the_tagged_frame_looks_untagged(
    wire: Wire, guest: socket.socket
) -> None:
    capture = Capture.open(wire.tap, packet_filter.CANDIDATES)
    guest.send(GARP[:12] + b"\x81\x00\x00\x07" + GARP[12:])
    guest.send(RARP)
    assert GARP in frames_until(capture, RARP)
    capture.close()


def test_our_own_frames_are_not_seen(capture: Capture, guest: socket.socket) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as node:
        node.bind(("tap", 0))
        node.send(GARP)
    assert capture.send(GARP)
    guest.send(RARP)
    assert frames_until(capture, RARP) == []


def test_no_frame_of_another_interface_or_from_before_is_queued(guest: socket.socket) -> None:
    run("ip link add name other type bridge")
    run("ip link set other up")
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            guest.send(GARP)

    flooding = threading.Thread(target=flood)
    flooding.start()
    opened = [Capture.open(socket.if_nametoindex("other"), PROGRAM) for _ in range(50)]
    stop.set()
    flooding.join()
    assert [capture.read() for capture in opened] == [None] * 50
    for capture in opened:
        capture.close()


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft")
def test_a_frame_that_nft_drops_at_ingress_is_seen(capture: Capture, guest: socket.socket) -> None:
    rules = """table netdev t { chain c {
        type filter hook ingress device tap priority -500; policy drop;
    }
    }"""
    loaded = subprocess.run(
        ["nft", "-f", "-"], input=rules, text=True, check=False, capture_output=True
    )
    if loaded.returncode != 0:
        pytest.skip(f"needs nft's netdev family: {loaded.stderr}")
    guest.send(RARP)
    assert wait(capture) == RARP


def test_a_frame_on_a_bridge_port_is_seen(wire: Wire, guest: socket.socket) -> None:
    run("ip link add name bridge0 type bridge")
    run("ip link set tap master bridge0")
    run("ip link set bridge0 up")
    capture = Capture.open(wire.tap, PROGRAM)
    guest.send(RARP)
    assert wait(capture) == RARP
    capture.close()


def test_the_receive_time_is_the_kernels_not_the_readers(
    capture: Capture, guest: socket.socket
) -> None:
    # The kernel begins to stamp in the background, and says "now" for a frame from before.
    for _ in range(1000):
        before = time.time_ns()
        guest.send(RARP)
        select.select([capture], [], [], 5)
        arrived = time.time_ns()
        assert capture.read() == RARP
        received_at = capture.received_at()
        assert before <= received_at <= time.time_ns()
        if received_at <= arrived:
            break
    assert received_at <= arrived


def test_frames_are_sent_where_nobody_listens(wire: Wire) -> None:
    with wire.inside_guest():
        heard = Capture.open(socket.if_nametoindex("eth"), PROGRAM)
    assert transmit(wire.tap, [GARP, RARP])
    assert frames_until(heard, RARP) == [GARP]
    heard.close()
    run("ip link set tap down")
    assert not transmit(wire.tap, [GARP])
    assert not transmit(4711, [GARP])


def test_another_filter_takes_over_at_once(capture: Capture, guest: socket.socket) -> None:
    capture.filter(packet_filter.compile_rarp_only(EXPECTED))
    guest.send(GARP)
    guest.send(RARP)
    assert frames_until(capture, RARP) == []


def test_a_muted_socket_forgets_and_can_hear_again(capture: Capture, guest: socket.socket) -> None:
    guest.send(GARP)
    select.select([capture], [], [], 5)
    capture.mute()
    guest.send(GARP)
    assert capture.read() is None
    capture.filter(PROGRAM)
    guest.send(RARP)
    assert frames_until(capture, RARP) == []


def test_a_flood_holds_no_more_than_the_small_buffer(
    capture: Capture, guest: socket.socket
) -> None:
    for _ in range(5_000):
        guest.send(GARP)
    held = 0
    while capture.read() is not None:
        held += 1
    assert 10 < held < 200


def test_a_vanished_interface_is_reported_and_raises_nothing(wire: Wire, capture: Capture) -> None:
    run("ip link delete tap")
    assert wait(capture) is None
    assert capture.trouble == f"interface {wire.tap} is down or gone"
    # Reading has taken the error off the socket: it wakes nobody any more.
    assert select.select([capture], [], [], 0)[0] == []
    assert not capture.send(RARP)


def test_a_link_that_was_down_is_heard_again(capture: Capture, guest: socket.socket) -> None:
    run("ip link set tap down")
    assert wait(capture) is None
    assert capture.trouble
    run("ip link set tap up")
    assert capture.send(RARP)
    assert capture.trouble == ""
    guest.send(RARP)
    assert wait(capture) == RARP


@pytest.mark.usefixtures("wire")
def test_a_missing_interface_is_said() -> None:
    with pytest.raises(CannotListenError, match="interface 4711 is down or gone"):
        Capture.open(4711, PROGRAM)


def test_a_missing_privilege_is_said(wire: Wire) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        try:
            Capture.open(wire.tap, PROGRAM)
        except CannotListenError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 200) == b"cannot open a packet socket: CAP_NET_RAW is missing"
    os.close(reader)
    os.close(writer)


def test_close_returns_before_the_kernel_has_closed(wire: Wire) -> None:
    opened = [Capture.open(wire.tap, PROGRAM) for _ in range(20)]
    descriptors = [capture.fileno() for capture in opened]
    began = time.perf_counter()
    for capture in opened:
        capture.close()
        capture.close()
    took = time.perf_counter() - began
    waiting = 0
    for descriptor in descriptors:
        while is_open(descriptor):
            waiting += 1
            time.sleep(0)
    whole = time.perf_counter() - began
    assert waiting
    assert took < whole / 2


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_truncated_frame_is_dropped_by_the_kernel(capture: Capture, guest: socket.socket) -> None:
    for end in range(15, 42):
        guest.send(RARP[:end])
        guest.send(GARP[:end])
    guest.send(struct.pack("!6s6sH", MAC, MAC, 0x86DD) + b"\x60")
    guest.send(RARP)
    assert frames_until(capture, RARP) == []
