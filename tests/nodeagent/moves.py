"""A guest as fast as the machine that moves between real agents, and traffic that is counted.

Its kernel is one wherever it is (``tap_guest``). Both nodes drop what fits no connection.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.nodeagent.agents_net import NODES, SETTINGS, TAP, TUNNEL, VM, AgentsNet, path, uplinks
from tests.nodeagent.process import COLLECTIONS, MAC
from tests.nodeagent.tap_guest import open_tap
from tests.nodeagent.traffic import GUEST, MS, Traffic

UPLINK: Final = "169.254.1.1"
UPLINK6: Final = "fe80::1"
LATE_S: Final = 0.2
"""So long after the guest the client's routes follow, as by a slow BGP."""
STRICT: Final = """
table inet strict {
    chain forward {
        type filter hook forward priority 0
        ct state invalid counter drop
    }
}
"""
REASSEMBLY: Final = "nstat -as Ip*Reasm*"
USUAL: Final = 1500
JUMBO: Final = 9000
OVERHEAD: Final = 36
"""Octets of IPv4, UDP and VXLAN-GPE before a packet in the redirect's tunnel."""
TWICE_NS: Final = 30 * MS
"""What was sent so shortly before the pause may come twice."""


@dataclass(kw_only=True)
class Moves(Traffic):
    """The guest, where it is, and what goes to and fro."""

    holds: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0
    overrun: int = 0
    """Packets that the guest's tap had no room for while it ran, and nothing was sent again: its
    machine did not run, as this one has too much to do."""
    dropped_before: int = 0
    later_ns: int = 0
    """So long after the pause it may, too."""
    largest: int = 1400
    """Octets that pass the redirect's tunnel in one piece."""

    def begin_anew(self) -> None:
        """Forget what was recorded so far."""
        self.files.clear()
        self.pauses.clear()
        self.holds.clear()
        self.overrun, self.dropped_before = 0, self.dropped()

    def prepare(self, *, is_held: bool = True) -> None:
        """Let all be ready for the guest's next move."""
        net, self.number = self.net, self.number + 1
        for name in NODES[:2]:
            net.endpoint(name, awaitRole=name != self.at)
        net.migrate(f"m{self.number}", self.at, self.away)
        for name in NODES[:2]:
            net.until_redirectable(name)
        net.until(lambda: net.state(self.away) == "Target", "the target listens")
        if is_held:
            held = ("True", "Holding")
            net.until(lambda: net.condition(self.at, "Holding") == held, "packets are held")

    def pause(self) -> int:
        """Let the guest stand still."""
        stopped = self.machine.pause()
        self.signal_inside(signal.SIGSTOP)
        return stopped

    def resume(self, node: str) -> int:
        """Let it go on."""
        self.signal_inside(signal.SIGCONT)
        return self.machine.resume(NODES.index(node))

    def move(self, pause_ms: float) -> None:
        """Move the guest to the other node."""
        source = self.at
        self.prepare()
        self.switch(pause_ms)
        self.net.until(lambda: self.hold(source) is not None, "what was held is told")
        self.holds.append(self.hold(source) or {})
        self.conclude()

    def switch(self, pause_ms: float, target: str = "") -> None:
        """Pause the guest, and let it go on at the other node, or at *target*."""
        self.overrun += self.dropped() - self.dropped_before
        stopped, self.at = self.pause(), target or self.away
        time.sleep(pause_ms / 1e3)
        self.pauses.append((stopped, self.resume(self.at)))

    def conclude(self) -> None:
        """Let the migration end, once the guest is served where it is."""
        net, target, source = self.net, self.at, self.away
        net.until(lambda: net.leads(target) == TAP, "the target serves")
        net.until(lambda: net.leads(source) in {TUNNEL, "eth0"}, "the source sends on")
        time.sleep(LATE_S)
        self.lead()
        net.end(f"m{self.number}", "Succeeded")
        net.until(lambda: net.state(target) == "Base", "it has converged")
        net.site.delete(f"{COLLECTIONS['LiveMigration']}/m{self.number}")
        net.site.delete(path(source))
        net.until(lambda: net.leads(source) == "", "the redirect has ended")
        self.dropped_before = self.dropped()

    def dropped(self) -> int:
        """Return how many packets the tap had no room for at which the guest is."""
        shown = self.net.within(self.at, Path("/proc/thread-self/net/dev").read_text)
        (line,) = (one for one in shown.splitlines() if one.strip().startswith(f"{TAP}:"))
        # Eight columns of what came, then octets, packets, errors and this.
        return int(line.partition(":")[2].split()[11])

    def hold(self, node: str) -> dict[str, Any] | None:
        """Return what the agent of a node says of held packets."""
        redirect = self.net.status(node).get("redirect") or {}
        found: dict[str, Any] | None = redirect.get("hold")
        return found

    def lead(self) -> None:
        """Lead the client to where the guest is."""
        for version, way in uplinks(self.at).items():
            # Of what has no room in the tunnel IPv6 tells its sender, who loses the first one.
            limit = f"mtu {self.largest}" if version == 6 else ""
            self.net.run("x", f"ip -{version} route replace {VM[version]} via {way} {limit}")

    @contextlib.contextmanager
    def configured(self, **fields: object) -> Iterator[None]:
        """Let all agents go by other settings meanwhile."""
        self.net.site.apply("HandoverConfiguration", "default", SETTINGS | fields)
        yield
        self.net.site.apply("HandoverConfiguration", "default", SETTINGS)

    @contextlib.contextmanager
    def jumbo_frames(self) -> Iterator[None]:
        """Let 9,000 octets pass everywhere meanwhile."""
        self.largest = JUMBO - OVERHEAD
        self._limit(JUMBO)
        yield
        self.largest = Moves.largest
        self._limit(USUAL)

    def _limit(self, octets: int) -> None:
        ports = ("br0", *(f"to{name}" for name in (*NODES[:2], "x")))
        links = {"r": ports, "x": ("eth0",), GUEST: ("eth",)} | dict.fromkeys(
            NODES[:2], ("eth0", TAP)
        )
        for where, names in links.items():
            self.net.run(where, *(f"ip link set {name} mtu {octets}" for name in names))
        self.lead()

    def fragments(self) -> int:
        """Return how many fragments the nodes have made so far."""
        return sum(
            int(line.split()[1])
            for node in NODES[:2]
            for line in self.net.run(node, "nstat -asz").splitlines()
            if line.split()[0] in {"IpFragCreates", "Ip6FragCreates"}
        )

    def shown(self, when_ns: Iterable[int] = ()) -> str:
        """Return what somebody needs who wonders; what is lost was sent at *when_ns*."""
        after = self.since_stops(when_ns)
        taps = [self.net.run(node, f"ip -s link show {TAP}") for node in NODES[:2]]
        # Fragments that were not put together, by conntrack or by the guest.
        failed = [self.net.run(node, REASSEMBLY) for node in (*NODES[:2], GUEST)]
        ends = [round((go - stop) / MS, 1) for stop, go in self.pauses]
        return f"{after[:40]} ms after each stop; {ends}\n{self.holds}\n{taps}\n{failed}"

    def is_doubtful(self, sent_ns: int) -> bool:
        """Tell whether what was sent then may come twice."""
        return any(stop - TWICE_NS <= sent_ns <= go + self.later_ns for stop, go in self.pauses)


