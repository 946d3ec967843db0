"""By which way a held packet goes on: into a real tunnel, onto a real link, octet by octet."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import Final

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.hold import sent
from tests.nodeagent.hold.port import descriptors, packet
from tests.nodeagent.hold.sent import ETHERNET, Sent
from tests.nodeagent.kernel import migration_net
from tests.nodeagent.kernel.migration_net import MigrationNet
from tests.nodeagent.sniff.conftest import GARP, NODE_MAC, Wire, run

from handover_nodeagent.hold import segments, virtio
from handover_nodeagent.hold.segments import Unsendable
from handover_nodeagent.hold.senders import LinkSender, TunnelSender
from handover_nodeagent.hold.virtio import Offload
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import Encapsulated
from handover_nodeagent.sniff.ring_blocks import Frame

pytestmark = pytest.mark.root

PORT: Final = 7472
# linux/if_ether.h, linux/if_packet.h.
ETH_P_ALL: Final = 3
SOL_PACKET: Final = 263
PACKET_VNET_HDR: Final = 15
PACKET_IGNORE_OUTGOING: Final = 23


def held(octets: bytes, offload: Offload = Offload()) -> Frame:  # noqa: B008
    """Return a frame as a ring holds it."""
    header = struct.pack("=BBHHHH", *offload)
    return Frame(1, len(octets), 0, memoryview(octets), memoryview(header))


@pytest.fixture(scope="module")
def net() -> Iterator[MigrationNet]:
    """Make two nodes in one segment, each with its tunnel; the first has two more addresses."""
    namespaces.needs_root()
    cpus = os.sched_getaffinity(0)
    # Each CPU has a backlog of its own: from two of them, packets may overtake each other.
    os.sched_setaffinity(0, {min(cpus)})
    with migration_net.made(routed=False) as it:
        own = it.node_address("b", 4)

        def ensure() -> None:
            with Channel() as channel:
                assert isinstance(tunnel.ensure(channel, "handover0", PORT, [own]), int)

        it.within("b", ensure)
        it.ip("a", "address add 192.0.2.77/24 dev eth", "address add fd00:66::77/64 dev eth nodad")
        yield it
    os.sched_setaffinity(0, cpus)


@pytest.fixture
def arrived(net: MigrationNet) -> Iterator[socket.socket]:
    """Give what comes out of the other node's tunnel."""
    with net.within("b", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, migration_net.RCVBUFFORCE, 1 << 23)
        # The kernel itself says there which groups it is in.
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.bind(("handover0", ETH_P_ALL))
        sock.settimeout(5)
        yield sock


@pytest.fixture(params=[4, 6], ids=["over IPv4", "over IPv6"])
def way(net: MigrationNet, request: pytest.FixtureRequest) -> Encapsulated:
    return Encapsulated(net.node_address("b", request.param))


@pytest.fixture
def sender(net: MigrationNet, way: Encapsulated) -> Iterator[TunnelSender]:
    it = net.within("a", lambda: TunnelSender(way, PORT))
    yield it
    it.close()


def send(sender: TunnelSender | LinkSender, frame: Frame) -> int:
    """Send all of a frame; return of how many parts it was."""
    found = sender.split(frame)
    assert not isinstance(found, Unsendable), found
    assert [sender.send(one) for one in found] == [0] * len(found)
    return len(found)


LONG: Final = os.urandom(60_001)
CASES: Final = [
    pytest.param(Sent(4, b"abc", sent.UDP, is_partial=False), 0, 1, id="IPv4"),
    pytest.param(Sent(6, b"abc", sent.UDP, is_partial=False), 0, 1, id="IPv6"),
    pytest.param(Sent(4, LONG[:99]), 0, 1, id="IPv4 with an unfinished checksum"),
    pytest.param(Sent(6, LONG[:99], sent.UDP), 0, 1, id="IPv6 with an unfinished checksum"),
    pytest.param(Sent(4, LONG[:1460]), 0, 1, id="IPv4 larger than what the underlay takes"),
    pytest.param(Sent(6, LONG[:1440]), 0, 1, id="IPv6 larger than what the underlay takes"),
    pytest.param(Sent(4, LONG[:8000], is_partial=False), 0, 1, id="in several fragments"),
    pytest.param(Sent(4, LONG, identification=65530), 1460, 42, id="TCP of 64 KiB over IPv4"),
    pytest.param(Sent(6, LONG), 1440, 42, id="TCP of 64 KiB over IPv6"),
    pytest.param(Sent(4, LONG[:4000], sent.UDP), 1400, 3, id="segments of UDP"),
]


