"""PURE: from what witnesses recorded on each node to the moments of one switchover."""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, NamedTuple

RECORD: Final = struct.Struct("<BqI")
"""What it is, when, and how many bytes of it follow."""
RARP, ROUTES, MESSAGE_IN, MESSAGE_OUT, FRAME, REQUEST, ANSWER = 1, 2, 3, 4, 5, 6, 7

# The second byte of a message between agents says what it is.
HAVE: Final = 3
ACK: Final = 5

PROTOCOL: Final = 88
"""Of the agents' own routes: HandoverConfiguration's default."""

FLOOR_ADDRESS: Final = "192.0.2.88"
FLOOR_ADDRESS6: Final = "2001:db8::88"
"""Of the documentation's (RFC 5737, RFC 3849): the floor's own routes, to which nobody sends."""

# linux/netlink.h: struct nlmsghdr. linux/rtnetlink.h: struct rtmsg without its flags, which nobody
# reads here; struct rtattr; the types.
_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=8BI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RTA_PRIORITY, _RTA_ENCAP, _RTA_NH_ID = 6, 22, 30
_MAIN: Final = 254
_ALIGN: Final = 4

# Ethernet and IP without options, then UDP.
_ETHERTYPE: Final = slice(12, 14)
_IPV4_LENGTH: Final = slice(16, 18)
_IPV6_LENGTH: Final = slice(18, 20)
_PAYLOADS: Final = {b"\x08\x00": 14 + 20 + 8, b"\x86\xdd": 14 + 40 + 8}


class RouteChange(NamedTuple):
    """A host route of the main table that was added, replaced or removed."""

    at_ns: int
    address: str
    protocol: int
    """Who made it."""
    is_present: bool
    leads_on: bool
    """By a gateway, a tunnel or a nexthop object: not to a guest of this node."""
    way: tuple[str, ...]
    """All that says whereto, so that two can be compared."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one witness has recorded of a stretch of time."""

    rarps_ns: tuple[int, ...]
    routes: tuple[RouteChange, ...]
    messages: tuple[tuple[int, int, bool], ...]
    """When, of which kind, and whether it was sent from here."""
    frames_ns: tuple[int, ...] = ()
    """When a guest that had been quiet sent something by itself."""
    requests: tuple[tuple[int, int, bool], ...] = ()
    """When, the client's port, and whether it was the guest's answer."""


class Moments(NamedTuple):
    """When what happened, in realtime ns; None: nobody saw it."""

    announced_ns: int
    routed_ns: int | None = None
    redirected_ns: int | None = None
    said_ns: int | None = None
    acknowledged_ns: int | None = None
    last_node_ns: int | None = None
    floor_ns: int | None = None
    awake_ns: int | None = None
    """The guest's first own frame at the target."""
    waiting_ns: int | None = None
    """When the client's request came to the source that had no answer there."""
    asked_ns: int | None = None
    """When a request came to the target; None: the guest brought it along."""
    answered_ns: int | None = None
    """When the guest sent its first answer at the target."""

    def after_announcement_us(self, moment_ns: int | None) -> float | None:
        """Return how long after the announcement that was."""
        return None if moment_ns is None else (moment_ns - self.announced_ns) / 1e3

    @property
    def statement_to_answer_us(self) -> float | None:
        """Return how long the source's answer took."""
        if self.said_ns is None or self.acknowledged_ns is None:
            return None
        return (self.acknowledged_ns - self.said_ns) / 1e3


def read(content: bytes, start_ns: int, end_ns: int) -> Seen:
    """Take apart the records of a stretch of time; the last one may not be whole."""
    rarps, routes, messages = list[int](), list[RouteChange](), list[tuple[int, int, bool]]()
    frames, requests = list[int](), list[tuple[int, int, bool]]()
    for what, at_ns, octets in records(content):
        if not start_ns <= at_ns < end_ns:
            continue
        if what == RARP:
            rarps.append(at_ns)
        elif what == FRAME:
            frames.append(at_ns)
        elif what in {REQUEST, ANSWER}:
            if port := port_of_client(octets, is_answer=what == ANSWER):
                requests.append((at_ns, port, what == ANSWER))
        elif what == ROUTES:
            routes += route_changes(at_ns, octets)
        elif (payload := _PAYLOADS.get(octets[_ETHERTYPE])) and len(octets) > payload + 1:
            messages.append((at_ns, octets[payload + 1], what == MESSAGE_OUT))
    return Seen(tuple(rarps), tuple(routes), tuple(messages), tuple(frames), tuple(requests))


