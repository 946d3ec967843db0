"""By which way a held packet is sent again: as the redirect goes, or into the port it came from.

A packet into the tunnel is put into VXLAN-GPE here, as the kernel's device does it, so that neither
a rule of this node's firewall nor its routes see it a second time.
"""

import errno
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Final, Protocol

from handover_nodeagent.hold import segments, virtio
from handover_nodeagent.hold.recorder import HoldRecorder
from handover_nodeagent.hold.segments import Unsendable
from handover_nodeagent.kernel import af_packet, syscalls
from handover_nodeagent.network.model import TUNNEL_ID, Encapsulated
from handover_nodeagent.sniff.ring import Octets
from handover_nodeagent.sniff.ring_blocks import Frame

Buffers = Sequence[Octets]
AGAIN: Final = frozenset({errno.EAGAIN, errno.ENOBUFS})
"""A queue is full; the next turn finds room in it."""

# draft-ietf-nvo3-vxlan-gpe section 3, as linux/vxlan.h has it: a network identifier and the next
# protocol are there; that protocol is IPv4 or IPv6.
_GPE: Final = struct.Struct("!BxxBI")
_FLAGS: Final = 0x08 | 0x04
_HEADERS: Final = {4: _GPE.pack(_FLAGS, 1, TUNNEL_ID << 8), 6: _GPE.pack(_FLAGS, 2, TUNNEL_ID << 8)}
"""By the version of the packet behind it."""

# linux/in.h, linux/in6.h: what is larger than a link is fragmented, as by the tunnel's device.
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_DONT: Final = 0


class Sender(Protocol):
    """One way to a guest."""

    def split(self, frame: Frame) -> Sequence[Buffers] | Unsendable:
        """Return what is to be sent of a frame; valid for as long as the frame is."""

    def send(self, buffers: Buffers) -> int:
        """Send it now or not at all; return an errno, 0 for none."""

    def close(self) -> None:
        """Send nothing more."""


class TunnelSender:
    """Into the redirect's tunnel."""

    def __init__(self, way: Encapsulated, port: int) -> None:
        """Open a socket; raise OSError where that cannot be."""
        is_ipv4 = isinstance(way.remote, IPv4Address)
        family = socket.AF_INET if is_ipv4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._to = (str(way.remote), port)
        if is_ipv4:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DONT)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _DONT)
        try:
            if way.source:
                # By it the peer's firewall knows us.
                self._socket.bind((str(way.source), 0))
        except OSError:
            self._socket.close()
            raise

    def split(self, frame: Frame) -> Sequence[Buffers] | Unsendable:
        """Cut what was left to a device to cut, and complete its checksums."""
        found = segments.packets(virtio.read(frame.virtio), frame.octets)
        if isinstance(found, Unsendable):
            return found
        header = _HEADERS[found[0][0] >> 4]
        return [(header, packet) for packet in found]

    def send(self, buffers: Buffers) -> int:
        """Send one packet in a datagram."""
        return syscalls.errno_of(lambda: self._socket.sendmsg(buffers, (), 0, self._to))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class LinkSender:
    """To a station on a link, by its MAC."""

    def __init__(self, ifindex: int, mac: str) -> None:
        """Open a socket; raise OSError where that cannot be."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.setsockopt(af_packet.SOL_PACKET, af_packet.VNET_HDR, 1)
            # Of protocol 0: it sends, and hears nothing.
            syscalls.bind_packet(self._socket, 0, ifindex)
            own: bytes = self._socket.getsockname()[4]
        except OSError:
            self._socket.close()
            raise
        self._stations = bytes.fromhex(mac.replace(":", "")) + own

    def split(self, frame: Frame) -> Sequence[Buffers] | Unsendable:
        """Leave to the device what was left to one."""
        begins = len(self._stations)
        return [(frame.virtio, self._stations, frame.octets[begins:])]

    def send(self, buffers: Buffers) -> int:
        """Send one frame."""
        return syscalls.errno_of(lambda: self._socket.sendmsg(buffers))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class PortSender:
    """Into the very port of which packets are held."""

    def __init__(self, recorder: HoldRecorder) -> None:
        self._recorder = recorder

    def split(self, frame: Frame) -> Sequence[Buffers] | Unsendable:
        """Leave all as it was."""
        return [(frame.virtio, frame.octets)]

    def send(self, buffers: Buffers) -> int:
        """Send one frame."""
        virtio_header, octets = buffers
        return self._recorder.send(virtio_header, octets)

    def close(self) -> None:
        """Leave the recorder as it is."""
