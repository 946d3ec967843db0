"""The checks on a real kernel: each trap is set, and each is found."""

import contextlib
import socket
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.privileges import without_privileges

from handover_api.configuration import Advertise, Settings, SourceRedirect
from handover_nodeagent.commands.check import surroundings
from handover_nodeagent.commands.check.findings import Finding, Verdict
from handover_nodeagent.kernel import tunnel
from handover_nodeagent.kernel.arp_guard import rules
from handover_nodeagent.kernel.netlink import vxlan
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.nft import libnftables
from handover_nodeagent.kernel.nft.outcome import Answer
from handover_nodeagent.kernel.nft.process import NftProcess

pytestmark = pytest.mark.root


def look(check: str, settings: Settings | None = None) -> list[tuple[Verdict, str]]:
    """Return verdict and message of one check."""
    found = surroundings.observe(settings or Settings())
    return [(one.verdict, one.message) for one in found if one.check == check]


def test_a_plain_node_is_fine_and_left_as_it_was(node: Node) -> None:
    node.run("ip route add 10.65.0.2 dev tap0")
    Path("/proc/sys/net/ipv6/conf/tap0/accept_ra").write_text("0")
    found = list(surroundings.observe(Settings()))
    # Which processes run is this machine's own affair.
    assert [one for one in found if one.verdict is not Verdict.OK and one.check != "BGP"] == []
    assert {one.check for one in found} == {
        *("privileges", "AF_PACKET", "netlink", "nftables", "nftables arp", "rp_filter"),
        *("conntrack", "forward policy", "forwarding", "tunnel"),
        *("proxy_arp", "accept_ra", "rules", "protocol", "gateway MAC", "eBPF host routing", "BGP"),
    }
    assert node.run("nft list ruleset") == ""


def test_rp_filter_is_found_on_a_workloads_interface_only(node: Node) -> None:
    sysctl = Path("/proc/sys/net/ipv4/conf")
    (sysctl / "tap0" / "rp_filter").write_text("1")
    (sysctl / "tap1" / "rp_filter").write_text("1")
    node.run("ip route add 10.65.0.2 dev tap0")
    ((verdict, message),) = look("rp_filter")
    assert verdict is Verdict.WARN
    assert message.startswith("strict on tap0")


def test_proxy_arp_is_fine_behind_a_guard(node: Node) -> None:
    node.run("ip route add 10.65.0.2 dev tap0")
    Path("/proc/sys/net/ipv4/conf/tap0/proxy_arp").write_text("1")
    assert look("proxy_arp") == [(Verdict.WARN, "on without an ARP guard on tap0")]
    with contextlib.closing(NftProcess("test", libnftables.LIBRARY)) as process:
        guard = rules.render({"tap0": frozenset({IPv4Address("10.65.0.2")})})
        assert process.run(guard) == Answer()
    assert [verdict for verdict, _ in look("proxy_arp")] == [Verdict.OK]


def test_a_guest_that_could_become_the_nodes_router_is_found(node: Node) -> None:
    """Also where it has done so already: the device has an address and a route of the guest's."""
    settings = Path("/proc/sys/net/ipv6/conf/tap0")
    node.run("ip route add 10.65.0.2 dev tap0 proto 88 metric 512")
    (settings / "accept_ra").write_text("0")
    assert look("accept_ra")[0][0] is Verdict.OK
    for value, forwarding, expected in (("1", "1", "ok"), ("1", "0", "warn"), ("2", "1", "warn")):
        (settings / "forwarding").write_text(forwarding)
        (settings / "accept_ra").write_text(value)
        ((verdict, message),) = look("accept_ra")
        assert verdict == expected
        assert ("tap0" in message) is (expected == "warn")
    node.run("ip route add default dev tap0")
    assert look("accept_ra")[0][0] is Verdict.WARN


