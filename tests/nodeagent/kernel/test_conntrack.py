"""Connections that the kernel forgets, judged by pyroute2."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket
from tests.nodeagent import namespaces

from handover_nodeagent.kernel import conntrack
from handover_nodeagent.network.model import IPAddress

pytestmark = pytest.mark.root

GUEST = (ip_address("10.65.0.2"), ip_address("fd00:65::2"))
CLIENT = (ip_address("203.0.113.9"), ip_address("fd00:3::9"))
TRACKED = """
    table inet tracked {
        chain input { type filter hook input priority 0; ct state invalid drop; }
        chain nat { type nat hook output priority -100; tcp dport 81 redirect to 80; }
    }
"""
BOTH = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


@pytest.fixture
def tracked() -> Iterator[None]:
    """Be on a node that tracks connections, and has all addresses itself."""
    namespaces.needs_root()
    with namespaces.restored():
        namespaces.enter_new()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in (*GUEST, *CLIENT):
            subprocess.run(["ip", "address", "add", str(address), "dev", "lo"], check=True)
        subprocess.run(["nft", "-f", "-"], input=TRACKED, text=True, check=True)
        yield


@contextlib.contextmanager
def connected(
    source: IPAddress, to: IPAddress, port: int = 80, listening: int = 80
) -> Iterator[None]:
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::" if to.version == 6 else "0.0.0.0", listening))
        listener.listen()
        client.bind((str(source), 0))
        client.connect((str(to), port))
        yield


def known() -> set[tuple[str, str]]:
    """Return source and destination of all TCP connections, as pyroute2 reads them."""

    def read() -> set[tuple[str, str]]:
        shown = []
        for family in (socket.AF_INET, socket.AF_INET6):
            with NFCTSocket(nfgen_family=family) as judge:
                shown += [one.get_attr("CTA_TUPLE_ORIG") for one in judge.dump()]
        found = [one.get_attr("CTA_TUPLE_IP") for one in shown]
        return {
            (
                str(one.get_attr("CTA_IP_V4_SRC") or one.get_attr("CTA_IP_V6_SRC")),
                str(one.get_attr("CTA_IP_V4_DST") or one.get_attr("CTA_IP_V6_DST")),
            )
            for one in found
        }

    # A loop of its own, which pyroute2 needs; a new thread lives in this namespace, too.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(read).result()


@BOTH
@pytest.mark.parametrize("is_source", [True, False])
@pytest.mark.usefixtures("tracked")
def test_a_guests_connections_with_who_is_outside_are_forgotten(
    family: int, *, is_source: bool
) -> None:
    guest, client = GUEST[family], CLIENT[family]
    ends = (guest, client) if is_source else (client, guest)
    with connected(*ends):
        assert conntrack.forget([guest + 1], {"lo"}) == 0
        assert conntrack.forget([guest], {"eth0"}) == 0
        assert tuple(map(str, ends)) in known()
        assert conntrack.forget([guest], {"eth0", "lo"}) == 1
        assert tuple(map(str, ends)) not in known()


@BOTH
@pytest.mark.usefixtures("tracked")
def test_connections_of_others_and_those_that_are_translated_stay(family: int) -> None:
    guest, client = GUEST[family], CLIENT[family]
    others = connected(client, client, 82, 82)
    with others, connected(client, guest, 81):
        before = known()
        assert {(str(client), str(client)), (str(client), str(guest))} <= before
        assert conntrack.forget([guest], {"lo"}) == 0
        assert known() == before
