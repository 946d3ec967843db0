"""Sends more into a port than anybody can take, for a while.

    python flood.py small|large SECONDS

``small``: 200,000 UDP packets a second of 300 octets, which the kernel cuts. ``large``: 10 Gbit/s
in frames that are left to a device to cut. Both to 10.65.0.2 by device ``flood``. Prints
how often it has sent.
"""

import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Final

from handover_nodeagent.kernel import af_packet

DEVICE: Final = "flood"
ADDRESS: Final = "10.65.0.2"
# linux/udp.h, linux/virtio_net.h.
UDP_SEGMENT: Final = 103
GSO_TCPV4: Final = 1
NEEDS_CHECKSUM: Final = 1
SEGMENTS: Final = 50
OCTETS: Final = 300
STRETCH: Final = 64_000


def small() -> tuple[Callable[[], object], float]:
    """Return what sends some packets, and how often it is to, in seconds."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, OCTETS)
    sock.connect((ADDRESS, 9))
    octets = bytes(OCTETS * SEGMENTS)
    return lambda: sock.send(octets), SEGMENTS / 200_000


def large() -> tuple[Callable[[], object], float]:
    """Return the same for a frame."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(af_packet.SOL_PACKET, af_packet.VNET_HDR, 1)
    sock.bind((DEVICE, 0x0800))
    addresses = socket.inet_aton("10.65.0.1") + socket.inet_aton(ADDRESS)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, STRETCH + 40, 1, 0, 64, 6, 0) + addresses
    tcp = struct.pack("!HHIIBBHHH", 9, 9, 0, 0, 0x50, 0x10, 65535, 0, 0)
    header = struct.pack("<BBHHHH", NEEDS_CHECKSUM, GSO_TCPV4, 54, 1448, 34, 16)
    ethernet = bytes.fromhex("525400650002 020000000001 0800")
    frame = header + ethernet + ip + tcp + bytes(STRETCH)
    return lambda: sock.send(frame), 8 * STRETCH / 10e9


def main() -> None:
    """Send at a rate, as far as this machine can."""
    send, interval = {"small": small, "large": large}[sys.argv[1]]()
    due = time.monotonic()
    end = due + float(sys.argv[2])
    sent = 0
    while due < end:
        send()
        sent += 1
        due += interval
        early = due - time.monotonic()
        if early > 0.001:
            time.sleep(early)
    sys.stdout.write(f"{sent}\n")


if __name__ == "__main__":
    main()
