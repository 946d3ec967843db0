"""PURE: the frames that we send to a guest, made once: probes, and the gateway's correction.

A probe asks in the name of the guest's own gateway with our interface's MAC: never as 0.0.0.0 or
``::``, which to a guest that defends its address is a conflict (RFC 5227, RFC 4862). It goes to
the guest's MAC alone, so that nobody else hears or answers it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.network import gateways
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.sniff import frames

DEFAULT_GATEWAY: Final = IPv4Address("169.254.1.1")
_ALL_NODES: Final = IPv6Address("ff02::1").packed
# RFC 4291 section 2.7.1: the last three bytes are the address's own.
_SOLICITED_NODE: Final = IPv6Address("ff02::1:ff00:0").packed[:13]
_LINK_LOCAL: Final = IPv6Address("fe80::").packed[:8]
# Version 6, no traffic class, no flow label.
_IPV6_FLOW: Final = 6 << 28


@dataclass(frozen=True, slots=True)
class Questions:
    """The ready frames of one endpoint; none where its guest's MAC is unknown.

    ``ipv4`` and ``ipv6``: a probe for each address, and for each MAC that may have it.
    ``corrections``: the gateway tells the guest its MAC on this node. ``askers``: the senders of
    the probes, to whom answers are addressed.
    """

    ipv4: tuple[bytes, ...] = ()
    ipv6: tuple[bytes, ...] = ()
    corrections: tuple[bytes, ...] = ()
    askers: frozenset[IPAddress] = frozenset()

    def __bool__(self) -> bool:
        """Tell whether there is anything that may be asked."""
        return bool(self.ipv4 or self.ipv6)

    @property
    def all(self) -> tuple[bytes, ...]:
        """Every probe once."""
        return self.ipv4 + self.ipv6

    def turn(self, number: int) -> tuple[bytes, ...]:
        """Return one probe of each family; the addresses take turns."""
        families = (self.ipv4, self.ipv6)
        return tuple(probes[number % len(probes)] for probes in families if probes)


@dataclass(frozen=True, slots=True)
class Parties:
    """Who asks whom: two MACs, and the interface's own link-local address where it has one.

    ``witness``: another MAC that is asked the same, but told nothing.
    """

    guest: str | None
    interface: str
    link_local: IPv6Address | None = None
    witness: str | None = None


def compose(
    parties: Parties, addresses: Iterable[IPAddress], named: Iterable[IPAddress] = ()
) -> Questions:
    """Build the frames for *addresses*, asked by the *named* gateways or their defaults."""
    if parties.guest is None:
        return Questions()
    guest, ours = frames.pack_mac(parties.guest), frames.pack_mac(parties.interface)
    asked = [frames.pack_mac(mac) for mac in (parties.guest, parties.witness) if mac]
    guests = tuple(dict.fromkeys(addresses))
    # A guest that is its own gateway would defend its address against us.
    usable = [g for g in dict.fromkeys(named) if not g.is_unspecified and g not in guests]
    ipv4 = [g for g in usable if isinstance(g, IPv4Address)] or [DEFAULT_GATEWAY]
    link_local = parties.link_local or IPv6Address(_link_local_of(ours))
    ipv6 = [g for g in usable if isinstance(g, IPv6Address)] or [link_local]
    asker = next((g for g in ipv6 if g.is_link_local), link_local)
    # A guest with arp_ignore=2 answers whom it takes for its own subnet alone.
    asked_by = {a: gateways.nearest(ipv4, a) for a in guests if isinstance(a, IPv4Address)}
    guests4 = [a for a in guests if isinstance(a, IPv4Address)]
    guests6 = [a for a in guests if isinstance(a, IPv6Address)]
    return Questions(
        ipv4=tuple(arp_request(ours, mac, asked_by[a], a) for a in guests4 for mac in asked),
        ipv6=tuple(neighbor_solicitation(ours, mac, asker, a) for a in guests6 for mac in asked),
        corrections=(
            # One address will do: a guest learns who asks for any of its own (RFC 826).
            *(arp_request(ours, guest, gateway, a) for gateway in ipv4 for a in guests4[:1]),
            *(gateway_advertisement(ours, guest, gateway) for gateway in ipv6 if guests6),
        ),
        askers=frozenset([*(asked_by.values() or ipv4[:1]), asker]),
    )


def arp_request(ours: bytes, guest: bytes, asker: IPv4Address, address: IPv4Address) -> bytes:
    """Ask *guest* whether it has *address*; it learns *asker*'s MAC on the way (RFC 826)."""
    operation = (*frames.ETHERNET_IPV4, frames.ARP_REQUEST)
    return frames.ARP.pack(
        *(guest, ours, frames.ETH_P_ARP, *operation),
        *(ours, asker.packed, bytes(6), address.packed),
    )


def neighbor_solicitation(
    ours: bytes, guest: bytes, asker: IPv6Address, address: IPv6Address
) -> bytes:
    """Ask *guest* whether it has *address*.

    Only the MAC is unicast: to a solicitation whose IPv6 destination is unicast too, the answer
    may omit the link-layer option that we check (RFC 4861 section 4.4), and Linux omits it.
    """
    receiver = _SOLICITED_NODE + address.packed[-3:]
    option = (frames.OPTION_SOURCE_LINK_LAYER, ours)
    message = (frames.ND_SOLICIT, 0, address.packed)
    return _discovery((guest, ours), (asker.packed, receiver), message, option)


def gateway_advertisement(ours: bytes, guest: bytes, gateway: IPv6Address) -> bytes:
    """Tell *guest* that *gateway* is at our MAC now.

    Without the router flag the guest would drop it from its default routers (RFC 4861 7.2.5).
    """
    option = (frames.OPTION_TARGET_LINK_LAYER, ours)
    message = (frames.ND_ADVERT, frames.NA_ROUTER | frames.NA_OVERRIDE, gateway.packed)
    return _discovery((guest, ours), (gateway.packed, _ALL_NODES), message, option)


def _discovery(
    macs: tuple[bytes, bytes],
    addresses: tuple[bytes, bytes],
    message: tuple[int, int, bytes],
    option: tuple[int, bytes],
) -> bytes:
    kind, flags, target = message
    source, receiver = addresses
    trailer = bytes([option[0], 1]) + option[1]
    length = frames.ND.size - frames.ND_AT + len(trailer)

    def build(checksum: int) -> bytes:
        return (
            frames.ND.pack(
                *(*macs, frames.ETH_P_IPV6),
                *(_IPV6_FLOW, length, frames.IPPROTO_ICMPV6, frames.ND_HOP_LIMIT, source, receiver),
                *(kind, 0, checksum, flags, target),
            )
            + trailer
        )

    payload = build(0)[frames.ND_AT :]
    return build(frames.checksum(source + receiver, payload))


def _link_local_of(mac: bytes) -> bytes:
    """Return the address that the kernel derives from *mac* (RFC 4291 appendix A)."""
    return _LINK_LOCAL + bytes([mac[0] ^ 0x02]) + mac[1:3] + b"\xff\xfe" + mac[3:]
