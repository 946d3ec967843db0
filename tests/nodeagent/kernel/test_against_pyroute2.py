"""Every request and every reader of the kernel's room, judged by another author: pyroute2."""

import ast
import errno
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from tests.nodeagent.node import MAIN, OURS, V4, V6, Node

from handover_nodeagent.kernel import links, neighs, parking, route_lookup
from handover_nodeagent.kernel.foreign_route import PARKING_TABLE, Foreign
from handover_nodeagent.kernel.netlink import answers, changes, codec, dump, ifinfomsg
from handover_nodeagent.kernel.netlink import ndmsg as neighbors
from handover_nodeagent.kernel.netlink import rtmsg as ours
from handover_nodeagent.kernel.netlink.changes import DefaultRouteChanged, RouteChanged
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.rtmsg import Entry
from handover_nodeagent.network.links import AddressChanged, LinkChanged, LinkRemoved
from handover_nodeagent.network.model import (
    Encapsulated,
    IPAddress,
    Link,
    Neigh,
    Nexthop,
    Route,
    Via,
)

REQUEST, DUMP, REPLACE, EXCLUSIVE, CREATE, APPEND = 0x1, 0x300, 0x100, 0x200, 0x400, 0x800
GUEST_MAC = "52:54:00:65:00:02"
BOTH = pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
Attributes = Sequence[tuple[str, Any]]


def write(
    kind: type, header: tuple[int, int], fields: Mapping[str, int], attrs: Attributes
) -> bytes:
    """Let pyroute2 write a message."""
    message = kind()
    message["header"]["type"], message["header"]["flags"] = header
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attrs)
    message.encode()
    return bytes(message.data)


def read(kind: type, request: bytes) -> dict[str, Any]:
    """Let pyroute2 read a message: its attributes by name, none of them unknown."""
    message = kind(request)
    message.decode()
    found: dict[str, Any] = dict(message["attrs"])
    assert "UNKNOWN" not in found
    return found


def family(address: IPAddress) -> int:
    return 2 if address.version == 4 else 10


def host(address: IPAddress, **others: int) -> dict[str, int]:
    """Return the fields of a direct host route."""
    fields = {"family": family(address), "dst_len": address.max_prefixlen, "scope": 253, "type": 1}
    return fields | {"proto": OURS} | others


def leading(address: IPAddress, metric: int = 512, table: int = MAIN) -> list[tuple[str, Any]]:
    """Return the attributes of a direct host route."""
    places = [("RTA_PRIORITY", metric), ("RTA_TABLE", table)]
    return [("RTA_DST", str(address)), ("RTA_OIF", 7), *places]


class Kernel(Channel):
    """Records what is asked of it; nothing is there, and all that is sent succeeds."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def ask(self, request: bytes) -> bytes | int:
        """Know nothing."""
        self.requests.append(request)
        return errno.ESRCH

    def transact(self, requests: Sequence[bytes]) -> answers.Results:
        """Do it all."""
        self.requests += requests
        return answers.Results([0] * len(requests))


CARRIED: Attributes = [
    ("RTA_PREFSRC", "10.65.0.1"),
    ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1400)]}),
    ("RTA_FLOW", 0x10002),
    ("RTA_PREF", 1),
    ("RTA_ENCAP_TYPE", 1),
    ("RTA_ENCAP", b"\x08\0\1\0\0\1\x01\0"),
]


@BOTH
@pytest.mark.parametrize(
    ("encode", "kind", "flags"),
    [
        (ours.encode_add, 24, CREATE | EXCLUSIVE),
        (ours.encode_beside, 24, CREATE | APPEND),
        (ours.encode_replace, 24, CREATE | REPLACE),
        (ours.encode_remove, 25, 0),
    ],
    ids=["add", "beside", "replace", "remove"],
)
def test_a_routes_request(
    address: IPAddress, encode: Callable[[Route], bytes], kind: int, flags: int
) -> None:
    expected = write(
        rtmsg, (kind, REQUEST | flags), host(address), leading(address, table=PARKING_TABLE)
    )
    assert encode(Route(address, 7, 512, PARKING_TABLE, OURS)) == expected


# No kernel routes IPv6 by an IPv4 gateway.
@pytest.mark.parametrize(
    ("address", "gateway"), [(V4, "192.0.2.9"), (V4, "fd00:66::9"), (V6, "fd00:66::9")]
)
def test_a_request_for_a_route_by_a_gateway(address: IPAddress, gateway: str) -> None:
    """Scope universe; an IPv4 route's gateway of the other family stands in RTA_VIA."""
    by: tuple[str, Any] = ("RTA_GATEWAY", gateway)
    if address.version == 4 and ":" in gateway:
        by = ("RTA_VIA", {"family": 10, "addr": gateway})
    plain = leading(address)
    attrs = [*plain[:2], by, *plain[2:]]
    expected = write(rtmsg, (24, REQUEST | CREATE | REPLACE), host(address, scope=0), attrs)
    way = Via(ip_address(gateway))
    assert ours.encode_replace(Route(address, 7, 512, MAIN, OURS, way=way)) == expected


