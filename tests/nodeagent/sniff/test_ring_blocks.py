"""Rings as bytes: what is asked for, and what is read of blocks that the kernel wrote."""

import struct
from typing import Final

import pytest

from handover_nodeagent.sniff import ring_blocks
from handover_nodeagent.sniff.ring_blocks import Block, Geometry, Losses

SMALL: Final = Geometry(block_size=4096, blocks=2, retire_ms=10)
FIRST: Final = 48
STEP: Final = 96
MAC: Final = 82


def frame(at_ns: int, octets: bytes, step: int = STEP, mac: int = MAC) -> bytes:
    """Compose a frame as the kernel writes it: struct tpacket3_hdr, and what was kept."""
    seconds, nanoseconds = divmod(at_ns, 10**9)
    words = (step, seconds, nanoseconds, len(octets), 1500, 1 << 3, mac, mac + 14)
    header = struct.pack("=6I2H", *words)
    return (header.ljust(mac, b"\0") + octets).ljust(STEP, b"\0")


def ring(*frames: bytes, packets: int | None = None, first: int = FIRST) -> memoryview:
    """Compose a ring whose second block holds *frames*."""
    number = len(frames) if packets is None else packets
    header = struct.pack("=6IQ4I", 1, 48, 1, number, first, 0, 7, 3, 5, 4, 6)
    block = (header + b"".join(frames)).ljust(SMALL.block_size, b"\0")
    return memoryview(bytearray(SMALL.block_size) + bytearray(block))


def at_the_end(octets: bytes, kept: int | None = None) -> memoryview:
    """Compose a ring whose last octets are those of a frame, which says that it kept *kept*."""
    only = bytearray(frame(10**9, octets, step=0)[: MAC + len(octets)])
    struct.pack_into("=I", only, 12, len(octets) if kept is None else kept)
    first = SMALL.block_size - len(only)
    memory = ring(packets=1, first=first)
    memory[2 * SMALL.block_size - len(only) :] = only
    return memory


def seen(memory: memoryview) -> list[bytes]:
    block = ring_blocks.read_block(memory, SMALL, 1)
    return [bytes(each.octets) for each in ring_blocks.walk(memory, SMALL, block)]


def test_a_status_is_a_word_of_the_kernels() -> None:
    """linux/if_packet.h; what a reader stores there, the kernel reads."""
    assert (ring_blocks.TP_STATUS_KERNEL, ring_blocks.TP_STATUS_USER) == (0, 1)


def test_a_request_names_blocks_and_frames_that_fill_them() -> None:
    assert SMALL.size == 8192
    assert struct.unpack("@7I", SMALL.request()) == (4096, 2, 128, 64, 10, 0, 0)


def test_a_blocks_header_is_read() -> None:
    expected = Block(1, 7, 2, FIRST, 3 * 10**9 + 5, 4 * 10**9 + 6)
    assert ring_blocks.read_block(ring(b"", b""), SMALL, 1) == expected


def test_frames_come_in_their_order_with_time_length_and_status() -> None:
    memory = ring(frame(5, b"abc"), frame(10**9 + 7, b"de", step=0))
    # A frame that was written in the first second since 1970 counts as not written.
    assert seen(memory) == []
    memory = ring(frame(2 * 10**9 + 5, b"abc"), frame(3 * 10**9, b"de", step=0))
    block = ring_blocks.read_block(memory, SMALL, 1)
    first, second = ring_blocks.walk(memory, SMALL, block)
    assert (first.received_ns, first.length) == (2 * 10**9 + 5, 1500)
    assert first.status == ring_blocks.TP_STATUS_CSUMNOTREADY
    assert [bytes(first.octets), bytes(second.octets)] == [b"abc", b"de"]


SOME: Final = frame(10**9, b"abc")


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        pytest.param(ring(SOME, SOME, packets=1), [b"abc"], id="no more than are counted"),
        pytest.param(ring(SOME, packets=2), [b"abc"], id="none that is not written so far"),
        pytest.param(ring(SOME, frame(0, b"abc")), [b"abc"], id="none without a time"),
        pytest.param(
            ring(frame(10**9, b"abc", step=0), SOME), [b"abc"], id="none behind the last one"
        ),
        pytest.param(
            ring(frame(10**9, b"abc", step=5000), SOME), [b"abc"], id="none outside of the block"
        ),
        pytest.param(ring(frame(10**9, b"abc", mac=4090)), [], id="no octets outside of the block"),
        pytest.param(ring(SOME, first=0), [], id="no header as a frame"),
        pytest.param(ring(SOME, first=4080), [], id="no frame that does not fit"),
        pytest.param(at_the_end(b"abc"), [b"abc"], id="all of one that fits just so"),
        pytest.param(at_the_end(b"abc", kept=4), [], id="none that is longer than its block"),
    ],
)
def test_a_walk_ends_where_a_word_cannot_be_believed(
    memory: memoryview, expected: list[bytes]
) -> None:
    assert seen(memory) == expected


def test_what_stands_before_a_frame_is_its_virtio_header() -> None:
    only = bytearray(frame(10**9, b"abc", step=0))
    only[MAC - 10 : MAC] = bytes(range(1, 11))
    memory = ring(bytes(only))
    (found,) = ring_blocks.walk(memory, SMALL, ring_blocks.read_block(memory, SMALL, 1))
    assert bytes(found.virtio) == bytes(range(1, 11))
    assert bytes(found.octets) == b"abc"


def test_losses_are_read() -> None:
    assert len(struct.pack("@3I", 9, 7, 2)) == ring_blocks.STATISTICS_SIZE
    assert ring_blocks.read_losses(struct.pack("@3I", 9, 7, 2)) == Losses(packets=7, times=2)


def test_a_cleared_block_keeps_its_status_alone() -> None:
    memory = ring(SOME)
    ring_blocks.clear(memory, SMALL, 1)
    assert struct.unpack_from("=4I", memory, SMALL.block_size) == (1, 48, 1, 0)
    assert not any(memory[SMALL.block_size + 12 :])
    assert seen(memory) == []
