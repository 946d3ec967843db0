"""PURE: a tunnel's device as link messages: VXLAN-GPE whose routes say where each packet goes.

"External" in ip-link(8), collect_md in the kernel: one device serves all peers, of both families.
GPE (draft-ietf-nvo3-vxlan-gpe) carries IP without an Ethernet header, so that nobody needs a MAC.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.kernel.netlink import codec

ALIAS: Final = "handover"
"""By it a device is known to be ours, whoever looks at it with ip-link(8)."""
MTU: Final = 9000
"""More than any underlay's: with less the kernel would tell senders of a smaller path, and they
would go by that for ten minutes after the guest has moved. The outer IPv4 packet is fragmented."""
ADDRESS: Final = IPv4Address("169.254.88.1")
"""The same on every node. The loose reverse path filter lets nothing in by a device that has no
IPv4 address at all (fib_validate_source in net/ipv4/fib_frontend.c)."""

_KIND: Final = "vxlan"
_LINK_BODY: Final = struct.Struct("=BxHiII")
"""struct ifinfomsg of linux/rtnetlink.h: family, hardware type, index, flags, changed flags."""
_ADDRESS_BODY: Final = struct.Struct("=BBBBI")
"""struct ifaddrmsg of linux/if_addr.h: family, prefix length, flags, scope, index."""
_UP: Final = 1
# IFLA_ numbers of linux/if_link.h.
_NAME: Final = 3
_MTU: Final = 4
_TYPE: Final = 18
_ALIAS: Final = 20
_FAMILIES: Final = 26
_EXTENSIONS: Final = 29
_SKIP_STATISTICS: Final = 8
# IFLA_INFO_KIND and IFLA_INFO_DATA, then IFLA_VXLAN_ numbers of the same file.
_TYPE_NAME: Final = 1
_TYPE_PARAMETERS: Final = 2
_LEARNING: Final = 7
_PORT: Final = 15
_ZERO_CHECKSUM_6_RX: Final = 20
_COLLECT_METADATA: Final = 25
_GPE: Final = 27
_NETWORK_ORDER: Final = struct.Struct("!H")
_NUMBER: Final = struct.Struct("=I")
_OFF, _ON = b"\0", b"\1"
# IFLA_INET_CONF and IFLA_INET6_ADDR_GEN_MODE of linux/if_link.h, IPV4_DEVCONF_ of linux/ip.h.
_INET_CONF: Final = 1
_ADDRESS_GENERATION: Final = 8
_BY_NOBODY: Final = b"\1"
"""IN6_ADDR_GEN_MODE_NONE: the link-local address is ours to give, so that the peers know it."""
_FORWARDING: Final = 1
_SEND_REDIRECTS: Final = 6
_REVERSE_PATH: Final = 8
_LOOSE: Final = 2
# IFA_ADDRESS and IFA_LOCAL of linux/if_addr.h, RT_SCOPE_ of linux/rtnetlink.h.
_PEER_OR_OWN: Final = 1
_OWN: Final = 2
_SCOPE_LINK: Final = 253
_SCOPE_HOST: Final = 254
_NO_DETECTION: Final = 0x02
"""IFA_F_NODAD: there is no link on which a neighbor could have the same one."""


@dataclass(frozen=True, slots=True)
class Device:
    """A link as far as it matters whether it is our tunnel; ``kind`` is "" for a hardware one.

    ``is_configured``: it is up, named ours, and set up as :func:`encode_configure` and
    :func:`encode_generate_no_address` would.
    """

    index: int
    kind: str
    alias: str
    port: int = 0
    is_tunnel: bool = False
    is_configured: bool = False

    @property
    def is_ours(self) -> bool:
        """Tell whether an agent made it, whatever it is like."""
        # One that an agent was killed over has no alias so far, but nobody makes such a one.
        return self.kind == _KIND and (self.alias == ALIAS or (self.is_tunnel and not self.alias))

    def is_right(self, port: int) -> bool:
        """Tell whether it is what a tunnel by *port* has to be."""
        return self.is_ours and self.is_tunnel and self.port == port


def encode_create(name: str, port: int) -> bytes:
    """Return the message that makes the device, which is down; EEXIST when name or port is taken.

    EOPNOTSUPP: the kernel has no VXLAN.
    """
    # No checksum is sent over IPv6, as the tunneled packet has its own: the peer must take that.
    parameters = (
        codec.attribute(_PORT, _NETWORK_ORDER.pack(port))
        + codec.attribute(_COLLECT_METADATA, _ON)
        + codec.attribute(_GPE, b"")
        # With it the kernel would keep a forwarding entry of each sender, also of a forged one.
        + codec.attribute(_LEARNING, _OFF)
        + codec.attribute(_ZERO_CHECKSUM_6_RX, _ON)
    )
    device_type = codec.attribute(_TYPE_NAME, _KIND.encode())
    device_type += codec.attribute(_TYPE_PARAMETERS | codec.NESTED, parameters)
    return codec.compose(
        codec.NEWLINK,
        codec.CREATE | codec.EXCLUSIVE,
        _LINK_BODY.pack(0, 0, 0, 0, 0)
        + codec.attribute(_NAME, _text(name))
        + codec.number(_MTU, MTU)
        + codec.attribute(_TYPE | codec.NESTED, device_type),
    )


def encode_configure(index: int) -> bytes:
    """Return the message that names the device ours and sets what /proc/sys has of it.

    By netlink, as a container's /proc/sys may not be written.
    """
    settings = (
        codec.number(_FORWARDING, 1)
        + codec.number(_REVERSE_PATH, _LOOSE)
        # What a peer sends us is never to be sent to another one instead.
        + codec.number(_SEND_REDIRECTS, 0)
    )
    inet = codec.attribute(_INET_CONF | codec.NESTED, settings)
    return codec.compose(
        codec.NEWLINK,
        0,
        _LINK_BODY.pack(0, 0, index, 0, 0)
        + codec.attribute(_ALIAS, ALIAS.encode())
        + codec.attribute(
            _FAMILIES | codec.NESTED, codec.attribute(codec.INET | codec.NESTED, inet)
        ),
    )


def encode_generate_no_address(index: int) -> bytes:
    """Return the message by which IPv6 gives the device no address; EAFNOSUPPORT without IPv6."""
    inet6 = codec.attribute(_ADDRESS_GENERATION, _BY_NOBODY)
    families = codec.attribute(codec.INET6 | codec.NESTED, inet6)
    body = _LINK_BODY.pack(0, 0, index, 0, 0)
    return codec.compose(
        codec.NEWLINK, 0, body + codec.attribute(_FAMILIES | codec.NESTED, families)
    )


def encode_up(index: int) -> bytes:
    """Return the message that opens its sockets; EADDRINUSE where somebody has the port."""
    return codec.compose(codec.NEWLINK, 0, _LINK_BODY.pack(0, 0, index, _UP, _UP))


def encode_address(index: int, address: IPv4Address | IPv6Address) -> bytes:
    """Return the message that gives the device *address*, alone; again, it changes nothing."""
    return codec.compose(codec.NEWADDR, codec.CREATE | codec.REPLACE, _encode_own(index, address))


def encode_remove_address(index: int, address: IPv4Address | IPv6Address) -> bytes:
    """Return the message that takes *address* from the device; EADDRNOTAVAIL: it is not there."""
    return codec.compose(codec.DELADDR, 0, _encode_own(index, address))


def _encode_own(index: int, address: IPv4Address | IPv6Address) -> bytes:
    is_inet = isinstance(address, IPv4Address)
    # Of scope host no packet of the node gets it as its source, also none that leaves by the tunnel
    # (inet_select_addr in net/ipv4/devinet.c): nobody could answer to it.
    scope = _SCOPE_HOST if is_inet else _SCOPE_LINK
    body = _ADDRESS_BODY.pack(
        codec.family_of(address),
        *(address.max_prefixlen, 0 if is_inet else _NO_DETECTION, scope, index),
    )
    own = codec.attribute(_OWN, address.packed) + codec.attribute(_PEER_OR_OWN, address.packed)
    return body + own


def encode_remove(index: int) -> bytes:
    """Return the message that removes a device, and all routes and addresses with it."""
    return codec.compose(codec.DELLINK, 0, _LINK_BODY.pack(0, 0, index, 0, 0))


def encode_question(name: str) -> bytes:
    """Return the question for the link that has *name*; ENODEV: nobody has it."""
    body = _LINK_BODY.pack(0, 0, 0, 0, 0) + codec.attribute(_NAME, _text(name))
    return codec.compose(codec.GETLINK, 0, body + codec.number(_EXTENSIONS, _SKIP_STATISTICS))


def decode(message: bytes) -> Device:
    """Read what answers :func:`encode_question`. Raises codec.MalformedError."""
    _, _, index, flags, _ = codec.unpack(_LINK_BODY, message, codec.HEADER.size)
    found = codec.attributes(message, codec.HEADER.size + _LINK_BODY.size)
    device_type = codec.attributes(found.get(_TYPE, b""), 0)
    kind = codec.to_text(device_type.get(_TYPE_NAME, b""))
    alias = codec.to_text(found.get(_ALIAS, b""))
    if kind != _KIND:
        return Device(index, kind, alias)
    shown = codec.attributes(device_type.get(_TYPE_PARAMETERS, b""), 0)
    (port,) = codec.unpack(_NETWORK_ORDER, shown.get(_PORT, b""), 0)
    is_tunnel = (
        shown.get(_COLLECT_METADATA, _OFF),
        _GPE in shown,
        shown.get(_LEARNING, _ON),
        shown.get(_ZERO_CHECKSUM_6_RX, _OFF),
    ) == (_ON, True, _OFF, _ON)
    is_configured = bool(flags & _UP) and alias == ALIAS and _is_set_up(found.get(_FAMILIES, b""))
    return Device(index, kind, alias, port, is_tunnel, is_configured)


def _is_set_up(shown: bytes) -> bool:
    families = codec.attributes(shown, 0)
    inet = codec.attributes(families.get(codec.INET, b""), 0).get(_INET_CONF, b"")
    if len(inet) < _REVERSE_PATH * _NUMBER.size:
        return False
    # The kernel shows all of them as an array, in which the first has number 1.
    settings = (
        _NUMBER.unpack_from(inet, (number - 1) * _NUMBER.size)[0]
        for number in (_FORWARDING, _REVERSE_PATH, _SEND_REDIRECTS)
    )
    # Without IPv6 there is nothing to be set.
    inet6 = codec.attributes(families.get(codec.INET6, b""), 0)
    generation = inet6.get(_ADDRESS_GENERATION, _BY_NOBODY)
    return tuple(settings) == (1, _LOOSE, 0) and generation == _BY_NOBODY


def _text(name: str) -> bytes:
    return name.encode() + b"\0"