@BOTH
@pytest.mark.parametrize(("remote", "kind"), [("192.0.2.9", 2), ("fd00:66::9", 4)])
def test_a_request_for_a_route_into_a_tunnel(address: IPAddress, remote: str, kind: int) -> None:
    """Of such attributes pyroute2 has no words: id 88 in network order, remote and source."""
    own = ip_address(remote) + 1
    route = Route(address, 7, 512, MAIN, OURS, way=Encapsulated(ip_address(remote), own))
    for request in (ours.encode_replace(route), ours.encode_remove(route)):
        found = read(rtmsg, request)
        where = ip_address(remote).packed
        tunnel = codec.attribute(1, bytes([*bytes(7), 88])) + codec.attribute(2, where)
        tunnel += codec.attribute(3, own.packed)
        assert bytes.fromhex(found.pop("RTA_ENCAP").replace(":", "")) == tunnel
        assert found.pop("RTA_ENCAP_TYPE") == kind
        assert found == dict(leading(address))
        assert rtmsg(request).decode() is None


@BOTH
def test_a_request_for_a_route_by_a_nexthop_object_names_no_device(address: IPAddress) -> None:
    request = ours.encode_replace(Route(address, 0, 512, MAIN, OURS, way=Nexthop(8800001)))
    plain = [one for one in leading(address) if one[0] != "RTA_OIF"]
    without = request.replace(codec.number(30, 8800001), b"")
    assert len(without) == len(request) - 8
    expected = write(rtmsg, (24, REQUEST | CREATE | REPLACE), host(address, scope=0), plain)
    assert without[4:] == expected[4:]


def test_what_a_route_carries_is_written_as_it_was_read() -> None:
    """And a request without it is the plain one."""
    attrs = [one for one in CARRIED if one[0] not in {"RTA_ENCAP_TYPE", "RTA_ENCAP"}]
    shown = write(rtmsg, (24, 0), host(V4), [*leading(V4), *attrs])
    route = ours.decode(shown).route
    request = ours.encode_replace(route)
    assert request == write(
        rtmsg, (24, REQUEST | CREATE | REPLACE), host(V4), [*leading(V4), *attrs]
    )
    plain = write(rtmsg, (24, REQUEST | CREATE | REPLACE), host(V4), leading(V4))
    assert ours.without_carried(request, route) == plain


@BOTH
@pytest.mark.parametrize("oif", [0, 7])
def test_the_question_which_route_wins(address: IPAddress, oif: int) -> None:
    fields = {"family": family(address), "dst_len": address.max_prefixlen, "flags": 0x2000}
    attrs = [("RTA_DST", str(address)), *([("RTA_OIF", oif)] if oif else [])]
    assert ours.encode_match(address, oif=oif) == write(rtmsg, (26, REQUEST), fields, attrs)


