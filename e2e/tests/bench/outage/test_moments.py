"""The moments of a switchover, from what each node's witness recorded."""

import struct
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

import pytest
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from handover_lab.bench.outage import moments
from handover_lab.bench.outage.moments import (
    ACK,
    ANSWER,
    FRAME,
    HAVE,
    MESSAGE_IN,
    MESSAGE_OUT,
    RARP,
    RECORD,
    REQUEST,
    ROUTES,
    Moments,
    Seen,
)

VM: Final = "10.244.11.200"
VM6: Final = "fd00:244:11::200"
PEER: Final = "172.30.0.12"
NEW, DELETE = 24, 25
NOTHING: Final = Seen((), (), ())


def recorded(what: int, at_ns: int, octets: bytes) -> bytes:
    return RECORD.pack(what, at_ns, len(octets)) + octets


def route(
    address: str,
    *,
    kind: int = NEW,
    protocol: int = 88,
    table: int = 254,
    oif: int | None = None,
    gateway: str | None = None,
    more: tuple[int, bytes] | None = None,
) -> bytes:
    """Encode a notification as pyroute2 does; *more* is an attribute that it has no name for."""
    message = rtmsg()
    found = ip_address(address)
    message["family"] = 2 if found.version == 4 else 10
    message["dst_len"] = found.max_prefixlen
    message["table"], message["proto"] = table, protocol
    known = [
        ("RTA_DST", address),
        ("RTA_PRIORITY", 512),
        ("RTA_OIF", oif),
        ("RTA_GATEWAY", gateway),
    ]
    message["attrs"] = [(name, value) for name, value in known if value is not None]
    message["header"]["type"] = kind
    message.encode()
    octets = bytearray(message.data)
    if more:
        octets += struct.pack("=HH", 4 + len(more[1]), more[0]) + more[1]
        struct.pack_into("=I", octets, 0, len(octets))
    return bytes(octets)


NEXTHOP: Final = (30, struct.pack("=I", 7))
ENCAP: Final = (22 | 0x8000, bytes(4))
"""RTA_NH_ID; RTA_ENCAP, which is nested."""


def message(kind: int, family: int = 4) -> bytes:
    """Compose what a witness sees of a message between agents."""
    if family == 4:
        return bytes(12) + b"\x08\x00" + bytes(28) + bytes([1, kind]) + bytes(20)
    return bytes(12) + b"\x86\xdd" + bytes(48) + bytes([1, kind]) + bytes(20)


