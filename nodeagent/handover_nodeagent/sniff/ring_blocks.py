"""PURE: what a ring of TPACKET_V3 holds: its geometry, its blocks, and the frames in them.

The kernel fills one block after the other, round and round, and hands each over when it is full or
its time is up. Offsets are those of linux/if_packet.h; a word that nobody can believe ends a walk,
so that no reader ever leaves its block.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

TP_STATUS_KERNEL: Final = 0
TP_STATUS_USER: Final = 1
# A frame's own: the sender left the checksum to the device (offload).
TP_STATUS_CSUMNOTREADY: Final = 1 << 3

STATUS_OFFSET: Final = 8
"""Of block_status in struct tpacket_block_desc, behind ``version`` and ``offset_to_priv``."""

_REQUEST: Final = struct.Struct("@7I")
"""struct tpacket_req3: block size and number, frame size and number, time in ms after which a
block is handed over although it is not full, size of a private area, features."""
_BLOCK: Final = struct.Struct("=IIIIIIQIIII")
"""struct tpacket_block_desc with tpacket_hdr_v1 in it: version, offset of the private area; status,
packets, offset of the first one, length, sequence number; then two times, each in seconds and (this
version has no microseconds) nanoseconds: when it was opened, and of its last packet."""
_FRAME: Final = struct.Struct("=IIIIIIHH")
"""The part of struct tpacket3_hdr that is read: offset of the next one, seconds, nanoseconds, bytes
kept, bytes on the wire, status, offsets of the link layer and of the network layer."""
_STATISTICS: Final = struct.Struct("@3I")
"""struct tpacket_stats_v3: packets, those of them that were lost, how often there was no block."""
STATISTICS_SIZE: Final = _STATISTICS.size
VIRTIO_SIZE: Final = 10
"""struct virtio_net_hdr of linux/virtio_net.h in its oldest form, that of PACKET_VNET_HDR."""
# TPACKET3_HDRLEN is 68, and a frame has to hold that much. The kernel packs a block as it likes:
# this size only has to divide it.
_FRAME_SIZE: Final = 128
_SECOND: Final = 1_000_000_000
_WORD: Final = 4


class Geometry(NamedTuple):
    """How large a ring is; a block is a whole number of pages, a power of two of them."""

    block_size: int
    blocks: int
    retire_ms: int
    """A block that holds a packet is handed over after at most twice as long."""

    @property
    def size(self) -> int:
        """All of its memory."""
        return self.block_size * self.blocks

    def request(self) -> bytes:
        """Return what PACKET_RX_RING takes."""
        frames = self.size // _FRAME_SIZE
        sizes = (self.block_size, self.blocks, _FRAME_SIZE, frames)
        return _REQUEST.pack(*sizes, self.retire_ms, 0, 0)


class Block(NamedTuple):
    """What the header of one block says; times are realtime ns, by the kernel's clock."""

    number: int
    """Of the block in its ring."""
    sequence: int
    packets: int
    first: int
    """Where its first packet is, from the block's begin."""
    opened_ns: int
    last_ns: int


class Frame(NamedTuple):
    """One frame in a block: ``octets`` is in the ring itself, and goes with its block."""

    received_ns: int
    length: int
    """On the wire; more than there are octets where the filter cut it."""
    status: int
    octets: memoryview
    virtio: memoryview
    """What stands right before the octets: struct virtio_net_hdr, where the ring was to have it."""


class Losses(NamedTuple):
    """What a ring had no room for since this was asked last."""

    packets: int
    times: int
    """How often the kernel found no block."""


def read_losses(octets: bytes) -> Losses:
    """Read what PACKET_STATISTICS gives."""
    _, packets, times = _STATISTICS.unpack(octets)
    return Losses(packets, times)


def read_block(memory: memoryview, geometry: Geometry, number: int) -> Block:
    """Read the header of block *number*; that of one that is being filled has no last time yet."""
    words = _BLOCK.unpack_from(memory, number * geometry.block_size)
    _, _, _, packets, first, _, sequence, *times = words
    begin, end = times[0] * _SECOND + times[1], times[2] * _SECOND + times[3]
    return Block(number, sequence, packets, first, begin, end)


def clear(memory: memoryview, geometry: Geometry, number: int) -> None:
    """Forget what block *number* holds, before it is given back.

    The kernel counts a packet before it writes it. In a block that begins with zeros, whoever reads
    it while it is being filled finds either the packet or nothing, never one of its last use.
    """
    begin = number * geometry.block_size
    at = begin + STATUS_OFFSET + _WORD
    memory[at : begin + geometry.block_size] = bytes(begin + geometry.block_size - at)


def walk(memory: memoryview, geometry: Geometry, block: Block) -> Iterator[Frame]:
    """Return the frames of *block*, oldest first; also of one that is being filled."""
    begin = block.number * geometry.block_size
    end = begin + geometry.block_size
    at = begin + block.first
    for _ in range(block.packets):
        if not begin + _BLOCK.size <= at <= end - _FRAME.size:
            return
        step, seconds, nanoseconds, kept, length, status, mac, _ = _FRAME.unpack_from(memory, at)
        # Counted, and not written so far: its time is what the kernel writes last.
        if seconds == 0 or at + mac + kept > end:
            return
        begins = at + mac
        octets, virtio = memory[begins : begins + kept], memory[begins - VIRTIO_SIZE : begins]
        yield Frame(seconds * _SECOND + nanoseconds, length, status, octets, virtio)
        # The last one of a block that was handed over leads nowhere.
        if step == 0:
            return
        at += step