@pytest.mark.parametrize(("it", "size", "number"), CASES)
def test_what_goes_into_the_tunnel_comes_out_as_it_would_have_been_on_the_wire(
    sender: TunnelSender, arrived: socket.socket, it: Sent, size: int, number: int
) -> None:
    offload = it.offload(size)
    assert send(sender, held(it.frame, offload)) == number
    expected = segments.packets(offload, it.frame)
    assert [arrived.recv(1 << 17) for _ in range(number)] == list(expected)
    for one in expected:
        assert isinstance(one, bytes)
        sent.payload_of(one, it)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("source", "is_named"),
    [("192.0.2.77", True), ("fd00:66::77", True), ("192.0.2.1", False), ("fd00:66::1", False)],
)
def test_it_comes_from_the_address_that_the_way_names_with_our_tunnels_header(
    net: MigrationNet, version: int, source: str, *, is_named: bool
) -> None:
    """By the source the other node's firewall knows it, by the network the other node's kernel."""
    address = ip_address(source)
    remote = net.node_address("b", address.version)
    way = Encapsulated(remote, address if is_named else None)
    it = Sent(version, b"abc", is_partial=False)
    # Nothing of a tunnel's is there: what is in the datagram is seen as it is.
    with net.socket("b", remote, socket.SOCK_DGRAM, 7999) as receiver:
        receiver.settimeout(5)
        sender = net.within("a", lambda: TunnelSender(way, 7999))
        send(sender, held(it.frame))
        sender.close()
        octets, comes_from = receiver.recvfrom(2000)
    if is_named:
        assert ip_address(comes_from[0]) == address
    protocol = 1 if version == 4 else 2
    assert octets == bytes([0x0C, 0, 0, protocol, 0, 0, 88, 0]) + it.frame[ETHERNET:]


def test_an_address_that_the_node_has_not_is_told_and_leaves_no_socket(net: MigrationNet) -> None:
    before = descriptors()
    for remote, source in (("192.0.2.2", "192.0.2.99"), ("fd00:66::2", "fd00:66::99")):
        way = Encapsulated(ip_address(remote), ip_address(source))
        with pytest.raises(OSError, match="Cannot assign") as caught:
            net.within("a", lambda way=way: TunnelSender(way, PORT))  # type: ignore[misc]
        assert caught.value.errno == errno.EADDRNOTAVAIL
    assert descriptors() == before


def test_what_is_no_packet_is_told(sender: TunnelSender) -> None:
    assert sender.split(held(GARP)) == Unsendable("the frame is not IP")


def test_what_the_kernel_refuses_is_told(sender: TunnelSender) -> None:
    found = sender.split(held(Sent(4, LONG + LONG[:5490], is_partial=False).frame))
    assert not isinstance(found, Unsendable)
    assert sender.send(found[0]) == errno.EMSGSIZE


def test_a_node_to_which_no_route_leads_is_told(net: MigrationNet) -> None:
    net.ip("a", "route add unreachable 198.51.100.0/24")
    way = Encapsulated(IPv4Address("198.51.100.1"))
    sender = net.within("a", lambda: TunnelSender(way, PORT))
    found = sender.split(held(packet(1)))
    assert not isinstance(found, Unsendable)
    assert sender.send(found[0]) == errno.EHOSTUNREACH
    sender.close()


# A link.

STATION: Final = "52:54:00:65:00:77"


@pytest.fixture
def link(wire: Wire, quiet: None) -> Iterator[LinkSender]:  # noqa: ARG001 - in its namespace
    it = LinkSender(wire.tap, STATION)
    yield it
    it.close()


@pytest.fixture
def far(wire: Wire, link: LinkSender) -> Iterator[socket.socket]:  # noqa: ARG001 - the namespace
    """Give what arrives at the other end, behind what is left to do of it."""
    with wire.guest_socket() as sock:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("eth", ETH_P_ALL))
        sock.settimeout(5)
        yield sock


@pytest.mark.parametrize(
    ("it", "size"),
    [
        pytest.param(Sent(4, b"abc", sent.UDP, is_partial=False), 0, id="IPv4"),
        pytest.param(Sent(6, LONG[:99]), 0, id="IPv6 with an unfinished checksum"),
        pytest.param(Sent(4, LONG), 1448, id="TCP of 64 KiB"),
    ],
)
def test_a_frame_goes_to_its_station_and_what_was_left_to_a_device_still_is(
    link: LinkSender, far: socket.socket, it: Sent, size: int
) -> None:
    offload = it.offload(size)
    assert send(link, held(it.frame, offload)) == 1
    octets = far.recv(1 << 17)
    stations = bytes.fromhex((STATION + NODE_MAC).replace(":", ""))
    assert octets[virtio.SIZE :] == stations + it.frame[12:]
    left = virtio.read(octets)
    assert (left.gso_type, left.gso_size) == (offload.gso_type, offload.gso_size)
    unfinished = offload.flags & virtio.NEEDS_CSUM
    assert left.flags & virtio.NEEDS_CSUM == unfinished
    if unfinished:
        assert left[4:] == offload[4:]


def test_a_link_that_is_gone_is_told_and_leaves_no_socket(wire: Wire) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="No such device"):
        LinkSender(4711, STATION)
    assert descriptors() == before
    it = LinkSender(wire.tap, STATION)
    run("ip link set tap down")
    found = it.split(held(packet(1)))
    assert not isinstance(found, Unsendable)
    assert it.send(found[0]) == errno.ENETDOWN
    it.close()
    assert descriptors() == before