def port_of_client(frame: bytes, *, is_answer: bool) -> int:
    """Return the client's port of a TCP segment; 0: the segment carries nothing."""
    is_ipv4 = frame[_ETHERTYPE] == b"\x08\x00"
    tcp = 14 + (20 if is_ipv4 else 40)
    length = int.from_bytes(frame[_IPV4_LENGTH if is_ipv4 else _IPV6_LENGTH])
    # IPv4 counts its own header, IPv6 does not; TCP's tells its length in words of 4 bytes.
    if length - 20 * is_ipv4 <= (frame[tcp + 12] >> 4) * 4:
        return 0
    return int.from_bytes(frame[tcp + 2 : tcp + 4] if is_answer else frame[tcp : tcp + 2])


def records(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield each whole record."""
    at = 0
    while at + RECORD.size <= len(content):
        what, at_ns, size = RECORD.unpack_from(content, at)
        at += RECORD.size
        if at + size > len(content):
            return
        yield what, at_ns, content[at : at + size]
        at += size


def route_changes(at_ns: int, octets: bytes) -> Iterator[RouteChange]:
    """Yield the changes of host routes in the main table of one netlink datagram."""
    at = 0
    while at + _HEADER.size + _ROUTE.size <= len(octets):
        size, kind, *_ = _HEADER.unpack_from(octets, at)
        message = octets[at + _HEADER.size : at + size]
        at += max(aligned(size), _HEADER.size)
        if kind not in {_RTM_NEWROUTE, _RTM_DELROUTE}:
            continue
        _, prefix, _, _, table, protocol, *_ = _ROUTE.unpack_from(message)
        known = dict(attributes(message[_ROUTE.size :]))
        address = known.get(_RTA_DST, b"")
        if table != _MAIN or not address or prefix != 8 * len(address):
            continue
        parts = (_RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_ENCAP, _RTA_NH_ID)
        yield RouteChange(
            at_ns,
            str(ip_address(address)),
            protocol,
            kind == _RTM_NEWROUTE,
            bool(known.keys() & {_RTA_GATEWAY, _RTA_ENCAP, _RTA_NH_ID}),
            tuple(known.get(part, b"").hex() for part in parts),
        )


def attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each attribute; NLA_F_NESTED is not a part of a type."""
    at = 0
    while at + _ATTRIBUTE.size <= len(octets):
        size, kind = _ATTRIBUTE.unpack_from(octets, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, octets[at + _ATTRIBUTE.size : at + size]
        at += aligned(size)


def aligned(size: int) -> int:
    """Round up as netlink does."""
    return (size + _ALIGN - 1) & ~(_ALIGN - 1)


def of_switchover(
    seen: Mapping[str, Seen], source: str, target: str, address: str, client: int = 0
) -> Moments | None:
    """Find the moments of a guest with *address* that has moved; None: it never announced itself.

    *client* is the port of one that asks it in turn.

    *seen* is by node, of a stretch of time with one switchover in it; who is neither source nor
    target is a bystander. One whose way leads on as before had nothing to follow.
    """
    if not seen[target].rarps_ns:
        return None
    announced = min(seen[target].rarps_ns)

    def first(moments: Iterable[int]) -> int | None:
        return min((at_ns for at_ns in moments if at_ns >= announced), default=None)

    def changed(node: str, wanted: Callable[[RouteChange], bool], to: str = address) -> int | None:
        changes = (each for each in seen[node].routes if each.address == to and each.is_present)
        return first(each.at_ns for each in changes if wanted(each))

    def said(node: str, kind: int, *, outgoing: bool) -> int | None:
        messages = seen[node].messages
        return first(at for at, said, is_out in messages if (said, is_out) == (kind, outgoing))

    def segments(node: str, *, is_answer: bool) -> list[int]:
        return [at for at, *rest in seen[node].requests if rest == [client, is_answer]]

    last = max(segments(source, is_answer=True), default=0)
    unanswered = (at for at in segments(source, is_answer=False) if last < at < announced)
    answered = first(segments(target, is_answer=True))
    asked = first(segments(target, is_answer=False))
    if answered is not None and asked is not None and asked > answered:
        asked = None
    bystanders = seen.keys() - {source, target}
    followed = [changed(node, lambda each: each.leads_on) for node in bystanders]
    return Moments(
        announced,
        changed(target, lambda each: not each.leads_on),
        # A speaker on the source's node writes a route of its own there, when it has learned one.
        changed(source, lambda each: each.leads_on and each.protocol == PROTOCOL),
        said(target, HAVE, outgoing=True),
        said(target, ACK, outgoing=False),
        max((at_ns for at_ns in followed if at_ns is not None), default=None),
        changed(source, lambda _: True, FLOOR_ADDRESS),
        first(seen[target].frames_ns),
        min(unanswered, default=None),
        asked,
        answered,
    )
