"""Who lost a ping: the network, or the guest that had it?

Each node's kernel notes which echo requests it has passed to the VM's interface, and which replies
came back from there. What reached the guest and was never answered is the guest's own loss: an
emulated one that is short of a processor answers in bursts, and cannot send all of a burst.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Final, Self

from handover_lab.network.namespaces import Network, output
from handover_lab.processes.place import Place

# As many elements as there are sequence numbers; `dynamic` lets rules add them.
TABLE: Final = """
table inet ping_record {{
    set delivered {{ typeof icmp sequence; size 65536; flags dynamic; }}
    set answered {{ typeof icmp sequence; size 65536; flags dynamic; }}
    chain passing {{
        type filter hook forward priority 0
        oifname "{tap}" icmp type echo-request add @delivered {{ icmp sequence }}
        iifname "{tap}" icmp type echo-reply add @answered {{ icmp sequence }}
    }}
}}
"""


class PingRecord:
    """The notes of all nodes."""

    def __init__(self, nodes: Mapping[str, Network]) -> None:
        self._nodes = nodes

    @classmethod
    @contextlib.contextmanager
    def kept(cls, nodes: Mapping[str, Network], tap: str) -> Iterator[Self]:
        """Let *nodes* take notes of their interface *tap*."""
        for node in nodes.values():
            node.run(f"nft '{TABLE.format(tap=tap)}'")
        yield cls(nodes)
        for node in nodes.values():
            node.run("nft delete table inet ping_record")

    def forget(self) -> None:
        """Begin the notes anew: a new stretch of time."""
        for node in self._nodes.values():
            for name in ("delivered", "answered"):
                node.run(f"nft flush set inet ping_record {name}")

    def unanswered(self, node: str) -> frozenset[int]:
        """Return the numbers, modulo `WRAP`, of pings that the guest on *node* had and lost."""
        delivered, answered = (self._noted(node, name) for name in ("delivered", "answered"))
        return delivered - answered

    def _noted(self, node: str, name: str) -> frozenset[int]:
        listing = self._nodes[node].run(f"nft --json list set inet ping_record {name}")
        (found,) = (each["set"] for each in json.loads(listing)["nftables"] if "set" in each)
        return frozenset(found.get("elem", ()))


# By identifier and sequence number, for each family: so flows of several clients are told apart.
# What came is forgotten before the sequence numbers of pings 1 ms apart begin anew.
DELIVERY: Final = """
table inet delivery_record {{
    set delivered4 {{
        typeof icmp id . icmp sequence; size 262144; flags dynamic, timeout; timeout 60s;
    }}
    set delivered6 {{
        typeof icmpv6 id . icmpv6 sequence; size 262144; flags dynamic, timeout; timeout 60s;
    }}
    chain passing {{
        type filter hook forward priority 10
        oifname "{port}" icmp type echo-request add @delivered4 {{ icmp id . icmp sequence }}
        oifname "{port}" icmpv6 type echo-request add @delivered6 {{ icmpv6 id . icmpv6 sequence }}
    }}
}}
"""


class DeliveryRecord:
    """The notes of one node: which pings it has passed to the VM's interface."""

    def __init__(self, node: Place) -> None:
        self._node = node

    @classmethod
    @contextlib.contextmanager
    def kept(cls, node: Place, port: str) -> Iterator[Self]:
        """Let *node* take notes of its interface *port*, or of all that begin so: "cali*"."""
        output(node.command("nft", DELIVERY.format(port=port)))
        try:
            yield cls(node)
        finally:
            output(node.command("nft", "delete", "table", "inet", "delivery_record"))

    def delivered(self, family: int, identifier: int) -> frozenset[int]:
        """Return the sequence numbers of one flow's pings that came in the last minute."""
        words = ("nft", "--json", "list", "set", "inet", "delivery_record", f"delivered{family}")
        listing = output(self._node.command(*words))
        (found,) = (each["set"] for each in json.loads(listing)["nftables"] if "set" in each)
        pairs = (each["elem"]["val"]["concat"] for each in found.get("elem", ()))
        return frozenset(number for whose, number in pairs if whose == identifier)
