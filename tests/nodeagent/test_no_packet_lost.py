"""Statement 21: with what the paused guest did not take sent again, no packet is lost at all.

Agents as processes on their nodes, with the real operator and API server; the guest is as fast as
the machine, has one kernel wherever it is, and stands still for as long as it is paused.
"""

import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from tests.nodeagent import agents_net, counted_traffic
from tests.nodeagent.agents_net import CLIENT, NODES, TAP, TUNNEL, VM, AgentsNet, path, uplinks
from tests.nodeagent.process import COLLECTIONS, MAC
from tests.nodeagent.tap_guest import TapGuest, open_tap

pytestmark = [pytest.mark.root, pytest.mark.api]

MS: Final = 1_000_000
GUEST: Final = "gc"
"""The namespace of the guest's kernel: nobody is at node c."""
UPLINK: Final = "169.254.1.1"
UPLINK6: Final = "fe80::1"
SENDING: Final = frozenset({"send", "ask", "upload", "request"})
LISTENING: Final = frozenset({"receive", "echo", "swallow", "answer"})
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
PAUSES_MS: Final = (
    *(54, 119, 188, 176, 86, 135, 228, 70, 214, 134),
    *(218, 145, 58, 141, 148, 73, 213, 13, 15, 108),
)
OCTETS_A_US: Final = "25"
ENOUGH: Final = 10_000
"""Packets of a migration, without which nothing was tested."""
MOMENT_MS: Final = 30
TWICE_NS: Final = 30 * MS
"""What was sent so shortly before the pause may come twice."""


@dataclass
class Moves:
    """The guest, where it is, and what goes to and fro."""

    net: AgentsNet
    machine: TapGuest
    directory: Path
    at: str = "a"
    inside: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    outside: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    pauses: list[tuple[int, int]] = field(default_factory=list)
    holds: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0

    @property
    def away(self) -> str:
        """The node that the guest can move to."""
        return "b" if self.at == "a" else "a"

    def begin(self, name: str, what: str, where: str, *words: str) -> None:
        """Begin one end of some traffic, in a namespace."""
        file = self.files[name] = self.directory / name
        file.unlink(missing_ok=True)
        argv = [sys.executable, counted_traffic.__file__, what, str(file), *words]
        process = self.net.within(where, lambda: subprocess.Popen(argv))
        (self.inside if where == GUEST else self.outside).append((what, process))
        if what in LISTENING:
            self.net.until(file.exists, f"{name} listens")

    def finish(self) -> dict[str, list[tuple[int, int]]]:
        """End all traffic, first what is sent; return what each recorded."""
        for words in (SENDING, LISTENING):
            ending = [process for what, process in (*self.outside, *self.inside) if what in words]
            for process in ending:
                process.send_signal(signal.SIGTERM)
            for process in ending:
                process.wait(10)
            # What is on its way arrives.
            time.sleep(0.5)
        self.outside.clear()
        self.inside.clear()
        return {name: counted_traffic.records(file) for name, file in self.files.items()}

    def kill(self) -> None:
        """End what is left."""
        for _, process in (*self.outside, *self.inside):
            process.kill()
            process.wait()
        self.machine.end()

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
        for _, process in self.inside:
            process.send_signal(signal.SIGSTOP)
        return stopped

    def resume(self, node: str) -> int:
        """Let it go on."""
        for _, process in self.inside:
            process.send_signal(signal.SIGCONT)
        return self.machine.resume(NODES.index(node))

    def move(self, pause_ms: float) -> None:
        """Move the guest to the other node."""
        net, source, target = self.net, self.at, self.away
        self.prepare()
        stopped = self.pause()
        time.sleep(pause_ms / 1e3)
        self.pauses.append((stopped, self.resume(target)))
        self.at = target
        net.until(lambda: net.leads(target) == TAP, "the target serves")
        net.until(lambda: net.leads(source) == TUNNEL, "the source sends on")
        time.sleep(LATE_S)
        self.lead()
        net.end(f"m{self.number}", "Succeeded")
        net.until(lambda: self.hold(source) is not None, "what was held is told")
        self.holds.append(self.hold(source) or {})
        net.until(lambda: net.state(target) == "Base", "it has converged")
        net.site.delete(f"{COLLECTIONS['LiveMigration']}/m{self.number}")
        net.site.delete(path(source))
        net.until(lambda: net.leads(source) == "", "the redirect has ended")

    def hold(self, node: str) -> dict[str, Any] | None:
        """Return what the agent of a node says of held packets."""
        redirect = self.net.status(node).get("redirect") or {}
        found: dict[str, Any] | None = redirect.get("hold")
        return found

    def lead(self) -> None:
        """Lead the client to where the guest is."""
        for version, way in uplinks(self.at).items():
            self.net.run("x", f"ip -{version} route replace {VM[version]} via {way}")

    def shown(self) -> str:
        """Return what somebody needs who wonders."""
        taps = [self.net.run(node, f"ip -s link show {TAP}") for node in NODES[:2]]
        return f"{self.pauses}\n{self.holds}\n{taps}"

    def is_doubtful(self, sent_ns: int) -> bool:
        """Tell whether what was sent then may come twice."""
        return any(stop - TWICE_NS <= sent_ns <= go for stop, go in self.pauses)