@pytest.mark.parametrize("version", [2, 10])
@pytest.mark.parametrize("oif", [0, 7])
def test_the_question_for_a_tables_routes(version: int, oif: int) -> None:
    asked = ours.encode_dump(version, 5254, protocol=OURS, oif=oif)
    fields = {"family": version, "proto": OURS, "type": 1}
    attrs = [("RTA_TABLE", 5254), *([("RTA_OIF", oif)] if oif else [])]
    assert asked == write(rtmsg, (26, REQUEST | DUMP), fields, attrs)


def test_the_questions_for_links_and_addresses() -> None:
    # RTEXT_FILTER_SKIP_STATS: no counters.
    no_counters = [("IFLA_EXT_MASK", 8)]
    asked = ifinfomsg.encode_dump_links()
    assert asked == write(ifinfmsg, (18, REQUEST | DUMP), {}, no_counters)
    assert ifinfomsg.encode_dump_addresses() == write(ifaddrmsg, (22, REQUEST | DUMP), {}, [])


@BOTH
def test_a_neighbours_seed_and_the_question_for_one(address: IPAddress) -> None:
    fields = {"family": family(address), "ifindex": 7, "state": 2, "ndm_type": 1}
    attrs = [("NDA_DST", str(address)), ("NDA_LLADDR", GUEST_MAC)]
    seed = neighbors.encode_seed(Neigh(address, 7, GUEST_MAC))
    assert seed == write(ndmsg, (28, REQUEST | CREATE | REPLACE), fields, attrs)
    fields = {"family": family(address), "ifindex": 7}
    asked = neighbors.encode_question(address, 7)
    assert asked == write(ndmsg, (30, REQUEST), fields, attrs[:1])


@BOTH
def test_a_parked_copy_and_both_removals(address: IPAddress) -> None:
    """What the kernel shows of a state is not said of the copy; an expiry is said as one.

    An attribute that pyroute2 does not know (RTA_NH_ID) it drops: ``test_parking`` has that one.
    """
    cache = {"rta_expires": 4200} if address.version == 6 else {}
    carried = [("RTA_PREFSRC", str(address + 1)), *CARRIED[1:]]
    shown = [*leading(address, 0), *carried, *([("RTA_CACHEINFO", cache)] if cache else [])]
    fields = host(address, proto=12, scope=0)
    message = write(rtmsg, (24, 0), fields | {"table": MAIN, "flags": 0x4 | 0x10}, shown)
    foreign = Foreign(ours.decode(message).route, message)
    kernel = Kernel()
    assert parking.park(kernel, foreign) == 0
    copied, removed, forgotten, again = kernel.requests
    kept = [(kind, value) for kind, value in shown if kind not in {"RTA_TABLE", "RTA_CACHEINFO"}]
    kept += [("RTA_EXPIRES", (42).to_bytes(4, sys.byteorder))] if cache else []
    # RTNH_F_ONLINK is a wish, RTNH_F_LINKDOWN a state.
    fields |= {"flags": 0x4}
    new = REQUEST | CREATE | APPEND
    expected = write(rtmsg, (24, new), fields, [*kept, ("RTA_TABLE", PARKING_TABLE)])
    assert copied == again == expected
    assert removed == write(rtmsg, (25, REQUEST), fields, [*kept, ("RTA_TABLE", MAIN)])
    any_of_it = {"family": family(address), "dst_len": address.max_prefixlen}
    place = leading(address, 0, PARKING_TABLE)
    assert forgotten == write(rtmsg, (25, REQUEST), any_of_it | {"scope": 255, "type": 1}, place)
    assert read(rtmsg, forgotten)["RTA_TABLE"] == PARKING_TABLE


