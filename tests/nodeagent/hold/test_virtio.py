"""The header before a frame, as linux/virtio_net.h lays it out."""

import struct

import pytest

from handover_nodeagent.hold import virtio
from handover_nodeagent.hold.virtio import Offload


def test_a_header_is_read_in_the_machines_own_order() -> None:
    octets = bytes([1, 0x81]) + struct.pack("=4H", 66, 1448, 34, 16)
    assert len(octets) == virtio.SIZE
    assert virtio.read(octets) == Offload(1, 0x81, 66, 1448, 34, 16)


def test_a_header_is_read_from_the_begin_of_what_a_socket_returned() -> None:
    octets = bytes([2, 0]) + bytes(8) + b"frame"
    assert virtio.read(memoryview(octets)) == Offload(flags=virtio.VALID)


def test_fewer_octets_are_no_header() -> None:
    with pytest.raises(struct.error):
        virtio.read(bytes(virtio.SIZE - 1))


def test_flags_and_types_are_the_kernels() -> None:
    assert (virtio.NEEDS_CSUM, virtio.VALID) == (1, 2)
    types = (virtio.GSO_NONE, virtio.GSO_TCPV4, virtio.GSO_UDP, virtio.GSO_TCPV6)
    assert types == (0, 1, 3, 4)
    assert (virtio.GSO_UDP_L4, virtio.GSO_ECN) == (5, 0x80)
