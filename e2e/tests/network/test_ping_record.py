"""The record beside a guest that is a namespace: it answers, is deaf, or is not reached at all."""

import subprocess
from collections.abc import Iterator

import pytest

from handover_lab.network.namespaces import Namespace
from handover_lab.network.ping_record import PingRecord

pytestmark = pytest.mark.root

GUEST = "10.9.1.2"
NODE = """
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link add out type veth peer name eth0 netns {client}
ip link add tap type veth peer name eth0 netns {guest}
ip address add 10.9.0.1/24 dev out && ip link set out up
ip address add 10.9.1.1/24 dev tap && ip link set tap up
"""
END = """
ip address add {address}/24 dev eth0 && ip link set eth0 up
ip route add default via {gateway}
"""
DEAF = """
nft add table inet deaf
nft 'add chain inet deaf input { type filter hook input priority 0; policy drop; }'
"""


@pytest.fixture
def places() -> Iterator[dict[str, Namespace]]:
    """A client, a node and a guest behind it."""
    made = {name: Namespace.make(name) for name in ("client", "node", "guest")}
    client, guest = made["client"], made["guest"]
    made["node"].run(NODE.format(client=client.holder.pid, guest=guest.holder.pid))
    client.run(END.format(address="10.9.0.2", gateway="10.9.0.1"))
    guest.run(END.format(address=GUEST, gateway="10.9.1.1"))
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