def test_what_cannot_be_read_is_not_called_well(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node.run("ip route add 10.65.0.2 dev tap0")
    monkeypatch.setattr(surroundings, "_SYSCTL", tmp_path)
    ((verdict, message),) = look("sysctl")
    assert verdict is Verdict.WARN
    assert message.startswith("proxy_arp of tap0, rp_filter of tap0 could not be read")


def test_a_network_route_with_our_protocol_number_is_somebody_elses(node: Node) -> None:
    node.run("ip route add 10.99.0.0/24 dev tap1 proto 88")
    ((verdict, message),) = look("protocol")
    assert verdict is Verdict.FAIL
    assert "10.99.0.0/24" in message
    assert [verdict for verdict, _ in look("protocol", Settings(route_protocol=77))] == [Verdict.OK]


def test_the_names_of_numbers_are_those_of_this_machine() -> None:
    assert surroundings.protocol_names().get(12) == "bird"


def test_gateway_macs_that_differ_are_found(node: Node) -> None:
    node.run("ip route add 10.65.0.2 dev tap0")
    node.run("ip -6 route add fd00:65::2 dev tap1")
    ((verdict, message),) = look("gateway MAC")
    assert verdict is Verdict.WARN
    assert "ee:ee:ee:ee:ee:ee" in message


def test_a_program_at_tc_is_found(node: Node) -> None:
    node.run("tc qdisc add dev tap0 clsact")
    program = ["tc", "filter", "add", "dev", "tap0", "egress", "bpf", "bytecode"]
    subprocess.run([*program, "1,6 0 0 4294967295,"], check=True)
    ((verdict, message),) = look("eBPF host routing")
    assert verdict is Verdict.WARN
    assert "tap0" in message


def test_an_interface_of_cilium_is_found(node: Node) -> None:
    node.run("ip link set far1 name cilium_host")
    ((verdict, _),) = look("eBPF host routing")
    assert verdict is Verdict.FAIL


def test_birds_default_metric_is_found(node: Node) -> None:
    node.run("ip route add 10.65.0.2 via inet6 fe80::9 dev tap1 proto bird metric 32")
    ((verdict, message),) = look("BIRD")
    assert verdict is Verdict.FAIL
    assert "metric 32" in message


@pytest.mark.usefixtures("node")
def test_without_privileges_each_thing_that_needs_them_says_so() -> None:
    found: list[Finding] = without_privileges(lambda: list(surroundings.observe(Settings())))
    failed = [one.check for one in found if one.verdict is Verdict.FAIL]
    assert failed == ["privileges", "privileges", "AF_PACKET", "nftables arp"]


def test_a_state_directory_that_cannot_be_written_fails(tmp_path: Path) -> None:
    assert surroundings.state_directory(tmp_path / "new").verdict is Verdict.OK
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    found = surroundings.state_directory(tmp_path / "file")
    assert found.verdict is Verdict.FAIL
    assert str(tmp_path / "file") in found.message


def test_a_rule_that_goes_before_our_table_is_found(node: Node) -> None:
    assert look("rules") == [(Verdict.OK, "every packet is looked up in table 254")]
    node.run("ip rule add from 10.0.0.0/8 lookup 100 priority 100")
    node.run("ip -6 rule add iif tap0 fwmark 0x10 blackhole priority 7")
    ((verdict, message),) = look("rules")
    assert verdict is Verdict.WARN
    assert "100: from 10.0.0.0/8 lookup 100" in message
    assert "7: iif tap0 fwmark 0x10 blackhole" in message


def test_a_table_that_no_rule_leads_to_is_found(node: Node) -> None:
    node.run("ip rule add from 10.0.0.0/8 lookup 100 priority 100")
    ((verdict, message),) = look("rules", Settings(route_table=100))
    assert verdict is Verdict.FAIL
    assert "no rule looks every packet up in table 100" in message


def test_a_strict_filter_on_an_overlay_fails_before_the_first_migration(node: Node) -> None:
    settings = Settings()
    node.run("ip address add 192.0.2.3/24 dev tap1")
    node.run("ip route add 10.244.2.0/24 via 10.244.2.0 dev tap0 onlink")
    node.run("sysctl -qw net.ipv4.conf.tap0.rp_filter=1 net.ipv4.conf.all.rp_filter=0")

    def verdicts(settings: Settings) -> list[tuple[Verdict, str]]:
        found = surroundings.observe(settings)
        return [(one.verdict, one.message) for one in found if one.check == "forwarding"]

    well = [(Verdict.OK, "no strict rp_filter where other nodes forward to guests here")]
    # Nobody outside is answered at all.
    assert verdicts(settings) == well
    node.run("ip route add default via 192.0.2.254")
    ((verdict, message),) = verdicts(settings)
    assert (verdict, message.split(":")[0]) == (Verdict.FAIL, "strict on tap0")
    assert verdicts(Settings(advertise=Advertise.BGP)) == []
    # The greater of an interface's and all interfaces' counts.
    node.run("sysctl -qw net.ipv4.conf.all.rp_filter=2")
    assert verdicts(settings) == well


def test_a_strict_uplink_is_told_of_where_nodes_are_reached_by_the_second_tunnel(
    node: Node,
) -> None:
    settings = Settings(advertise=Advertise.AGENTS, source_redirect=SourceRedirect.OFF)
    node.run("ip address add 192.0.2.3/24 dev tap1")
    node.run("ip route add default via 192.0.2.254")
    node.run("sysctl -qw net.ipv4.conf.tap1.rp_filter=1 net.ipv4.conf.all.rp_filter=0")
    assert look("tunnel", settings) == []
    node.run("ip link add handover1 type vxlan external gpe dstport 7474 nolearning udp6zerocsumrx")
    ((verdict, message),) = look("tunnel", settings)
    assert (verdict, message.split(":")[0]) == (Verdict.WARN, "strict on tap1")
    node.run("sysctl -qw net.ipv4.conf.tap1.rp_filter=2")
    assert look("tunnel", settings) == []


WITHOUT = ": migrations work, but lose what still arrives at the source after the switch"


def test_a_tunnel_is_tried_and_nothing_of_it_is_left(node: Node) -> None:
    before = node.run("ip link")
    assert look("tunnel") == [(Verdict.OK, "it can be made, with UDP port 7472")]
    assert node.run("ip link") == before
    assert look("tunnel", Settings(source_redirect=SourceRedirect.OFF)) == []


def test_a_tunnel_that_is_there_is_left_alone(node: Node, channel: Channel) -> None:
    tunnel.ensure(channel, tunnel.REDIRECT, 7472)
    before = node.run("ip -d link show handover0")
    assert look("tunnel") == [(Verdict.OK, "handover0 is there")]
    assert node.run("ip -d link show handover0") == before


def test_what_stands_in_a_tunnels_way_is_found(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 7472))
        ((verdict, message),) = look("tunnel")
    assert verdict is Verdict.WARN
    assert message.startswith("UDP port 7472 is in use on this node")
    with monkeypatch.context() as old:
        old.setattr(vxlan, "_KIND", "nonesuch")
        ((verdict, message),) = look("tunnel")
    assert "this kernel has no VXLAN" in message
    assert message.endswith(WITHOUT)
    node.run("ip link add handover0 type bridge")
    ((verdict, message),) = look("tunnel")
    assert (verdict, message) == (
        Verdict.WARN,
        f"interface handover0 is somebody else's{WITHOUT}",
    )


