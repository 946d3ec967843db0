"""The ring against a real kernel: what it holds, round and round, and where there can be none."""

import ctypes
import errno
import mmap
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.nodeagent.hold.sent import Sent
from tests.nodeagent.sniff.conftest import GARP, GUEST_MAC, RARP, Wire, run

from handover_nodeagent.hold import virtio
from handover_nodeagent.kernel import bpf
from handover_nodeagent.sniff import own_frames, ring
from handover_nodeagent.sniff.ring import NoRing, Ring
from handover_nodeagent.sniff.ring_blocks import Geometry, Losses

pytestmark = pytest.mark.root

SMALL: Final = Geometry(block_size=4096, blocks=4, retire_ms=10)
PATIENT: Final = SMALL._replace(retire_ms=60_000)
"""On a busy machine a block's 10 ms may be up before it is full."""

WHOLE: Final = bpf.assemble((bpf.Step(bpf.RETURN, bpf.EVERYTHING),))
OWN: Final = own_frames.compile_filter(GUEST_MAC)
PER_BLOCK: Final = 45
"""Frames of 88 bytes in 4096 less a header."""

NOTHING_LEFT: Final = bytes(virtio.SIZE)
"""To do for a device."""

# linux/if_ether.h, linux/if_packet.h.
ETH_P_ALL: Final = 3
SOL_PACKET: Final = 263
PACKET_VNET_HDR: Final = 15

# sys/mman.h, linux/capability.h.
MCL_FUTURE: Final = 2
LINUX_CAPABILITY_VERSION_3: Final = 0x20080522
CAP_NET_RAW: Final = 13

Opener = Callable[..., Ring]


@pytest.fixture(autouse=True)
def quiet(wire: Wire) -> None:
    """Let neither end's kernel send what only IPv6 sends by itself."""
    tap = Path("/proc/sys/net/ipv6/conf/tap/disable_ipv6")
    tap.write_text("1", encoding="ascii")
    with wire.inside_guest():
        Path("/proc/sys/net/ipv6/conf/eth/disable_ipv6").write_text("1", encoding="ascii")


@pytest.fixture
def opened(wire: Wire) -> Iterator[Opener]:
    rings: list[Ring] = []

    def open_ring(
        program: bpf.Program = WHOLE, geometry: Geometry = SMALL, **options: bool
    ) -> Ring:
        sock = ring.open_socket()
        assert not isinstance(sock, NoRing)
        it = Ring.on(sock, wire.tap, program, geometry, **options)
        assert isinstance(it, Ring)
        rings.append(it)
        return it

    yield open_ring
    for it in rings:
        it.close()


@pytest.fixture
def guest(wire: Wire) -> Iterator[socket.socket]:
    with wire.guest_socket() as sock:
        yield sock


def held(it: Ring) -> list[bytes]:
    """Return all frames, those of the block that is being filled too."""
    retired = it.retired()
    being_filled = it.open_block(retired)
    blocks = (*retired, being_filled) if being_filled else retired
    return [bytes(frame.octets) for block in blocks for frame in it.frames(block)]


def numbered(number: int) -> bytes:
    """Return a frame of the guest's that nobody answers, with *number* in it."""
    return RARP[:12] + b"\x88\xb5" + number.to_bytes(4, "big") + bytes(42)


def numbers(frames: list[bytes]) -> list[int]:
    return [
        int.from_bytes(octets[14:18], "big") for octets in frames if octets[12:14] == b"\x88\xb5"
    ]


