"""The kernel itself as judge: a device without offloads makes it sum and segment in software."""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.hold import sent
from tests.nodeagent.hold.sent import ACK, CWR, ETHERNET, FIN, PSH, Sent
from tests.nodeagent.sniff.conftest import await_shown, run

from handover_nodeagent.hold import virtio
from handover_nodeagent.hold.segments import packets
from handover_nodeagent.hold.virtio import Offload

pytestmark = pytest.mark.root

# linux/if_packet.h, linux/if_ether.h, linux/sockios.h, linux/ethtool.h.
SOL_PACKET: Final = 263
PACKET_VNET_HDR: Final = 15
ETH_P_ALL: Final = 3
SIOCETHTOOL: Final = 0x8946
ETHTOOL_STXCSUM: Final = 0x17
ETHTOOL_STSO: Final = 0x1F

TIMESTAMPS: Final = bytes.fromhex("0101080a0000000100000002")
END: Final = sent.MACS + bytes.fromhex("88b5") + bytes(46)
"""A frame that nobody answers: what was sent before it has arrived."""
SMALL: Final = os.urandom(4000)
HUGE: Final = os.urandom(60001)
EVERYTHING: Final = ACK | FIN | PSH | CWR


class Wire(NamedTuple):
    """A veth pair; ``sender`` has a virtio header before each frame."""

    sender: socket.socket
    receiver: socket.socket

    def cross(self, offload: Offload, frame: bytes) -> list[bytes]:
        """Send *frame*; return what arrives."""
        self.sender.send(struct.pack("=BBHHHH", *offload) + frame)
        self.sender.send(bytes(virtio.SIZE) + END)
        return list(iter(lambda: self.receiver.recv(1 << 17), END))


def packet_socket(name: str, *, has_header: bool) -> socket.socket:
    it = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    if has_header:
        it.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    # Room for all segments of a frame of 64 KiB, each of which counts with all of its memory.
    it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    it.bind((name, ETH_P_ALL))
    it.settimeout(10)
    return it


def switch_off(name: str, command: int) -> None:
    """Switch an offload off, as ``ethtool -K`` does: an ifreq that points at an ethtool_value."""
    value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
    request = struct.pack("@16sP16x", name.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)