def test_a_conntrack_that_takes_up_nothing_is_found(node: Node) -> None:
    # With the first rule that asks it, conntrack watches this namespace.
    node.run("nft add table inet theirs")
    node.run("nft add chain inet theirs f { type filter hook forward priority 0; }")
    node.run("nft add rule inet theirs f ct state invalid drop")
    assert look("conntrack")[0][0] is Verdict.OK
    Path("/proc/sys/net/netfilter/nf_conntrack_tcp_loose").write_text("0")
    ((verdict, message),) = look("conntrack")
    assert verdict is Verdict.WARN
    assert message.startswith("tcp_loose is off")


def test_a_policy_that_knows_established_connections_alone_is_found(node: Node) -> None:
    node.run("nft add table inet theirs")
    node.run("nft add chain inet theirs f { type filter hook forward priority 0; policy drop; }")
    assert look("forward policy")[0][0] is Verdict.OK
    node.run("nft add chain inet theirs known")
    node.run("nft add rule inet theirs f jump known")
    node.run("nft add rule inet theirs known ct state established,related accept")
    ((verdict, message),) = look("forward policy")
    assert verdict is Verdict.WARN
    assert message.startswith("inet theirs f accepts only what is established")
    node.run("nft add rule inet theirs f iifname tap0 accept")
    assert look("forward policy")[0][0] is Verdict.OK