def test_what_is_asked_is_what_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, dumped = Kernel(), list[bytes]()
    route_lookup.match(kernel, V4, oif=7)
    neighs.find_mac(kernel, V6, 7)
    assert kernel.requests == [ours.encode_match(V4, oif=7), neighbors.encode_question(V6, 7)]

    def record(request: bytes) -> list[bytes]:
        dumped.append(request)
        return []

    monkeypatch.setattr(dump, "read", record)
    # There is always one.
    with pytest.raises(codec.ObservationError, match="no link at all"):
        links.observe(100)
    assert list(route_lookup.read_table(codec.INET6, 5254, protocol=OURS, oif=7)) == []
    assert dumped == [
        ifinfomsg.encode_dump_links(),
        ifinfomsg.encode_dump_addresses(),
        *(ours.encode_dump(family, 100) for family in (codec.INET, codec.INET6)),
        ours.encode_dump(codec.INET6, 5254, protocol=OURS, oif=7),
    ]


JUDGED = {
    # Judged in test_conntrack.py.
    "ctmsg": {"encode_dumps", "encode_delete"},
    "foreign_route": {"encode_remove_oldest_copy", "_rewrite"},
    "ifinfomsg": {"encode_dump_links", "encode_dump_addresses"},
    "ndmsg": {"encode_seed", "encode_question"},
    # pyroute2 knows none of them; ip-nexthop(8) reads them in test_nexthops.py.
    "nhmsg": {"encode_put", "encode_remove", "encode_dump"},
    # Judged in netlink/test_vxlan.py.
    "vxlan": {
        *("encode_create", "encode_configure", "encode_generate_no_address", "encode_up"),
        *("encode_address", "encode_remove_address", "encode_remove", "encode_question"),
    },
    "rtmsg": {"_encode", "encode_dump", "encode_match"},
}
"""Where requests are composed, in ``kernel``."""


def test_no_request_is_composed_that_is_not_judged_here() -> None:
    room = Path(route_lookup.__file__).parent
    found: dict[str, set[str]] = {}
    for path in room.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and any(map(_composes, ast.walk(function))):
                found.setdefault(path.stem, set()).add(function.name)
    assert found == JUDGED


