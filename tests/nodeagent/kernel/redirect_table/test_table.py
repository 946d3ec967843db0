"""The redirect's table in a real kernel: golden text, whole and by elements, and its removal."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest
from tests.nodeagent.node import V4, V6, Node

from handover_nodeagent.kernel.nft import authorship, drift
from handover_nodeagent.kernel.nft.outcome import DONE, Outcome
from handover_nodeagent.kernel.nft.writer import Writer
from handover_nodeagent.kernel.redirect_table import rules
from handover_nodeagent.kernel.redirect_table.rules import Redirects
from handover_nodeagent.kernel.redirect_table.table import RedirectTable

pytestmark = pytest.mark.root

PEER, PEER_6 = ip_address("192.0.2.2"), ip_address("fd00:66::2")
IDLE = Redirects(7472, 7473, frozenset({"tap0"}))
BUSY = dataclasses.replace(
    IDLE,
    peers=frozenset({PEER, PEER_6}),
    redirected=frozenset({V4, V6}),
    leaving=frozenset({V4 + 1, V6 + 1}),
)
FULL = dataclasses.replace(BUSY, distribution_port=7474, nodes=frozenset({PEER}))

LISTED = """\
table inet handover {
	set ports {
		typeof iifname
		elements = { "tap0" }
	}

	set peers4 {
		typeof ip saddr
		elements = { 192.0.2.2 }
	}

	set peers6 {
		typeof ip6 saddr
		elements = { fd00:66::2 }
	}

	set redirected4 {
		typeof ip daddr
		counter
		elements = { 10.65.0.2 counter packets 0 bytes 0 }
	}

	set redirected6 {
		typeof ip6 daddr
		counter
		elements = { fd00:65::2 counter packets 0 bytes 0 }
	}

	set leaving4 {
		typeof ip daddr
		elements = { 10.65.0.3 }
	}

	set leaving6 {
		typeof ip6 daddr
		elements = { fd00:65::3 }
	}

	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname != @ports ip daddr @redirected4 notrack
		iifname != @ports ip6 daddr @redirected6 notrack
		iifname != @ports ip daddr @leaving4 fib daddr oifname "handover0" notrack
		iifname != @ports ip6 daddr @leaving6 fib daddr oifname "handover0" notrack
	}

	chain input {
		type filter hook input priority filter - 10; policy accept;
		udp dport 7472 ip saddr != @peers4 counter packets 0 bytes 0 drop
		udp dport 7472 ip6 saddr != @peers6 counter packets 0 bytes 0 drop
		iifname "handover0" ip6 saddr fe80::/64 ip6 daddr fe80::/64 udp dport 7473 accept
		iifname "handover0" drop
	}

	chain forward {
		type filter hook forward priority filter - 10; policy accept;
		iifname "handover0" oifname != @ports counter packets 0 bytes 0 drop
	}

	chain postrouting {
		type filter hook postrouting priority 300; policy accept;
		iifname "handover0" meta mark set meta mark | 0x00002000
	}
}
"""
SECOND = (
    "udp dport 7474 ip saddr != @nodes4 counter packets 0 bytes 0 drop",
    'iifname "handover1" drop',
    'iifname "handover1" oifname != @ports oifname != "handover0" counter packets 0 bytes 0 drop',
)


@pytest.fixture
async def writer(node: Node) -> AsyncIterator[Writer]:  # noqa: ARG001 - made in its namespace
    """Give who writes the node's tables."""
    it = Writer()
    yield it
    it.close()


@pytest.fixture
def table(writer: Writer) -> RedirectTable:
    """Give the table of the node."""
    return RedirectTable(writer)


def listed(node: Node) -> str:
    return node.run("nft list ruleset inet")


async def test_the_table_is_what_the_design_says(node: Node, table: RedirectTable) -> None:
    assert await table.replace(BUSY) == DONE
    assert listed(node) == LISTED


async def test_a_second_tunnel_has_its_own_rules(node: Node, table: RedirectTable) -> None:
    assert await table.replace(FULL) == DONE
    text = listed(node)
    assert all(rule in text for rule in SECOND)
    assert await table.replace(BUSY) == DONE
    assert listed(node) == LISTED


async def test_elements_come_and_go(node: Node, table: RedirectTable) -> None:
    await table.replace(IDLE)
    idle = listed(node)
    assert await table.change(IDLE, BUSY) == DONE
    assert listed(node) == LISTED
    assert await table.change(BUSY, IDLE) == DONE
    assert listed(node) == idle
    assert await table.change(IDLE, FULL) == DONE
    assert await table.change(FULL, IDLE) == DONE
    assert listed(node) == idle


async def test_what_somebody_deleted_may_go(node: Node, table: RedirectTable) -> None:
    await table.replace(BUSY)
    node.run("nft flush set inet handover redirected4")
    node.run("nft add element inet handover peers4 { 198.51.100.1 }")
    assert await table.change(BUSY, IDLE) == DONE
    assert await table.replace(IDLE) == DONE
    assert "198.51.100.1" not in listed(node)


async def test_a_change_without_the_table_says_so(table: RedirectTable) -> None:
    assert (await table.change(IDLE, BUSY)).trouble == "No such file or directory"
    assert await table.change(IDLE, IDLE) == DONE


async def test_the_table_is_removed_once_and_again(node: Node, table: RedirectTable) -> None:
    await table.replace(BUSY)
    node.run("nft add table inet theirs")
    for _ in range(2):
        assert await table.remove() == DONE
        assert listed(node) == "table inet theirs {\n}\n"


async def test_a_port_that_nft_cannot_name_is_told(table: RedirectTable) -> None:
    odd = dataclasses.replace(BUSY, ports=frozenset({"tap0", 'a"b'}))
    expected = Outcome("nftables cannot name interface 'a\"b'")
    assert await table.replace(odd) == expected
    assert await table.change(BUSY, odd) == expected


async def test_without_the_library_the_answer_says_what_is_off(node: Node) -> None:  # noqa: ARG001
    writer = Writer("libnftables.so.0")
    done = await RedirectTable(writer).replace(BUSY)
    assert done.is_lost
    assert done.trouble.endswith("; the redirect is off")
    assert await RedirectTable(writer).forwarded() == {}
    writer.close()


async def test_somebody_elses_change_of_it_is_heard(
    node: Node, table: RedirectTable, writer: Writer
) -> None:
    """And neither our own one, nor one of the other table of that name."""
    drifts = 0
    heard = asyncio.Event()

    def count() -> None:
        nonlocal drifts
        drifts += 1
        heard.set()

    watch = drift.DriftWatch(
        count,
        heard.set,
        author=writer.author,
        family=authorship.INET,
    )
    await table.replace(IDLE)
    await table.change(IDLE, BUSY)
    node.run("nft add table arp handover")
    node.run("nft add element inet handover peers4 { 198.51.100.1 }")
    async with asyncio.timeout(5):
        await heard.wait()
    await asyncio.sleep(0.05)
    assert drifts == 1
    watch.close()


async def test_a_thousand_guests_are_written_at_once(node: Node, table: RedirectTable) -> None:
    many = dataclasses.replace(
        BUSY,
        ports=frozenset(f"cali{number:011x}" for number in range(1000)),
        redirected=frozenset(V4 + number for number in range(1000)),
    )
    assert await table.replace(many) == DONE
    assert rules.forwarded(node.run("nft -j list table inet handover")).keys() == {
        V4 + number for number in range(1000)
    }
    assert len(await table.forwarded()) == 1000
