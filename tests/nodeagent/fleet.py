"""Twenty guests that leave a node at once, some with two interfaces, and traffic to all of them.

One kernel is that of all, with an interface for each of theirs. Otherwise as in ``moves``.
"""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.nodeagent.agents_net import NODES, AgentsNet, uplinks
from tests.nodeagent.process import COLLECTIONS
from tests.nodeagent.tap_guest import Port, open_tap
from tests.nodeagent.traffic import GUEST, Traffic

GUESTS: Final = 20
WITH_TWO: Final = 4
"""So many of them have a second interface: 24 rings, of the 28 that a node has room for."""
NETS: Final = {4: ("10.65.1.", "0/24"), 6: ("fd00:65:1::", "/64")}
NODE_MAC: Final = "ee:ee:ee:ee:ee:ee"


@dataclass(frozen=True, slots=True)
class Interface:
    """One of a guest's."""

    number: int
    guest: int

    @property
    def device(self) -> str:
        """The name of its taps."""
        return f"tap{self.number}"

    @property
    def mac(self) -> str:
        """Its hardware address."""
        return f"52:54:00:65:01:{self.number:02x}"

    @property
    def ips(self) -> dict[int, str]:
        """Its addresses by family."""
        return {4: f"{NETS[4][0]}{self.number}", 6: f"{NETS[6][0]}{self.number:x}"}

    @property
    def rarp(self) -> bytes:
        """What QEMU says for it."""
        mac = self.mac.replace(":", "")
        head = f"ffffffffffff{mac}80350001080006040003{mac}00000000{mac}00000000"
        return bytes.fromhex(head) + bytes(18)

    def endpoint(self, node: str, **spec: Any) -> tuple[str, dict[str, Any]]:
        """Return name and spec of its endpoint on a node."""
        wanted = {
            "node": f"node-{node}",
            "workload": f"{node}-{self.guest}",
            "interface": self.device,
            "mac": self.mac,
            "ips": [*self.ips.values()],
        }
        return f"{node}-{self.number}", wanted | spec


INTERFACES: Final = tuple(
    Interface(number, (number - 1) % GUESTS) for number in range(1, GUESTS + WITH_TWO + 1)
)


@dataclass(kw_only=True)
class Fleet(Traffic):
    """Where they are."""

    moved: int = 0

    def statuses(self, node: str) -> list[dict[str, Any]]:
        """Return what the agent of a node reports of each endpoint."""
        listed = self.net.site.call("GET", COLLECTIONS["WorkloadEndpoint"])["items"]
        here = [one for one in listed if one["spec"]["node"] == f"node-{node}"]
        return [one.get("status") or {} for one in here]

    def all_are(self, node: str, state: str, **conditions: str) -> bool:
        """Tell whether each endpoint of a node is in a state and has these reasons told."""
        found = self.statuses(node)
        return len(found) == len(INTERFACES) and all(
            status.get("state") == state and conditions.items() <= reasons(status).items()
            for status in found
        )

    def place(self) -> None:
        """Have an endpoint of each at the first node."""
        for each in INTERFACES:
            self.net.site.apply("WorkloadEndpoint", *each.endpoint(self.at))
        self.net.until(lambda: self.all_are(self.at, "Base"), "all are served")
        self.lead()

    def prepare(self) -> None:
        """Let all be ready for their next move."""
        net, site = self.net, self.net.site
        self.moved += 1
        for each in INTERFACES:
            site.apply("WorkloadEndpoint", *each.endpoint(self.away, awaitRole=True))
        for guest in range(GUESTS):
            sides = {
                key: {"workload": {"name": f"{node}-{guest}"}}
                for key, node in (("source", self.at), ("target", self.away))
            }
            site.apply("LiveMigration", f"m{self.moved}-{guest}", sides)
        net.until(
            lambda: self.all_are(self.away, "Target", Redirectable="Ready"), "all are awaited"
        )
        is_held = {"Redirectable": "Ready", "Holding": "Holding"}
        net.until(lambda: self.all_are(self.at, "Base", **is_held), "packets of all are held")

    def switch(self, pause_ms: float) -> list[dict[str, Any]]:
        """Let them stand still, and go on at the other node; return what was held of each."""
        net, source = self.net, self.at
        stopped = self.machine.pause()
        self.signal_inside(signal.SIGSTOP)
        time.sleep(pause_ms / 1e3)
        self.at = self.away
        self.signal_inside(signal.SIGCONT)
        self.pauses.append((stopped, self.machine.resume(NODES.index(self.at))))
        net.until(lambda: len(self.holds(source)) == len(INTERFACES), "what was held is told")
        return self.holds(source)

    def holds(self, node: str) -> list[dict[str, Any]]:
        """Return what the agent of a node says of held packets, by endpoint, where it does."""
        redirects = [status.get("redirect") or {} for status in self.statuses(node)]
        return [one["hold"] for one in redirects if "hold" in one]

    def conclude(self) -> None:
        """Let their migrations end."""
        net, source = self.net, self.away
        net.until(lambda: self.all_are(self.at, "Live"), "all are there")
        self.lead()
        for guest in range(GUESTS):
            net.end(f"m{self.moved}-{guest}", "Succeeded")
        net.until(lambda: self.all_are(self.at, "Base"), "all have converged")
        net.site.call("DELETE", COLLECTIONS["LiveMigration"])
        for each in INTERFACES:
            net.site.delete(f"{COLLECTIONS['WorkloadEndpoint']}/{each.endpoint(source)[0]}")
        net.until(lambda: "10.65.1." not in net.run(source, "ip route"), "no redirect is left")

    def lead(self) -> None:
        """Lead the client to where they are."""
        for version, way in uplinks(self.at).items():
            self.net.run("x", f"ip -{version} route replace {''.join(NETS[version])} via {way}")


def reasons(status: dict[str, Any]) -> dict[str, str]:
    """Return the reason of each condition."""
    return {one["type"]: one["reason"] for one in status.get("conditions", [])}


@contextlib.contextmanager
def taps_made(net: AgentsNet) -> Iterator[list[Port]]:
    """Give a and b a tap for each interface, and their kernel its end."""
    ports = []
    for each in INTERFACES:
        descriptors = {}
        for node in NODES[:2]:
            descriptors[node] = net.within(node, partial(open_tap, each.device))
            net.run(node, f"ip link set {each.device} address {NODE_MAC} up")
        guest = net.within(GUEST, partial(open_tap, each.device))
        net.run(
            GUEST,
            f"ip link set {each.device} address {each.mac} txqueuelen 10000 up",
            f"ip address add {each.ips[4]}/32 dev {each.device}",
            f"ip address add {each.ips[6]}/128 dev {each.device} nodad",
        )
        ports.append(Port(each.rarp, guest, [*descriptors.values()]))
    # Each answers for its own addresses alone.
    net.within(GUEST, lambda: Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("1"))
    yield ports
    for descriptor in itertools.chain.from_iterable((port.guest, *port.nodes) for port in ports):
        os.close(descriptor)
