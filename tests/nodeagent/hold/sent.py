"""What a sender hands to a device that does its checksums and segments; and each sum, word by word.

Written down apart from what it judges: by the RFCs, with one addition for each word.
"""

import struct
from dataclasses import dataclass
from typing import Final

from handover_nodeagent.hold import virtio
from handover_nodeagent.hold.virtio import Offload

FIN: Final = 0x01
PSH: Final = 0x08
ACK: Final = 0x10
CWR: Final = 0x80
TCP: Final = 6
UDP: Final = 17
ETHERNET: Final = 14
MACS: Final = bytes.fromhex("525400650002 eeeeeeeeeeee")
ADDRESSES: Final = {
    4: bytes([10, 65, 0, 1, 10, 65, 0, 2]),
    6: bytes.fromhex("fd000065" + "00" * 11 + "01" + "fd000065" + "00" * 11 + "02"),
}
ETHERTYPES: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
DESTINATION_OPTIONS: Final = 60


def folded(octets: bytes | bytearray) -> int:
    """Return the ones' complement sum of the words of *octets*, as RFC 1071 section 4.1 has it."""
    total = 0
    for (word,) in struct.iter_unpack("!H", bytes(octets) + bytes(len(octets) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(version: int, protocol: int, length: int) -> bytes:
    """Compose the pseudo header; that of IPv6 has the same words, and zeros between."""
    return ADDRESSES[version] + struct.pack("!HH", protocol, length)


@dataclass(frozen=True)
class Sent:
    """One packet; ``between`` are words of IPv4 options, or extension headers of IPv6."""

    version: int = 4
    payload: bytes = b""
    protocol: int = TCP
    flags: int = ACK
    sequence: int = 1000
    identification: int = 7
    options: bytes = b""
    between: int = 0
    is_partial: bool = True

    @property
    def transport_at(self) -> int:
        """Where the transport header begins, from the begin of the frame."""
        return ETHERNET + (20 + 4 * self.between if self.version == 4 else 40 + 8 * self.between)

    @property
    def check_offset(self) -> int:
        """That of the checksum in the transport header."""
        return 16 if self.protocol == TCP else 6

    @property
    def frame(self) -> bytes:
        """All of it, with the sum of the pseudo header alone where the rest is left to others."""
        transport = self._transport()
        header = self._ipv4(len(transport)) if self.version == 4 else self._ipv6(len(transport))
        return MACS + ETHERTYPES[self.version] + header + transport

    def offload(self, gso_size: int = 0, gso_type: int | None = None) -> Offload:
        """Compose the header before it; segments are asked for by *gso_size*."""
        if gso_type is None:
            tcp = virtio.GSO_TCPV4 if self.version == 4 else virtio.GSO_TCPV6
            gso_type = tcp if self.protocol == TCP else virtio.GSO_UDP_L4
        kind = gso_type if gso_size else virtio.GSO_NONE
        if not self.is_partial:
            return Offload(virtio.VALID, kind, 0, gso_size)
        where = (self.transport_at, self.check_offset)
        size = 20 + len(self.options) if self.protocol == TCP else 8
        return Offload(virtio.NEEDS_CSUM, kind, self.transport_at + size, gso_size, *where)

    def _transport(self) -> bytes:
        if self.protocol == TCP:
            words = (20 + len(self.options)) // 4
            ports = struct.pack("!HHII", 8080, 40000, self.sequence, 99)
            begin = ports + struct.pack("!BBHHH", words << 4, self.flags, 501, 0, 0) + self.options
        else:
            begin = struct.pack("!HHHH", 8080, 40000, 8 + len(self.payload), 0)
        transport = bytearray(begin + self.payload)
        header = pseudo(self.version, self.protocol, len(transport))
        check = folded(header) if self.is_partial else 0xFFFF - folded(header + transport)
        struct.pack_into("!H", transport, self.check_offset, check)
        return bytes(transport)

    def _ipv4(self, length: int) -> bytes:
        size = 20 + 4 * self.between
        words = (0x40 + size // 4, 0, size + length, self.identification, 0x4000)
        header = bytearray(struct.pack("!BBHHHBBH", *words, 64, self.protocol, 0))
        # An option of one octet that says nothing: NOP.
        header += ADDRESSES[4] + b"\x01" * (size - 20)
        struct.pack_into("!H", header, 10, 0xFFFF - folded(header))
        return bytes(header)

    def _ipv6(self, length: int) -> bytes:
        kinds = [*[DESTINATION_OPTIONS] * self.between, self.protocol]
        header = struct.pack("!IHBB", 0x6A012345, 8 * self.between + length, kinds[0], 64)
        # Each with one option that fills it: PadN.
        extensions = [bytes([kind, 0, 1, 4, 0, 0, 0, 0]) for kind in kinds[1:]]
        return header + ADDRESSES[6] + b"".join(extensions)


def payload_of(packet: bytes, sent: Sent) -> bytes:
    """Return the payload of a *packet* made of *sent*, once each length and sum in it is right."""
    at = sent.transport_at - ETHERNET
    if sent.version == 4:
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        assert folded(packet[:at]) == 0xFFFF
    else:
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
    transport = packet[at:]
    size = transport[12] // 16 * 4 if sent.protocol == TCP else 8
    if sent.protocol == UDP:
        assert int.from_bytes(transport[4:6], "big") == len(transport)
        assert transport[6:8] != b"\0\0"
    header = pseudo(sent.version, sent.protocol, len(transport))
    assert folded(header + transport) == 0xFFFF
    return transport[size:]