def _composes(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "codec.compose"


GATEWAY = "fe80::9"
MULTIPATH = [{"oif": 3, "hops": 0, "attrs": []}, {"oif": 4, "hops": 0, "attrs": []}]
IN_MAIN = ("RTA_TABLE", MAIN)


@pytest.mark.parametrize(
    ("fields", "attrs", "expected"),
    [
        (
            host(V4),
            leading(V4, table=5254),
            Entry(Route(V4, 7, 512, 5254, OURS), 32, None, direct=True),
        ),
        (
            {"family": 10, "proto": 9},
            [("RTA_GATEWAY", GATEWAY), ("RTA_OIF", 7), IN_MAIN],
            Entry(
                Route(IPv6Address(0), 7, 0, MAIN, 9, way=Via(ip_address(GATEWAY))),
                *(0, ip_address(GATEWAY)),
                direct=False,
            ),
        ),
        (
            {"family": 2, "dst_len": 24, "proto": 12, "table": 100},
            [("RTA_DST", "10.99.0.0"), ("RTA_MULTIPATH", MULTIPATH)],
            Entry(Route(IPv4Address("10.99.0.0"), 0, 0, 100, 12), 24, None, direct=False),
        ),
        (
            {"family": 2, "dst_len": 32, "proto": 12},
            [
                ("RTA_DST", str(V4)),
                ("RTA_VIA", {"family": 10, "addr": GATEWAY}),
                ("RTA_OIF", 7),
                IN_MAIN,
            ],
            Entry(Route(V4, 7, 0, MAIN, 12, way=Via(ip_address(GATEWAY))), 32, None, direct=False),
        ),
    ],
    ids=["host", "default", "multipath", "via"],
)
def test_a_route_that_pyroute2_writes_is_read(
    fields: dict[str, int], attrs: Attributes, expected: Entry
) -> None:
    message = write(rtmsg, (24, 0), fields | {"type": 1}, attrs)
    assert ours.decode(message) == expected
    assert ours.is_made(message)
    assert not ours.is_made(write(rtmsg, (24, 0), fields | {"type": 6}, attrs))
    assert not ours.is_made(write(rtmsg, (24, 0), fields | {"type": 1, "flags": 0x200}, attrs))


TAP = {"index": 7, "ifi_type": 1, "flags": 0x10001}
NAMED = [("IFLA_IFNAME", "tap0"), ("IFLA_ADDRESS", GUEST_MAC)]
OWN = {"family": 2, "index": 7, "prefixlen": 32}
ADDRESS = ip_address("192.0.2.5")


@pytest.mark.parametrize(
    ("kind", "number", "fields", "attrs", "expected"),
    [
        (ifinfmsg, 16, TAP, NAMED, LinkChanged(7, "tap0", GUEST_MAC, up=True)),
        (
            ifinfmsg,
            16,
            TAP | {"flags": 1},
            NAMED,
            LinkChanged(7, "tap0", GUEST_MAC, up=True, carrier=False),
        ),
        (ifinfmsg, 17, TAP, NAMED, LinkRemoved(7, "tap0")),
        # A port that leaves its bridge is told in the bridge's family.
        (ifinfmsg, 17, TAP | {"family": 7}, NAMED, None),
        (
            ifaddrmsg,
            20,
            OWN,
            [("IFA_ADDRESS", "198.51.100.7"), ("IFA_LOCAL", str(ADDRESS))],
            AddressChanged(7, ADDRESS, present=True, is_host=True),
        ),
        (
            ifaddrmsg,
            21,
            {"family": 10, "index": 7, "prefixlen": 64},
            [("IFA_ADDRESS", str(V6))],
            AddressChanged(7, V6, present=False),
        ),
        (rtmsg, 24, {"family": 2, "type": 1}, [("RTA_OIF", 7), IN_MAIN], DefaultRouteChanged()),
        (rtmsg, 24, host(V4), leading(V4, table=100), None),
    ],
    ids=["up", "no carrier", "gone", "port", "address", "no address", "default", "other table"],
)
def test_a_notification_that_pyroute2_writes_is_read(
    kind: type, number: int, fields: dict[str, int], attrs: Attributes, expected: object
) -> None:
    assert changes.decode(write(kind, (number, 0), fields, attrs), MAIN) == expected


@BOTH
@pytest.mark.parametrize(
    ("number", "flags", "present", "replaced"),
    [(24, 0, True, False), (24, REPLACE, True, True), (25, 0, False, False)],
    ids=["added", "replaced", "removed"],
)
def test_a_routes_notification_that_pyroute2_writes_is_read(
    address: IPAddress, number: int, flags: int, *, present: bool, replaced: bool
) -> None:
    message = write(rtmsg, (number, flags), host(address, proto=12), leading(address))
    expected = RouteChanged(
        Route(address, 7, 512, MAIN, 12),
        present=present,
        direct=True,
        message=message,
        replaced=replaced,
    )
    assert changes.decode(message, MAIN) == expected


@pytest.fixture
def pyroute2(node: Node) -> Iterator[IPRoute]:
    """Give a socket of pyroute2's in the node's namespace; it wants no running loop around it."""
    del node
    with IPRoute(strict_check=True) as other:
        yield other


@pytest.mark.root
def test_what_pyroute2_sets_up_our_readers_see(
    node: Node, pyroute2: IPRoute, channel: Channel
) -> None:
    pyroute2.link("add", ifname="tap9", kind="veth", peer="far9", address=GUEST_MAC)
    (far,) = pyroute2.link_lookup(ifname="far9")
    pyroute2.link("set", index=far, state="up")
    (index,) = pyroute2.link_lookup(ifname="tap9")
    assert not links.observe()[index].up
    pyroute2.link("set", index=index, state="up")
    pyroute2.addr("add", index=index, address="192.0.2.5", prefixlen=32)
    pyroute2.addr("add", index=index, address="fd00:66::1", prefixlen=64)
    pyroute2.route("add", dst="default", oif=index, family=2, priority=9)
    link = links.observe()[index]
    own = frozenset(one for one in link.addresses if not one.is_link_local)
    assert own == {ADDRESS, ip_address("fd00:66::1")}
    expected = Link(index, "tap9", GUEST_MAC, True, link.addresses, True, frozenset({ADDRESS}))  # noqa: FBT003
    assert link == expected
    for address in (V4, V6):
        pyroute2.route(
            "add",
            dst=f"{address}/{address.max_prefixlen}",
            oif=index,
            priority=512,
            proto=OURS,
            family=family(address),
            scope=253 if address.version == 4 else 0,
        )
        pyroute2.neigh(
            "add", dst=str(address), lladdr=GUEST_MAC, ifindex=index, family=family(address)
        )
        assert neighs.find_mac(channel, address, index) == GUEST_MAC
        won = route_lookup.winner(channel, address)
        assert isinstance(won, Entry)
        assert won.route == Route(address, index, 512, MAIN, OURS)
    both = tuple(Route(address, index, 512, MAIN, OURS) for address in (V4, V6))
    assert route_lookup.observe(OURS, [MAIN]) == both
    assert parking.observe_others([V4, V6], MAIN, {12}).direct != ()
    assert node.lines("ip route show default")[0].startswith("default dev tap9")


@pytest.mark.root
@BOTH
def test_what_we_set_up_pyroute2_sees(
    node: Node, pyroute2: IPRoute, channel: Channel, address: IPAddress
) -> None:
    wanted = Route(address, node.tap0, 512, MAIN, OURS)
    seed = Neigh(address, node.tap0, GUEST_MAC)
    assert channel.transact([ours.encode_add(wanted), neighbors.encode_seed(seed)]) == [0, 0]
    (shown,) = (
        one
        for one in pyroute2.get_routes(family=family(address), table=MAIN)
        if one["proto"] == OURS
    )
    assert (shown["dst_len"], shown["type"]) == (address.max_prefixlen, 1)
    attributes = dict(shown["attrs"])
    assert attributes["RTA_DST"] == str(address)
    assert (attributes["RTA_OIF"], attributes["RTA_PRIORITY"]) == (node.tap0, 512)
    (entry,) = (
        one
        for one in pyroute2.get_neighbours(family=family(address), ifindex=node.tap0)
        if one.get_attr("NDA_DST") == str(address)
    )
    assert (entry.get_attr("NDA_LLADDR"), entry["state"]) == (GUEST_MAC, 2)


@pytest.mark.root
@BOTH
def test_both_are_refused_alike(
    node: Node, pyroute2: IPRoute, channel: Channel, address: IPAddress
) -> None:
    route = Route(address, node.tap0, 512, MAIN, OURS)
    same = {
        "dst": f"{address}/{address.max_prefixlen}",
        "oif": node.tap0,
        "priority": 512,
        "proto": OURS,
        "family": family(address),
        "scope": 253,
    }
    assert channel.transact([ours.encode_add(route)]) == [0]
    assert channel.transact([ours.encode_add(route)]) == [_refusal(pyroute2, "add", same)]
    assert channel.transact([ours.encode_remove(route)]) == [0]
    assert channel.transact([ours.encode_remove(route)]) == [_refusal(pyroute2, "del", same)]


def _refusal(pyroute2: IPRoute, command: str, route: dict[str, Any]) -> int:
    with pytest.raises(NetlinkError) as raised:
        pyroute2.route(command, **route)
    return int(raised.value.code)
