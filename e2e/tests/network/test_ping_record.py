"""The record beside a guest that is a namespace: it answers, is deaf, or is not reached at all."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handover_lab.network.namespaces import Namespace
from handover_lab.network.ping_record import DeliveryRecord, PingRecord
from handover_lab.network.traffic import Flow

pytestmark = pytest.mark.root

GUEST, GUEST_V6 = "10.9.1.2", "fd00:9:1::2"
NODE = """
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
ip link add out type veth peer name eth0 netns {client}
ip link add tap type veth peer name eth0 netns {guest}
ip address add 10.9.0.1/24 dev out && ip link set out up
ip address add 10.9.1.1/24 dev tap && ip link set tap up
ip address add fd00:9:0::1/64 dev out nodad && ip address add fd00:9:1::1/64 dev tap nodad
"""
END = """
ip address add 10.9.{link}.2/24 dev eth0 && ip link set eth0 up
ip address add fd00:9:{link}::2/64 dev eth0 nodad
ip route add default via 10.9.{link}.1
ip route add default via fd00:9:{link}::1
"""
DEAF = """
nft add table inet deaf
nft 'add chain inet deaf input { type filter hook input priority 0; policy drop; }'
"""


@pytest.fixture
def places() -> Iterator[dict[str, Namespace]]:
    """A client, a node and a guest behind it."""
    made = {name: Namespace.make(name) for name in ("client", "node", "guest")}
    for place in made.values():
        # Else nobody would answer a neighbor for the first two seconds.
        place.run("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
    client, guest = made["client"], made["guest"]
    made["node"].run(NODE.format(client=client.holder.pid, guest=guest.holder.pid))
    client.run(END.format(link=0))
    guest.run(END.format(link=1))
    yield made
    for namespace in made.values():
        namespace.end()


def ping(client: Namespace) -> bool:
    """Send the ping of number 1, and tell if it was answered."""
    command = client.command("busybox", "ping", "-c1", "-W1", GUEST)
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_a_ping_that_was_answered_is_nobody_s_loss(places: dict[str, Namespace]) -> None:
    with PingRecord.kept({"node": places["node"]}, "tap") as ping_record:
        assert ping(places["client"])

        assert ping_record.unanswered("node") == frozenset()


def test_a_ping_that_the_guest_had_is_its_own_loss(places: dict[str, Namespace]) -> None:
    assert ping(places["client"])
    places["guest"].run(DEAF)
    with PingRecord.kept({"node": places["node"]}, "tap") as ping_record:
        assert not ping(places["client"])

        assert ping_record.unanswered("node") == {0}
        ping_record.forget()
        assert ping_record.unanswered("node") == frozenset()


def test_a_ping_that_never_came_to_the_guest_is_the_network_s(
    places: dict[str, Namespace],
) -> None:
    places["node"].run(f"ip route add blackhole {GUEST}")
    with PingRecord.kept({"node": places["node"]}, "tap") as ping_record:
        assert not ping(places["client"])

        assert ping_record.unanswered("node") == frozenset()


@pytest.mark.parametrize(("family", "address"), [(4, GUEST), (6, GUEST_V6)])
@pytest.mark.parametrize("port", ["tap", "ta*"])
async def test_pings_that_came_are_told_by_flow_and_number(
    places: dict[str, Namespace], tmp_path: Path, family: int, address: str, port: str
) -> None:
    with DeliveryRecord.kept(places["node"], port) as record:
        flows = [Flow.start(places["client"], "ping", address, 1, tmp_path / name) for name in "ab"]
        for flow in flows:
            await flow.answered(time.time_ns())
            assert not record.delivered(family, flow.identifier).isdisjoint({0, 1, 2})
        places["node"].run(f"ip route add blackhole {address}")
        for flow in flows:
            packets = (await flow.stop()).packets()
            came = {number for number, ping in enumerate(packets) if ping.answered_ns is not None}
            # The blackhole may have come between a ping and its answer.
            assert len(record.delivered(family, flow.identifier) - came) <= 1
            assert came <= record.delivered(family, flow.identifier)