def test_a_frame_is_there_at_once_and_once_its_block_was_handed_over(
    opened: Opener, guest: socket.socket
) -> None:
    it = opened()
    before = time.time_ns()
    guest.send(numbered(1))
    after = time.time_ns()
    assert it.retired() == ()
    assert numbers(held(it)) == [1]
    deadline = time.monotonic() + 5
    while not (retired := it.retired()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    (block,) = retired
    assert block.packets == 1
    assert before <= block.last_ns <= after
    (frame,) = it.frames(block)
    assert (frame.received_ns, frame.length) == (block.last_ns, 60)
    assert bytes(frame.octets) == numbered(1)
    del frame


def test_what_the_filter_cuts_keeps_its_length(opened: Opener, guest: socket.socket) -> None:
    it = opened(OWN)
    guest.send(numbered(1))
    block = it.open_block(())
    assert block is not None
    (frame,) = it.frames(block)
    assert (frame.length, bytes(frame.octets)) == (60, b"\xff" * 6)
    del frame


def test_only_what_the_guest_itself_sends_is_kept(opened: Opener, guest: socket.socket) -> None:
    it = opened(OWN)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as node:
        node.bind(("tap", 0))
        node.send(GARP)
    guest.send(RARP[:6] + bytes.fromhex("525400650003") + RARP[12:])
    assert held(it) == []
    guest.send(RARP)
    assert len(held(it)) == 1


def test_a_ring_of_both_directions_has_what_this_node_sends_too(
    opened: Opener, guest: socket.socket
) -> None:
    it = opened(is_inbound=False)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as node:
        node.bind(("tap", 0))
        node.send(numbered(1))
    guest.send(numbered(2))
    assert numbers(held(it)) == [1, 2]


@pytest.fixture
def two_way(opened: Opener) -> Ring:
    """Give a ring of both directions whose frames have a virtio header."""
    return opened(geometry=SMALL._replace(block_size=1 << 16), is_inbound=False, has_virtio=True)


def test_what_a_ring_sends_leaves_and_never_comes_into_itself(
    opened: Opener, two_way: Ring, guest: socket.socket
) -> None:
    other = opened(is_inbound=False)
    guest.bind(("eth", ETH_P_ALL))
    guest.settimeout(5)
    assert two_way.send(NOTHING_LEFT, numbered(1)) == 0
    assert guest.recv(200) == numbered(1)
    assert numbers(held(other)) == [1]
    assert held(two_way) == []


def test_what_a_ring_does_not_send_is_told(two_way: Ring) -> None:
    run("ip link set tap down")
    assert two_way.send(NOTHING_LEFT, numbered(1)) == errno.ENETDOWN
    # Longer than the MTU, and nobody is to cut it.
    run("ip link set tap up")
    assert two_way.send(NOTHING_LEFT, bytes(3000)) == errno.EMSGSIZE


def test_a_frame_has_what_its_sender_left_to_the_device_before_it(
    two_way: Ring, guest: socket.socket
) -> None:
    it = Sent(4, bytes(4000))
    guest.send(numbered(1))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as node:
        node.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        node.bind(("tap", 0))
        node.send(struct.pack("=BBHHHH", *it.offload(1448)) + it.frame)
    block = two_way.open_block(())
    assert block is not None
    plain, large = two_way.frames(block)
    assert bytes(plain.octets) == numbered(1)
    assert virtio.read(plain.virtio).gso_type == virtio.GSO_NONE
    assert bytes(large.octets) == it.frame
    # How long the headers are is a hint, and may be another one here.
    assert virtio.read(large.virtio)._replace(hdr_len=0) == it.offload(1448)._replace(hdr_len=0)
    del plain, large


def test_losses_are_those_since_they_were_asked_for_last(
    opened: Opener, guest: socket.socket
) -> None:
    it = opened(OWN, PATIENT)
    for _ in range(SMALL.blocks * PER_BLOCK):
        guest.send(numbered(0))
    assert it.losses() == Losses(0, 0)
    for _ in range(7):
        guest.send(numbered(0))
    assert it.losses().packets == 7
    assert it.losses() == Losses(0, 0)


def test_it_goes_round_and_round_without_a_loss_while_blocks_are_given_back(
    opened: Opener, guest: socket.socket
) -> None:
    it = opened()
    sequence = got = 0
    for number in range(20 * SMALL.blocks * PER_BLOCK):
        guest.send(numbered(number))
        retired = it.retired()
        for block in retired:
            assert block.sequence == sequence + 1
            sequence = block.sequence
            inside = numbers([bytes(frame.octets) for frame in it.frames(block)])
            assert inside == list(range(got, got + len(inside)))
            got += len(inside)
        it.release(len(retired))
    assert sequence > 10 * SMALL.blocks
    assert numbers(held(it)) == list(range(got, number + 1))


def test_the_oldest_can_go_first(opened: Opener, guest: socket.socket) -> None:
    """As whoever keeps the newest frames of a bounded time does it."""
    it = opened(WHOLE, PATIENT)
    for number in range(1000):
        guest.send(numbered(number))
        if len(it.retired()) >= SMALL.blocks - 1:
            it.release(1)
    kept = numbers(held(it))
    assert kept == list(range(kept[0], 1000))
    assert len(kept) > PER_BLOCK


def test_a_full_ring_keeps_the_oldest_and_goes_on_once_a_block_is_free(
    opened: Opener, guest: socket.socket
) -> None:
    it = opened(OWN, PATIENT)
    for number in range(1000):
        guest.send(numbered(number))
    retired = it.retired()
    assert [block.packets for block in retired] == [PER_BLOCK] * SMALL.blocks
    assert it.open_block(retired) is None
    it.release(1)
    assert len(it.retired()) == SMALL.blocks - 1
    before = time.time_ns()
    guest.send(numbered(1))
    being_filled = it.open_block(it.retired())
    assert being_filled is not None
    (frame,) = it.frames(being_filled)
    assert frame.received_ns >= before
    del frame


def test_another_filter_takes_over_at_once(opened: Opener, guest: socket.socket) -> None:
    it = opened()
    it.filter(bpf.DROP_ALL)
    guest.send(RARP)
    assert held(it) == []
    it.filter(WHOLE)
    guest.send(RARP)
    assert held(it) == [RARP]


def test_one_of_eight_is_about_an_eighth(opened: Opener, guest: socket.socket) -> None:
    it = opened(own_frames.compile_filter(GUEST_MAC, 8), own_frames.GEOMETRY)
    for number in range(4000):
        guest.send(numbered(number))
    assert 300 < len(held(it)) < 720


def test_a_frame_that_is_still_held_keeps_the_memory(wire: Wire, guest: socket.socket) -> None:
    sock = ring.open_socket()
    assert not isinstance(sock, NoRing)
    it = Ring.on(sock, wire.tap, WHOLE, SMALL)
    assert isinstance(it, Ring)
    guest.send(RARP)
    block = it.open_block(())
    assert block is not None
    (frame,) = it.frames(block)
    with pytest.raises(BufferError):
        it.close()
    assert bytes(frame.octets) == RARP
    del frame


def test_a_link_that_goes_down_and_up_fills_it_again(opened: Opener, guest: socket.socket) -> None:
    it = opened()
    run("ip link set tap down")
    run("ip link set tap up")
    deadline = time.monotonic() + 5
    while RARP not in held(it):
        assert time.monotonic() < deadline
        guest.send(RARP)


def test_a_missing_interface_is_said() -> None:
    sock = ring.open_socket()
    assert not isinstance(sock, NoRing)
    assert Ring.on(sock, 4711, WHOLE, SMALL) == NoRing("the interface is gone")
    assert sock.fileno() == -1


def test_a_geometry_that_the_kernel_refuses_is_said(wire: Wire) -> None:
    sock = ring.open_socket()
    assert not isinstance(sock, NoRing)
    odd = Geometry(block_size=1000, blocks=4, retire_ms=10)
    assert Ring.on(sock, wire.tap, WHOLE, odd) == NoRing("the kernel has no TPACKET_V3")
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOMEM, "there is no memory for it"),
        (errno.EAGAIN, "no more memory may be locked"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_memory_that_cannot_be_mapped_is_said(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def refuse(_: int, __: int) -> mmap.mmap:
        raise OSError(number, "no")

    monkeypatch.setattr(mmap, "mmap", refuse)
    sock = ring.open_socket()
    assert not isinstance(sock, NoRing)
    assert Ring.on(sock, wire.tap, WHOLE, SMALL) == NoRing(reason)
    assert sock.fileno() == -1


def in_a_child(wire: Wire, prepare: Callable[[], None]) -> str:
    """Say what comes of a ring in a process that has made itself poorer by *prepare*."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        prepare()
        sock = ring.open_socket()
        it = sock if isinstance(sock, NoRing) else Ring.on(sock, wire.tap, WHOLE, SMALL)
        os.write(writer, it.reason.encode() if isinstance(it, NoRing) else b"a ring")
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reader, 200).decode()
    os.close(reader)
    os.close(writer)
    return said


def test_a_missing_privilege_is_said(wire: Wire) -> None:
    said = in_a_child(wire, lambda: os.setresuid(65534, 65534, 65534))
    assert said == "CAP_NET_RAW is missing"


def lock_nothing() -> None:
    """Ask for all future memory to be locked, and have no right to lock any."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mlockall(MCL_FUTURE) == 0
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    # Whoever has CAP_IPC_LOCK is held to no limit: what is left is CAP_NET_RAW.
    header = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0)
    rights = struct.pack("=6I", *(1 << CAP_NET_RAW, 1 << CAP_NET_RAW, 0), 0, 0, 0)
    assert libc.capset(header, rights) == 0


def test_a_process_that_may_lock_no_memory_is_told(wire: Wire) -> None:
    assert in_a_child(wire, lock_nothing) == "no more memory may be locked"