@pytest.fixture(scope="module")
def taps(all_moves: AgentsNet) -> Iterator[dict[str, int]]:
    """Give a and b taps instead of their veths, and c's guest a tap that leads to them."""
    net, made = all_moves, dict[str, int]()
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


@pytest.fixture
def moves(all_moves: AgentsNet, taps: dict[str, int], tmp_path: Path) -> Iterator[Moves]:
    """Let the guest run at a, and be reached there."""
    machine = TapGuest.start(taps["guest"], [taps[node] for node in NODES[:2]], agents_net.RARP)
    it = Moves(all_moves, machine, tmp_path)
    it.lead()
    machine.resume(0)
    all_moves.endpoint("a")
    all_moves.until(lambda: all_moves.leads("a") == TAP, "a serves")
    yield it
    it.kill()
    for collection in ("LiveMigration", "WorkloadEndpoint"):
        all_moves.site.call("DELETE", COLLECTIONS[collection])
    all_moves.until(lambda: not any(map(all_moves.leads, NODES)), "no route is left")


def lost(sent: list[tuple[int, int]], came: list[tuple[int, int]]) -> list[int]:
    """Return the numbers of those that never came."""
    return sorted({number for number, _ in sent} - {number for number, _ in came})


def twice(sent: list[tuple[int, int]], came: list[tuple[int, int]]) -> dict[int, int]:
    """Return when those were sent that came more than once."""
    times = dict(sent)
    return {n: times[n] for n, count in Counter(n for n, _ in came).items() if count > 1}


def test_statement_21_twenty_migrations_in_a_row_lose_nothing(moves: Moves) -> None:
    """Ten thousand packets a second to the guest, and from it, a thousand questions, an upload."""
    four, six = VM[4], VM[6]
    moves.begin("down came", "receive", GUEST, four, "7001")
    moves.begin("up came", "receive", "x", CLIENT[4], "7002")
    moves.begin("echo", "echo", GUEST, six, "7003")
    moves.begin("swallowed", "swallow", GUEST, four, "7004")
    moves.begin("up sent", "send", GUEST, CLIENT[4], "7002", "100")
    moves.begin("down sent", "send", "x", four, "7001", "100")
    moves.begin("asked", "ask", "x", six, "7003", "1000")
    moves.begin("uploaded", "upload", "x", four, "7004", OCTETS_A_US)
    for pause_ms in PAUSES_MS:
        moves.move(pause_ms)
    found = moves.finish()

    assert [hold["dropped"] for hold in moves.holds] == [0] * len(PAUSES_MS), moves.holds
    for name in ("down", "up"):
        sent, came = found[f"{name} sent"], found[f"{name} came"]
        assert len(sent) > len(PAUSES_MS) * ENOUGH
        assert lost(sent, came) == [], moves.shown()
        assert {n for n, at in twice(sent, came).items() if not moves.is_doubtful(at)} == set()
    answers = [number for number, _ in found["asked"]]
    assert set(range(max(answers))) - set(answers) == set(), moves.shown()
    assert found["swallowed"][-1][0] > 0


def test_statement_21_a_request_waits_for_the_pause_and_a_moment(moves: Moves) -> None:
    """Also where rules drop what fits no connection, and the guest is where it was before."""
    moves.begin("answered", "answer", GUEST, VM[4], "7005")
    moves.begin("requested", "request", "x", VM[4], "7005")
    for pause_ms in PAUSES_MS[:6]:
        moves.move(pause_ms)
    answers = [at for _, at in moves.finish()["requested"]]

    def beyond(stopped: int, resumed: int) -> float:
        """Return by how much longer than the pause an answer took that came around it, in ms."""
        around = [at for at in answers if stopped - 500 * MS < at < resumed + 1000 * MS]
        longest = max(later - before for before, later in itertools.pairwise(around))
        return (longest - (resumed - stopped)) / MS

    waits = [beyond(*pause) for pause in moves.pauses]
    # A lost one comes again after 200 ms at the earliest. A machine that is busy takes its time.
    assert statistics.median(waits) < MOMENT_MS, waits


def test_an_upload_that_is_too_much_to_hold_costs_others_nothing(moves: Moves) -> None:
    """As fast as both processors can: what is too large for a link is left out, and no question."""
    moves.begin("echo", "echo", GUEST, VM[4], "7003")
    moves.begin("swallowed", "swallow", GUEST, VM[6], "7004")
    moves.begin("asked", "ask", "x", VM[4], "7003", "2000")
    moves.begin("uploaded", "upload", "x", VM[6], "7004")
    for _ in range(3):
        moves.move(60)
    found = moves.finish()
    answers = [number for number, _ in found["asked"]]
    assert set(range(max(answers))) - set(answers) == set(), moves.shown()
    assert found["swallowed"][-1][1] > moves.pauses[-1][1], "the upload goes on"
