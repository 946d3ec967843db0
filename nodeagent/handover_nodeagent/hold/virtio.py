"""PURE: the header that PACKET_VNET_HDR puts before a frame: what its sender left to the device.

A packet socket writes struct virtio_net_hdr of linux/virtio_net.h in the machine's own byte order
(its "legacy" form), with offsets from the begin of the Ethernet frame where the socket is SOCK_RAW.
"""

import struct
from typing import Final, NamedTuple

# Flags.
NEEDS_CSUM: Final = 1
"""The field holds the pseudo header's sum alone; ``csum_start`` and ``csum_offset`` say where."""
VALID: Final = 2
"""VIRTIO_NET_HDR_F_DATA_VALID: whoever received the frame has verified its checksum."""

# Types of GSO. ECN is a bit beside each of them.
GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_UDP: Final = 3
"""UFO: IP fragments of one datagram, which no kernel since Linux 4.14 makes by itself."""
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
"""Many datagrams, of either family; known since Linux 6.2."""
GSO_ECN: Final = 0x80

# flags and gso_type, then hdr_len, gso_size, csum_start and csum_offset.
_HEADER: Final = struct.Struct("=BBHHHH")
SIZE: Final = _HEADER.size


class Offload(NamedTuple):
    """One header. ``csum_offset`` counts from ``csum_start``; ``hdr_len`` is a hint, no promise."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0


def read(octets: bytes | memoryview) -> Offload:
    """Read the first SIZE of *octets*; there have to be that many."""
    return Offload._make(_HEADER.unpack_from(octets))