@pytest.fixture
def veth() -> Iterator[None]:
    """Make a pair on which nothing is sent but what the test sends."""
    namespaces.needs_root()
    cpus = os.sched_getaffinity(0)
    with namespaces.restored():
        namespaces.enter_new()
        run("ip link add near type veth peer name far")
        for name in ("near", "far"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1", encoding="ascii")
            run(f"ip link set {name} up")
        for name in ("near", "far"):
            await_shown(f"ip link show {name}", "qdisc noqueue state UP")
        # Each CPU has a backlog of its own: from two of them, frames may overtake each other.
        os.sched_setaffinity(0, {min(cpus)})
        yield
        os.sched_setaffinity(0, cpus)
        run("ip link delete near")


@pytest.fixture
def wire(veth: None) -> Iterator[Wire]:  # noqa: ARG001 - made in its namespace
    """Give both ends of a device without offloads."""
    switch_off("near", ETHTOOL_STSO)
    switch_off("near", ETHTOOL_STXCSUM)
    near, far = packet_socket("near", has_header=True), packet_socket("far", has_header=False)
    with near, far:
        yield Wire(near, far)


# No segment is longer than the pair's MTU of 1500: a veth drops what is.
CASES: Final = [
    pytest.param(Sent(4, SMALL, options=TIMESTAMPS), 1448, 3, id="TCPv4"),
    pytest.param(Sent(4, HUGE, identification=65530), 1448, 42, id="TCPv4 of 64 KiB"),
    pytest.param(Sent(4, SMALL, sequence=2**32 - 100, between=3), 1337, 3, id="TCPv4 with options"),
    pytest.param(Sent(6, SMALL, options=TIMESTAMPS), 1428, 3, id="TCPv6"),
    pytest.param(Sent(6, SMALL, between=2), 999, 5, id="TCPv6 with extension headers"),
    pytest.param(Sent(4, SMALL, flags=EVERYTHING), 1448, 3, id="TCPv4 with all flags, no ECN"),
    pytest.param(Sent(6, SMALL, flags=EVERYTHING), 1440, 3, id="TCPv6 with all flags, no ECN"),
    pytest.param(Sent(4, SMALL, is_partial=False), 1448, 3, id="TCPv4 whose sum was verified"),
    pytest.param(Sent(6, SMALL, is_partial=False), 1440, 3, id="TCPv6 whose sum was verified"),
    pytest.param(Sent(4, SMALL, sent.UDP), 1337, 3, id="UDPv4"),
    pytest.param(Sent(6, SMALL, sent.UDP), 1400, 3, id="UDPv6"),
    pytest.param(Sent(4, SMALL, sent.UDP, between=2), 1000, 4, id="UDPv4 in whole segments"),
    pytest.param(Sent(4, SMALL[:100]), 1448, 1, id="one segment of TCP"),
    pytest.param(Sent(6, SMALL[:101], sent.UDP), 1448, 1, id="one datagram"),
    pytest.param(Sent(4, SMALL[:999]), 0, 1, id="a sum of TCPv4"),
    pytest.param(Sent(6, SMALL[:1000]), 0, 1, id="a sum of TCPv6"),
    pytest.param(Sent(4, SMALL[:77], sent.UDP), 0, 1, id="a sum of UDPv4"),
    pytest.param(Sent(6, SMALL[:78], sent.UDP), 0, 1, id="a sum of UDPv6"),
]


@pytest.mark.parametrize(("it", "size", "number"), CASES)
def test_the_kernel_makes_the_same_packets(wire: Wire, it: Sent, size: int, number: int) -> None:
    arrived = [frame[ETHERNET:] for frame in wire.cross(it.offload(size), it.frame)]
    assert len(arrived) == number
    assert packets(it.offload(size), it.frame) == tuple(arrived)


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_keeps_cwr_to_the_first_segment_with_ecn(wire: Wire, version: int) -> None:
    it = Sent(version, SMALL, flags=EVERYTHING)
    plain = it.offload(1440)
    offload = plain._replace(gso_type=plain.gso_type | virtio.GSO_ECN)
    arrived = [frame[ETHERNET:] for frame in wire.cross(offload, it.frame)]
    at = it.transport_at - ETHERNET + 13
    assert [packet[at] for packet in arrived] == [ACK | CWR, ACK, ACK | FIN | PSH]
    assert packets(offload, it.frame) == tuple(arrived)


@pytest.mark.parametrize("protocol", [sent.TCP, sent.UDP])
@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_sums_to_zero_alike(wire: Wire, version: int, protocol: int) -> None:
    """Two segments, and a packet alone, each with words that add up to 0xFFFF."""
    blank = Sent(version, bytes(2), protocol, is_partial=False)
    at = blank.transport_at + blank.check_offset
    (word,) = struct.unpack_from("!H", blank.frame, at)
    alone = Sent(version, struct.pack("!H", word), protocol)
    (arrived,) = wire.cross(alone.offload(), alone.frame)
    assert arrived[at : at + 2] == b"\xff\xff"
    assert packets(alone.offload(), alone.frame) == (arrived[ETHERNET:],)
    # The first of two segments. In UDP its length counts twice, in TCP once.
    longer = 18 * (2 if protocol == sent.UDP else 1)
    pair = Sent(version, (struct.pack("!H", word - longer) + bytes(18)) * 2, protocol)
    found = [frame[ETHERNET:] for frame in wire.cross(pair.offload(20), pair.frame)]
    zero = b"\xff\xff" if protocol == sent.UDP else b"\0\0"
    assert found[0][at - ETHERNET : at - ETHERNET + 2] == zero
    assert packets(pair.offload(20), pair.frame) == tuple(found)


@pytest.mark.parametrize(("it", "size", "number"), CASES)
@pytest.mark.usefixtures("veth")
def test_a_copy_on_its_way_into_a_device_has_its_header(it: Sent, size: int, number: int) -> None:
    """Where the device takes offloads, which a VM's port does as far as its guest wants them."""
    near, copies = (packet_socket("near", has_header=True) for _ in range(2))
    with near, copies:
        near.send(struct.pack("=BBHHHH", *it.offload(size)) + it.frame)
        octets = memoryview(copies.recv(1 << 17))
    offload, frame = virtio.read(octets), octets[virtio.SIZE :]
    found = packets(offload, frame)
    assert found == packets(it.offload(size), it.frame)
    assert len(found) == number
