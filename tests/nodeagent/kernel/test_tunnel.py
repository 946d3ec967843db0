"""The tunnel's device: made by CAP_NET_ADMIN alone, told from others', and gone without a trace."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from tests.nodeagent import namespaces
from tests.nodeagent.kernel import migration_net
from tests.nodeagent.kernel.migration_net import MigrationNet
from tests.nodeagent.node import Node
from tests.nodeagent.privileges import as_in_the_agents_container, without_privileges

from handover_api.conditions import EndpointReason
from handover_nodeagent.kernel import route_lookup, tunnel
from handover_nodeagent.kernel.netlink import codec, rtmsg, vxlan
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.tunnel import Refusal

pytestmark = pytest.mark.root

OWN = (IPv4Address("192.0.2.1"), IPv6Address("fd00:66::1"))
NAMES = pytest.mark.parametrize(("name", "port"), [("handover0", 7472), ("handover1", 7474)])
SETTINGS = {"rp_filter": 2, "forwarding": 1, "send_redirects": 0}


def seen(name: str) -> dict[str, Any]:
    """Return what pyroute2 shows of a device of this namespace."""
    with IPRoute() as kernel:
        (link,) = kernel.get_links(ifname=name)
        info = dict(link["attrs"])
        parameters = dict(dict(info["IFLA_LINKINFO"]["attrs"])["IFLA_INFO_DATA"]["attrs"])
        addresses = [
            (dict(one["attrs"])["IFA_ADDRESS"], one["prefixlen"], one["scope"])
            for one in kernel.get_addr(index=link["index"])
        ]
        conf = info["IFLA_AF_SPEC"].get_attr("AF_INET")
    return {
        "mtu": info["IFLA_MTU"],
        "alias": info["IFLA_IFALIAS"],
        "up": bool(link["flags"] & 1),
        "kind": info["IFLA_LINKINFO"].get_attr("IFLA_INFO_KIND"),
        "port": parameters["IFLA_VXLAN_PORT"],
        "learning": parameters["IFLA_VXLAN_LEARNING"],
        "external": parameters["IFLA_VXLAN_COLLECT_METADATA"],
        "zero_checksum_rx": parameters["IFLA_VXLAN_UDP_ZERO_CSUM6_RX"],
        "addresses": sorted(addresses),
        "conf": {name: conf[name] for name in SETTINGS},
    }


def expected(port: int) -> dict[str, Any]:
    inner = [(str(tunnel.inner_address(one)), 128, 253) for one in OWN]
    return {
        "mtu": 9000,
        "alias": "handover",
        "up": True,
        "kind": "vxlan",
        "port": port,
        "learning": 0,
        "external": 1,
        "zero_checksum_rx": 1,
        "conf": SETTINGS,
        "addresses": sorted([("169.254.88.1", 32, 254), *inner]),
    }


@NAMES
def test_net_admin_is_enough_and_a_proc_sys_that_may_only_be_read(name: str, port: int) -> None:
    namespaces.needs_root()

    def attempt() -> tuple[object, ...]:
        forwarding = Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding")
        with Channel() as channel:
            made = tunnel.ensure(channel, name, port, OWN)
            again = tunnel.ensure(channel, name, port, OWN)
            try:
                forwarding.write_text("0", encoding="ascii")
            except OSError as error:
                why = error.errno
            found = seen(name)
            gone = tunnel.remove(channel, name)
        return why, made == again, isinstance(made, int), found, gone, socket.if_nameindex()[1:]

    assert as_in_the_agents_container(attempt) == (
        *(errno.EROFS, True, True, expected(port)),
        *(True, []),
    )


GOLDEN = (
    "vxlan external id 0 srcport 0 0 dstport 7472 nolearning ttl auto ageing 300 udpcsum "
    "noudp6zerocsumtx udp6zerocsumrx gpe"
)


def test_ip_shows_it_as_ours(node: Node, channel: Channel) -> None:
    tunnel.ensure(channel, "handover0", 7472)
    lines = node.lines("ip -d link show handover0")
    assert lines[2].startswith(GOLDEN)
    assert lines[3] == "alias handover"
    assert "POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 9000" in lines[0]


def test_one_that_is_right_is_not_set_anew(channel: Channel) -> None:
    """Whoever listens to links would hear of it, and look at the tunnel once more."""
    made = tunnel.ensure(channel, "handover0", 7472, OWN)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as links:
        links.bind((0, 1))
        links.settimeout(0.1)
        assert tunnel.ensure(channel, "handover0", 7472, OWN) == made
        with pytest.raises(TimeoutError):
            links.recv(1 << 16)


def test_both_may_stand_side_by_side(node: Node, channel: Channel) -> None:
    first = tunnel.ensure(channel, "handover0", 7472, OWN)
    second = tunnel.ensure(channel, "handover1", 7474, OWN)
    assert (first, second) == tuple(map(socket.if_nametoindex, ("handover0", "handover1")))
    assert tunnel.remove(channel, "handover0")
    assert node.run("ip -o link show type vxlan").startswith(f"{second}: ")


@pytest.mark.parametrize(
    "wrong",
    [
        "external gpe dstport 7999 nolearning udp6zerocsumrx alias handover",
        "external dstport 7472 nolearning udp6zerocsumrx alias handover",
        "id 5 dstport 7472 alias handover",
        "external gpe dstport 7999 nolearning udp6zerocsumrx",
    ],
    ids=["port", "no GPE", "no metadata", "no alias yet"],
)
def test_a_wrong_one_of_ours_is_made_anew(node: Node, channel: Channel, wrong: str) -> None:
    kind, _, alias = wrong.partition(" alias ")
    node.run(f"ip link add handover0 type vxlan {kind}")
    if alias:
        node.run(f"ip link set handover0 alias {alias}")
    before = socket.if_nametoindex("handover0")
    made = tunnel.ensure(channel, "handover0", 7472, OWN)
    assert isinstance(made, int)
    assert made != before
    assert seen("handover0") == expected(7472)


def test_a_right_one_is_put_right_and_stays(node: Node, channel: Channel) -> None:
    """Down, without alias and addresses, as an agent leaves it that is killed over it."""
    made = tunnel.ensure(channel, "handover0", 7472, OWN)
    node.run_batch(
        ["link set handover0 down", 'link set handover0 alias ""', "address flush dev handover0"]
    )
    assert tunnel.ensure(channel, "handover0", 7472, OWN) == made
    assert seen("handover0") == expected(7472)
    # As sysctl(8) would for all devices at once.
    node.run("sysctl -qw net.ipv4.conf.handover0.rp_filter=1")
    assert tunnel.ensure(channel, "handover0", 7472, OWN) == made
    assert seen("handover0") == expected(7472)


@pytest.mark.parametrize(
    ("device", "shown"),
    [
        ("type bridge", "bridge"),
        ("type veth peer name other", "veth"),
        ("type vxlan id 5 dstport 4789", "vxlan"),
        ("type vxlan external gpe dstport 7472 nolearning udp6zerocsumrx", "vxlan"),
    ],
)
def test_a_device_of_somebody_else_is_left_alone(
    node: Node, channel: Channel, device: str, shown: str
) -> None:
    node.run(f"ip link add handover0 {device}")
    node.run("ip link set handover0 alias theirs")
    before = node.run("ip -d link show handover0")
    assert tunnel.ensure(channel, "handover0", 7472) == Refusal(
        EndpointReason.DEVICE_TAKEN, f"interface handover0 is somebody else's: {shown} device"
    )
    assert not tunnel.remove(channel, "handover0")
    assert node.run("ip -d link show handover0") == before


def hold(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", 7472))
    return sock


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_a_port_that_a_program_has_is_told_and_nothing_is_left(
    node: Node, channel: Channel, family: int
) -> None:
    with hold(family):
        found = tunnel.ensure(channel, "handover0", 7472)
    assert isinstance(found, Refusal)
    assert found.reason == EndpointReason.PORT_TAKEN
    assert "UDP port 7472 is in use" in found.message
    assert node.run("ip link show type vxlan") == ""
    # It is free again.
    assert isinstance(tunnel.ensure(channel, "handover0", 7472), int)


@pytest.mark.parametrize("state", ["up", "down"])
def test_a_port_that_another_tunnel_has_is_told(node: Node, channel: Channel, state: str) -> None:
    node.run("ip link add theirs type vxlan external gpe dstport 7472 nolearning udp6zerocsumrx")
    node.run(f"ip link set theirs {state}")
    found = tunnel.ensure(channel, "handover0", 7472)
    assert isinstance(found, Refusal)
    assert found.reason == EndpointReason.PORT_TAKEN


def test_a_kernel_without_vxlan_is_told(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vxlan, "_KIND", "nonesuch")
    assert tunnel.ensure(channel, "handover0", 7472) == Refusal(
        EndpointReason.TUNNEL_REFUSED,
        "handover0 cannot be made: this kernel has no VXLAN (module vxlan)",
    )


def test_without_privileges_the_reason_is_told(node: Node) -> None:  # noqa: ARG001
    def attempt() -> object:
        with Channel() as channel:
            return tunnel.ensure(channel, "handover0", 7472)

    assert without_privileges(attempt) == Refusal(
        EndpointReason.TUNNEL_REFUSED,
        "handover0 cannot be made: Operation not permitted: CAP_NET_ADMIN is missing",
    )


def test_a_node_without_ipv6_gets_a_tunnel(node: Node, channel: Channel) -> None:
    node.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    assert isinstance(tunnel.ensure(channel, "handover0", 7472, OWN[:1]), int)
    assert seen("handover0")["addresses"] == [("169.254.88.1", 32, 254)]


def test_what_a_kernel_answers_beside_the_point_is_no_device(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Channel, "ask", lambda *_: errno.ENOBUFS)
    found = tunnel.ensure(channel, "handover0", 7472)
    assert isinstance(found, Refusal)
    assert found.message == f"handover0 cannot be made: {os.strerror(errno.ENOBUFS)}"
    monkeypatch.setattr(Channel, "ask", lambda *_: codec.compose(codec.NEWLINK, 0, b"\0"))
    assert tunnel.observe(channel, "handover0") == errno.EPROTO
    assert not tunnel.remove(channel, "handover0")


def test_a_peer_is_reached_by_the_first_address_to_which_a_route_leads(
    node: Node, channel: Channel
) -> None:
    node.run("ip link set lo up")
    node.run("ip address add 192.0.2.1/24 dev tap1")
    v4, v6 = ip_address("192.0.2.9"), ip_address("fd00:66::9")
    assert tunnel.choose_remote(channel, [v6, v4]) == v4
    assert tunnel.choose_remote(channel, [v6]) == Refusal(
        EndpointReason.ONE_FAMILY_ONLY, "this node has no route to fd00:66::9"
    )
    assert tunnel.choose_remote(channel, []) == Refusal(
        EndpointReason.ONE_FAMILY_ONLY, "this node has no route to a node without an address"
    )
    node.run("ip address flush dev tap1")
    refused = tunnel.choose_remote(channel, [v6, v4])
    assert isinstance(refused, Refusal)
    assert refused.reason == EndpointReason.TUNNEL_REFUSED


@pytest.fixture
def net(request: pytest.FixtureRequest) -> Iterator[MigrationNet]:
    """Make two nodes, in one segment or routed."""
    namespaces.needs_root()
    with migration_net.made(routed=request.param) as it:
        yield it


@pytest.mark.parametrize("net", [False, True], indirect=True, ids=["one segment", "routed"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_goes_through_the_tunnel_to_the_peer_alone(
    net: MigrationNet, version: int
) -> None:
    """By a route for who names the device alone; nor is it taken for a guest's."""
    mine, theirs = (net.node_address(node, version) for node in "ab")
    indexes = {}
    for node, own in (("a", mine), ("b", theirs)):
        with net.within(node, Channel) as channel:
            made = tunnel.ensure(channel, "handover0", 7472, [own])
            assert isinstance(made, int)
            indexes[node] = made
    route = tunnel.inner_route(indexes["a"], tunnel.way_to(theirs, [mine]), 254, 89)
    with net.within("a", Channel) as channel:
        assert channel.transact([rtmsg.encode_replace(route)]) == [0]
    assert net.within("a", lambda: route_lookup.observe(89, [254])) == ()
    sender, receiver = (
        net.within(node, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) for node in "ab"
    )
    with sender, receiver:
        receiver.bind(("::", 7473))
        receiver.settimeout(0.1)
        for _ in range(50):
            sender.sendto(b"hello", (str(tunnel.inner_address(theirs)), 7473, 0, indexes["a"]))
            # The kernel takes its time, in a work queue of its own, until an address is one.
            with contextlib.suppress(TimeoutError):
                text, source = receiver.recvfrom(64)
                break
    assert (text, source[0].split("%")[0], source[3]) == (
        *(b"hello", str(tunnel.inner_address(mine))),
        indexes["b"],
    )


def test_nothing_that_the_node_sends_has_the_tunnels_address(node: Node, channel: Channel) -> None:
    """Also what leaves by it: nobody could answer."""
    node.run("ip address add 192.0.2.1/24 dev tap1")
    index = tunnel.ensure(channel, "handover0", 7472)
    assert isinstance(index, int)
    node.run("ip route add 10.65.0.9 encap ip id 88 dst 192.0.2.9 dev handover0")
    assert " src 192.0.2.1 " in node.run("ip route get 10.65.0.9")


def test_one_that_has_to_be_made_anew_waits_for_the_rules_of_its_port(channel: Channel) -> None:
    made = tunnel.ensure(channel, "handover0", 7400)
    enclosed: list[str] = []
    asked = channel, "handover0", 7472, enclosed.__contains__
    assert tunnel.ensure_enclosed(*asked) is tunnel.WAITING
    found = tunnel.observe(channel, "handover0")
    assert isinstance(found, vxlan.Device)
    assert (found.index, found.port) == (made, 7400)
    enclosed.append("handover0")
    again = tunnel.ensure_enclosed(*asked)
    assert isinstance(again, int)
    enclosed.clear()
    assert tunnel.ensure_enclosed(*asked) == again
