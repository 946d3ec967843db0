"""A ring of packets that the kernel fills in memory of ours: TPACKET_V3 (packet_mmap.rst).

No packet costs a system call or a step of Python: a reader looks at headers of blocks when it
likes, and gives a block back by one store. What the kernel finds no block for is lost, and the
newest goes first: so the reader gives the oldest back in time.

Making a ring and closing one each wait for an RCU grace period (``packet_set_ring`` calls
``synchronize_net``): 1-22 ms, never on the loop. ``open_socket`` is at once, ``Ring.on`` and
``Ring.close`` are for a thread (``background_ring.py``).
"""

import errno
import mmap
import os
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

from handover_nodeagent.kernel import af_packet, bpf, syscalls
from handover_nodeagent.sniff import ring_blocks
from handover_nodeagent.sniff.ring_blocks import Block, Frame, Geometry, Losses

_WORD: Final = 4

Octets = bytes | memoryview
Socket = socket.socket

_REASONS: Final = {
    errno.EPERM: "CAP_NET_RAW is missing",
    errno.ENOMEM: "there is no memory for it",
    # mmap of a process that locks all of its memory (mlockall), past RLIMIT_MEMLOCK.
    errno.EAGAIN: "no more memory may be locked",
    # A kernel, or a sandbox in its place, that knows AF_PACKET but not this version of its rings.
    errno.EINVAL: "the kernel has no TPACKET_V3",
    errno.ENOPROTOOPT: "the kernel has no TPACKET_V3",
    errno.ENODEV: "the interface is gone",
    errno.ENXIO: "the interface is gone",
    errno.ENETDOWN: "the interface is down",
}


class NoRing(NamedTuple):
    """Why there is no ring; all that it would have told stays unknown."""

    reason: str


def open_socket() -> socket.socket | NoRing:
    """Open a packet socket in this thread's network namespace; it hears nothing so far."""
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except OSError as error:
        return _refused(error)


class Ring:
    """One ring and its socket."""

    def __init__(self, sock: socket.socket, memory: mmap.mmap, geometry: Geometry) -> None:
        self._socket = sock
        self._mmap = memory
        self._memory = memoryview(memory)
        # A word of 32 bits is stored whole: the kernel sees a block as its own or as ours.
        self._words = self._memory.cast("I")
        self._geometry = geometry
        self._oldest = 0

    @classmethod
    def on(
        cls,
        sock: socket.socket,
        ifindex: int,
        program: bpf.Program,
        geometry: Geometry,
        *,
        is_inbound: bool = True,
        has_virtio: bool = False,
    ) -> Self | NoRing:
        """Fill a ring with what *program* keeps on interface *ifindex*; *sock* is its own then.

        Blocks for milliseconds. *is_inbound*: what we and this node send there is none of it.
        *has_virtio*: each frame comes, and is sent, behind what is left to a device to do.
        """
        try:
            sock.setsockopt(af_packet.SOL_PACKET, af_packet.VERSION, af_packet.TPACKET_V3)
            # Before there is a ring: its frames are laid out by it.
            sock.setsockopt(af_packet.SOL_PACKET, af_packet.VNET_HDR, int(has_virtio))
            sock.setsockopt(af_packet.SOL_PACKET, af_packet.IGNORE_OUTGOING, int(is_inbound))
            syscalls.attach_filter(sock, program)
            sock.setsockopt(af_packet.SOL_PACKET, af_packet.RX_RING, geometry.request())
            memory = mmap.mmap(sock.fileno(), geometry.size)
        except OSError as error:
            sock.close()
            return _refused(error)
        ring = cls(sock, memory, geometry)
        try:
            # Last of all: no frame of another interface, or from before the filter, gets in.
            syscalls.bind_packet(sock, af_packet.ETH_P_ALL, ifindex)
        except OSError as error:
            ring.close()
            return _refused(error)
        return ring

    def filter(self, program: bpf.Program) -> None:
        """Replace the filter, without a moment in between."""
        syscalls.attach_filter(self._socket, program)

    def retired(self) -> tuple[Block, ...]:
        """Return the blocks that the kernel has handed over, oldest first."""
        blocks = []
        for number in range(self._geometry.blocks):
            index = (self._oldest + number) % self._geometry.blocks
            if not self._words[self._status(index)] & ring_blocks.TP_STATUS_USER:
                break
            blocks.append(ring_blocks.read_block(self._memory, self._geometry, index))
        return tuple(blocks)

    def open_block(self, retired: tuple[Block, ...]) -> Block | None:
        """Return the block that is being filled, behind the *retired*; None: the ring is full.

        packet_mmap.rst gives a reader no right to it, but all kernels fill it in this order; what
        the guest sent last is there until its time is up, and nowhere else.
        """
        if len(retired) == self._geometry.blocks:
            return None
        index = (self._oldest + len(retired)) % self._geometry.blocks
        return ring_blocks.read_block(self._memory, self._geometry, index)

    def frames(self, block: Block) -> Iterator[Frame]:
        """Return the frames of *block*, which must not be released meanwhile."""
        return ring_blocks.walk(self._memory, self._geometry, block)

    def release(self, count: int) -> None:
        """Give the oldest *count* of the retired blocks back to the kernel."""
        for _ in range(count):
            ring_blocks.clear(self._memory, self._geometry, self._oldest)
            self._words[self._status(self._oldest)] = ring_blocks.TP_STATUS_KERNEL
            self._oldest = (self._oldest + 1) % self._geometry.blocks

    def losses(self) -> Losses:
        """Return what found no room since this was asked last."""
        option = af_packet.STATISTICS, ring_blocks.STATISTICS_SIZE
        return ring_blocks.read_losses(self._socket.getsockopt(af_packet.SOL_PACKET, *option))

    def send(self, virtio: Octets, frame: Octets) -> int:
        """Send a frame out of the interface, never into the ring itself; return an errno, or 0.

        Of a ring whose frames have a virtio header.
        """
        return syscalls.errno_of(lambda: self._socket.sendmsg((virtio, frame)))

    def close(self) -> None:
        """Unmap and close; blocks for milliseconds.

        Raises:
            BufferError: somebody still holds a frame's octets.
        """
        self._words.release()
        self._memory.release()
        # The map keeps a descriptor of its own: the socket ends with the last of the two.
        self._socket.close()
        self._mmap.close()

    def _status(self, index: int) -> int:
        return (index * self._geometry.block_size + ring_blocks.STATUS_OFFSET) // _WORD


def _refused(error: OSError) -> NoRing:
    return NoRing(_REASONS.get(error.errno or 0) or os.strerror(error.errno or 0))
