"""A frame as one line for a person, and what it would prove; no bytes whatsoever raise.

It reads by the formats of ``sniff/frames.py``, but says also what that module has no use for.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_nodeagent.sniff import frames, verdict
from handover_nodeagent.sniff.verdict import Accepted, Expectation, NeedsConfirmation, Reason

_OPERATIONS: Final = {
    frames.ARP_REQUEST: "request",
    frames.ARP_REPLY: "reply",
    frames.RARP_REQUEST: "reverse request",
}
_MESSAGES: Final = {frames.ND_SOLICIT: "solicitation", frames.ND_ADVERT: "advertisement"}
_FLAGS: Final = (
    (frames.NA_ROUTER, "router"),
    (frames.NA_SOLICITED, "solicited"),
    (frames.NA_OVERRIDE, "override"),
)
# Two MACs and the EtherType (IEEE 802.3); no tag is looked for, as none is seen here.
_HEADER: Final = 14
# Enough of a frame that nobody can read to tell one from another, and still one line.
_SHOWN: Final = 32
SENTENCES: Final = {
    Reason.FORGED_SENDER: "its Ethernet source is not the MAC that it speaks for",
    Reason.OTHER_MAC: "it comes from another MAC",
    Reason.NOT_ARMED: "the migration is not armed: only a RARP would count",
    Reason.UNKNOWN_MAC: "the guest's MAC is not known: only a RARP would count",
    Reason.OTHER_ADDRESS: "its address is none of the endpoint's",
    Reason.NOT_OUR_PROBE: "it answers somebody else",
    Reason.IRRELEVANT: "it is no announcement, or broken",
}


def describe(octets: bytes) -> str:
    """Describe a frame: who sends it to whom, what it says, and how long it is."""
    if len(octets) < _HEADER:
        return f"{_hex(octets)}, {len(octets)} bytes"
    kind = int.from_bytes(octets[12:14])
    return f"{_mac(octets[6:12])} > {_mac(octets[:6])} {_body(kind, octets)}, {len(octets)} bytes"


def explain(expected: Expectation, octets: bytes) -> str:
    """Say what the agent would make of a frame."""
    frame = frames.parse(octets)
    if frame is None:
        return f"no: {SENTENCES[Reason.IRRELEVANT]}"
    judgment = verdict.judge(expected, frame)
    if isinstance(judgment, Accepted):
        return f"YES: {judgment.signal} of {judgment.mac}"
    if isinstance(judgment, NeedsConfirmation):
        return "maybe: it counts once the guest answers a probe"
    return f"no: {SENTENCES[judgment.reason]}"


def _body(kind: int, octets: bytes) -> str:
    """Describe what follows the header; what is too short for its kind is shown as octets."""
    if kind in {frames.ETH_P_ARP, frames.ETH_P_RARP} and len(octets) >= frames.ARP.size:
        return _arp("ARP" if kind == frames.ETH_P_ARP else "RARP", octets)
    if kind == frames.ETH_P_IPV6 and len(octets) >= frames.ND.size:
        return _discovery(octets)
    return f"EtherType {kind:#06x} {_hex(octets[_HEADER:])}"


def _arp(name: str, octets: bytes) -> str:
    _, _, _, *form, operation, sha, spa, tha, tpa = frames.ARP.unpack_from(octets)
    # Other hardware and protocols have addresses of other lengths, which the format cannot unpack.
    if tuple(form) != frames.ETHERNET_IPV4:
        return f"{name} of another kind {_hex(octets[_HEADER:])}"
    said = _OPERATIONS.get(operation, f"operation {operation}")
    sender, target = (f"{IPv4Address(ip)} at {_mac(mac)}" for ip, mac in ((spa, sha), (tpa, tha)))
    return f"{name} {said} from {sender} to {target}"


def _discovery(octets: bytes) -> str:
    fields = frames.ND.unpack_from(octets)
    header, source, receiver, kind, flags, target = (
        *fields[5:6],
        *fields[7:10],
        *fields[12:14],
    )
    way = f"{IPv6Address(source)} > {IPv6Address(receiver)}"
    if header != frames.IPPROTO_ICMPV6 or kind not in _MESSAGES:
        return f"IPv6 {way} next header {header}"
    # A solicitation has no flags: those bits are reserved there (RFC 4861, 4.3).
    names = [name for bit, name in _FLAGS if flags & bit and kind == frames.ND_ADVERT]
    marks = f" ({', '.join(names)})" if names else ""
    return f"IPv6 {way} neighbor {_MESSAGES[kind]}{marks} for {IPv6Address(target)}"


def _mac(octets: bytes) -> str:
    return octets.hex(":")


def _hex(octets: bytes) -> str:
    more = "…" if len(octets) > _SHOWN else ""
    return f"[{octets[:_SHOWN].hex()}{more}]"