def segment(family: int, ports: tuple[int, int], content: int, options: int = 12) -> bytes:
    """Compose the head of a segment: its own header may be longer than what was kept of it."""
    tcp = struct.pack("!HH8xB7x", *ports, (20 + options) // 4 << 4)
    size = 20 + options + content
    if family == 4:
        return bytes(12) + b"\x08\x00" + bytes(2) + struct.pack("!H16x", 20 + size) + tcp
    return bytes(12) + b"\x86\xdd" + bytes(4) + struct.pack("!H34x", size) + tcp


def seen(*records: bytes, start_ns: int = 0, end_ns: int = 1 << 62) -> Seen:
    return moments.read(b"".join(records), start_ns, end_ns)


@pytest.mark.parametrize("address", [VM, VM6])
@pytest.mark.parametrize("way", ["direct", "gateway", "nexthop", "encap"])
def test_a_route_is_read(address: str, way: str) -> None:
    gateway = PEER if address == VM else "fd00:172:30::12"
    octets = {
        "direct": route(address, oif=3),
        "gateway": route(address, oif=3, gateway=gateway),
        "nexthop": route(address, more=NEXTHOP),
        "encap": route(address, oif=3, more=ENCAP),
    }[way]
    (change,) = seen(recorded(ROUTES, 5, octets)).routes
    assert (change.at_ns, change.address, change.is_present) == (5, address, True)
    assert (change.protocol, change.leads_on) == (88, way != "direct")


def test_a_datagram_may_hold_several_changes() -> None:
    both = route(VM, oif=3) + route(VM, kind=DELETE, oif=3)
    assert [each.is_present for each in seen(recorded(ROUTES, 5, both)).routes] == [True, False]


@pytest.mark.parametrize(
    "octets",
    [
        route(VM, table=252, oif=3),
        route(VM, oif=3)[:20],
        route(VM, kind=16, oif=3),
        b"",
        bytes(64),
    ],
)
def test_what_is_no_change_of_a_host_route_is_left_out(octets: bytes) -> None:
    assert seen(recorded(ROUTES, 5, octets)).routes == ()


@pytest.mark.parametrize("family", [4, 6])
def test_messages_have_a_kind_and_a_direction(family: int) -> None:
    out = recorded(MESSAGE_OUT, 5, message(HAVE, family))
    back = recorded(MESSAGE_IN, 6, message(ACK, family))
    assert seen(out, back).messages == ((5, HAVE, True), (6, ACK, False))


def test_only_the_stretch_of_time_counts_and_only_whole_records() -> None:
    records = [recorded(RARP, at_ns, b"frame") for at_ns in (1, 5, 9, 10)]
    assert seen(*records, start_ns=5, end_ns=10).rarps_ns == (5, 9)
    assert moments.read(records[0] + records[1][:-1], 0, 99).rarps_ns == (1,)


def test_a_guests_frames_are_read() -> None:
    assert seen(recorded(FRAME, 5, b""), recorded(RARP, 6, b"")).frames_ns == (5,)


@pytest.mark.parametrize("family", [4, 6])
def test_a_clients_segments_are_read_where_they_carry_something(family: int) -> None:
    found = seen(
        recorded(REQUEST, 5, segment(family, (20_001, 7), 4)),
        recorded(ANSWER, 6, segment(family, (7, 20_001), 0)),
        recorded(ANSWER, 7, segment(family, (7, 20_001), 17, options=0)),
        recorded(REQUEST, 8, segment(family, (20_001, 7), 0, options=0)),
    )
    assert found.requests == ((5, 20_001, False), (7, 20_001, True))


@pytest.mark.parametrize(
    ("segments", "asked", "answered"),
    [
        ([(150, 20_001, False), (160, 20_001, False), (180, 20_001, True)], 150, 180),
        # Of before the guest came, of another client, and an answer to something of before.
        ([(50, 20_001, False), (170, 20_001, False), (190, 20_001, True)], 170, 190),
        ([(150, 20_002, False), (160, 20_001, False), (170, 20_002, True)], 160, None),
        # The guest brought along what it answers.
        ([(140, 20_001, True), (160, 20_001, False)], None, 140),
        ([(140, 20_001, True)], None, 140),
        ([(150, 20_001, False)], 150, None),
    ],
)
def test_a_client_has_its_answer_after_its_request_lay_in_the_guests_port(
    segments: list[tuple[int, int, bool]], asked: int | None, answered: int | None
) -> None:
    there = Seen((100,), (), (), (), tuple(segments))
    found = moments.of_switchover(at_nodes(b=there), "a", "b", VM, 20_001)
    assert found is not None
    assert (found.asked_ns, found.answered_ns) == (asked, answered)


def test_a_request_waits_at_the_source_that_had_no_answer_there() -> None:
    come = [(40, True), (50, False), (60, True), (70, False), (80, False), (120, False)]
    for number, waiting in ((6, 70), (3, None), (0, None)):
        there = Seen((), (), (), (), tuple((at, 20_001, is_out) for at, is_out in come[:number]))
        nodes = at_nodes(a=there, b=Seen((100,), (), ()))
        found = moments.of_switchover(nodes, "a", "b", VM, 20_001)
        assert found is not None
        assert found.waiting_ns == waiting


def test_a_guest_is_awake_with_its_first_own_frame_at_the_target() -> None:
    nodes = at_nodes(
        a=seen(recorded(FRAME, 120, b"")),
        b=seen(
            *(recorded(FRAME, at_ns, b"") for at_ns in (50, 180, 200)), recorded(RARP, 100, b"")
        ),
    )
    found = moments.of_switchover(nodes, "a", "b", VM)
    assert found is not None
    assert found.awake_ns == 180


def at_nodes(**of: Seen) -> Mapping[str, Seen]:
    return {"a": NOTHING, "b": NOTHING, "c": NOTHING, "d": NOTHING} | of


def test_a_switchover_is_told_by_all_nodes() -> None:
    found = moments.of_switchover(
        at_nodes(
            a=seen(
                # A speaker's own route, and one of before: neither is the redirect.
                recorded(ROUTES, 50, route(VM, gateway=PEER)),
                recorded(ROUTES, 300, route(VM, protocol=12, gateway=PEER)),
                recorded(ROUTES, 700, route(VM, gateway=PEER)),
                recorded(ROUTES, 150, route(moments.FLOOR_ADDRESS, protocol=99, oif=2)),
            ),
            b=seen(
                recorded(RARP, 100, b""),
                recorded(RARP, 900, b""),
                recorded(ROUTES, 200, route(VM, oif=4)),
                recorded(MESSAGE_OUT, 250, message(HAVE)),
                recorded(MESSAGE_OUT, 350, message(HAVE)),
                recorded(MESSAGE_IN, 800, message(ACK)),
            ),
            c=seen(recorded(ROUTES, 400, route(VM, protocol=89, more=NEXTHOP))),
            d=seen(
                recorded(ROUTES, 350, route(VM, kind=DELETE, gateway=PEER)),
                recorded(ROUTES, 600, route(VM, protocol=12, gateway=PEER)),
            ),
        ),
        *("a", "b", VM),
    )
    assert found == Moments(100, 200, 700, 250, 800, 600, 150)
    assert found.after_announcement_us(found.redirected_ns) == 0.6
    assert found.statement_to_answer_us == 0.55


def test_what_nobody_saw_is_unknown() -> None:
    found = moments.of_switchover(at_nodes(b=seen(recorded(RARP, 100, b""))), "a", "b", VM)
    assert found == Moments(100)
    assert found.after_announcement_us(found.redirected_ns) is None
    assert found.statement_to_answer_us is None


def test_a_guest_that_never_announced_itself_has_no_moments() -> None:
    assert moments.of_switchover(at_nodes(), "a", "b", VM) is None