@contextlib.contextmanager
def taps_made(net: AgentsNet) -> Iterator[dict[str, int]]:
    """Give a and b taps instead of their veths, and c's guest a tap that leads to them."""
    made = dict[str, int]()
    for node in NODES[:2]:
        net.run(node, f"ip link set {TAP} down", f"ip link set {TAP} name old0")
        made[node] = net.within(node, lambda: open_tap(TAP))
        net.run(node, f"ip link set {TAP} address ee:ee:ee:ee:ee:ee up")
        net.within(node, lambda: subprocess.run(["nft", STRICT], check=True))
    net.run(GUEST, "ip link set eth down", "ip link set eth name old0")
    made["guest"] = net.within(GUEST, lambda: open_tap("eth"))
    net.run(
        GUEST,
        f"ip link set eth address {MAC} txqueuelen 10000 up",
        f"ip address add {VM[4]}/32 dev eth",
        f"ip address add {VM[6]}/128 dev eth nodad",
        f"ip route add {UPLINK} dev eth",
        f"ip route add default via {UPLINK}",
        f"ip -6 route add default via {UPLINK6} dev eth",
        f"ip neigh replace {UPLINK} lladdr ee:ee:ee:ee:ee:ee dev eth nud permanent",
        f"ip neigh replace {UPLINK6} lladdr ee:ee:ee:ee:ee:ee dev eth nud permanent",
    )
    yield made
    for descriptor in made.values():
        os.close(descriptor)
    for node in NODES[:2]:
        net.run(node, f"ip link set old0 name {TAP} up")
    net.run(GUEST, "ip link set old0 name eth up")
