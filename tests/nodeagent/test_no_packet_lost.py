"""Statement 21: with what the paused guest did not take sent again, no packet is lost at all.

Agents as processes on their nodes, with the real operator and API server.
"""

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.nodeagent import agents_net
from tests.nodeagent.agents_net import CLIENT, NODES, TAP, TUNNEL, VM, AgentsNet
from tests.nodeagent.moves import Moves, taps_made
from tests.nodeagent.process import COLLECTIONS
from tests.nodeagent.tap_guest import Port, TapGuest
from tests.nodeagent.traffic import GUEST, MS, Records, lost, twice

pytestmark = [pytest.mark.root, pytest.mark.api]

PAUSES_MS: Final = (
    *(54, 119, 188, 176, 86, 135, 228, 70, 214, 134),
    *(218, 145, 58, 141, 148, 73, 213, 13, 15, 108),
)
OCTETS_A_US: Final = "25"
ATTEMPTS: Final = 3
ENOUGH: Final = 10_000
"""Packets of a migration, without which nothing was tested."""
MOMENT_MS: Final = 30
PATIENCE: Final = 256
FEW: Final = 500
ONLY: Final = 1000
"""Packets at half a millisecond: fewer than come in the longest pause, and in the moment before."""
LATE_MS: Final = 200


@pytest.fixture(scope="module")
def taps(all_moves: AgentsNet) -> Iterator[dict[str, int]]:
    """Have a guest of a speed of its own."""
    with taps_made(all_moves) as made:
        yield made


@pytest.fixture
def moves(all_moves: AgentsNet, taps: dict[str, int], tmp_path: Path) -> Iterator[Moves]:
    """Let the guest run at a, and be reached there."""
    nodes = [taps[node] for node in NODES[:2]]
    machine = TapGuest.start(Port(agents_net.RARP, taps["guest"], nodes))
    it = Moves(net=all_moves, machine=machine, directory=tmp_path)
    it.lead()
    machine.resume(0)
    all_moves.endpoint("a")
    all_moves.until(lambda: all_moves.leads("a") == TAP, "a serves")
    yield it
    it.close()
    for collection in ("LiveMigration", "WorkloadEndpoint"):
        all_moves.site.call("DELETE", COLLECTIONS[collection])
    all_moves.until(lambda: not any(map(all_moves.leads, NODES)), "no route is left")


def test_statement_21_twenty_migrations_in_a_row_lose_nothing(moves: Moves) -> None:
    """Ten thousand packets a second to the guest, and from it, a thousand questions, an upload."""
    found: Records = {}
    for _ in range(ATTEMPTS):
        found = twenty(moves)
        if not moves.overrun:
            break
    assert moves.overrun == 0, "this machine is too busy for any guest"

    assert [hold["dropped"] for hold in moves.holds] == [0] * len(PAUSES_MS), moves.holds
    for name in ("down", "up"):
        assert len(found[f"{name} sent"]) > len(PAUSES_MS) * ENOUGH
    all_came(moves, found, "down", "up")
    answers = [number for number, _ in found["asked"]]
    assert set(range(max(answers))) - set(answers) == set(), moves.shown()
    assert found["swallowed"][-1][0] > 0


def twenty(moves: Moves) -> Records:
    """Let the guest move twenty times under all traffic; return what was recorded."""
    four, six = VM[4], VM[6]
    moves.begin_anew()
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
    return moves.finish()


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
    assert found["swallowed"][-1][1] > moves.pauses[-1][0], "the upload goes on"


def all_came(moves: Moves, found: Records, *names: str) -> None:
    """See that of each flow everything came, and nothing twice but what may."""
    for name in names:
        sent, came = found[f"{name} sent"], found[f"{name} came"]
        assert len(sent) > FEW
        assert lost(sent, came) == {}, moves.shown(lost(sent, came).values())
        assert {n for n, at in twice(sent, came).items() if not moves.is_doubtful(at)} == set()


def test_a_guest_that_only_receives_gives_a_sign_of_life_when_asked(moves: Moves) -> None:
    moves.begin("down came", "receive", GUEST, VM[6], "7001")
    moves.begin("down sent", "send", "x", VM[6], "7001", "500")
    for pause_ms in (30, 200, 90):
        moves.move(pause_ms)
    all_came(moves, moves.finish(), "down")
    # Its last frame of its own was long ago: by that all of a second would come twice.
    assert all(hold["held"] < hold["resent"] + 1 and hold["held"] < ONLY for hold in moves.holds)


def test_packets_that_are_fragmented_come_whole(moves: Moves) -> None:
    # So many of others between two fragments, and a kernel gives their packet up. This machine may
    # take the agent's processor away for as long as 64 take; that is no affair of this test's.
    for node in NODES[:2]:
        moves.net.run(node, f"sysctl -qw net.ipv4.ipfrag_max_dist={PATIENCE}")
    for version, port in ((4, "7001"), (6, "7002")):
        moves.begin(f"{version} came", "receive", GUEST, VM[version], port)
        moves.begin(f"{version} sent", "send", "x", VM[version], port, "2000", "8000")
    for pause_ms in (40, 120):
        moves.move(pause_ms)
    all_came(moves, moves.finish(), "4", "6")


def test_packets_as_large_as_a_jumbo_frame_pass_in_one_piece(moves: Moves) -> None:
    """Between nodes, as to the guest, 9,000 octets pass."""
    with moves.jumbo_frames():
        for version, port in ((4, "7001"), (6, "7002")):
            moves.begin(f"{version} came", "receive", GUEST, VM[version], port)
            moves.begin(f"{version} sent", "send", "x", VM[version], port, "1000", "8900")
        before = moves.fragments()
        for pause_ms in (60, 120):
            moves.move(pause_ms)
        found = moves.finish()
    assert moves.fragments() == before
    all_came(moves, found, "4", "6")


def test_along_a_link_it_is_the_same(moves: Moves) -> None:
    """Without a tunnel: what a sender left to a device is left to that of the link."""
    with moves.configured(sourceRedirect="link"):
        for version, port in ((4, "7001"), (6, "7002")):
            moves.begin(f"{version} came", "receive", GUEST, VM[version], port)
            moves.begin(f"{version} sent", "send", "x", VM[version], port, "500")
        moves.begin("swallowed", "swallow", GUEST, VM[4], "7004")
        moves.begin("uploaded", "upload", "x", VM[4], "7004", OCTETS_A_US)
        for pause_ms in (30, 150, 80):
            moves.move(pause_ms)
        found = moves.finish()
    all_came(moves, found, "4", "6")
    assert found["swallowed"][-1][1] > moves.pauses[-1][0], "the upload goes on"


def test_beside_a_limit_of_bandwidth_it_is_the_same(moves: Moves) -> None:
    """What waits in the port's queue when the guest stops is sent again, too."""
    limit = f"qdisc add dev {TAP} root tbf rate 4mbit burst 4kb latency 400ms"
    for node in NODES[:2]:
        moves.net.run(node, f"tc {limit}")
    moves.begin("down came", "receive", GUEST, VM[4], "7001")
    # 2.1 Mbit/s, in bursts.
    moves.begin("down sent", "send", "x", VM[4], "7001", "500")
    for pause_ms in (30, 150):
        moves.move(pause_ms)
    found = moves.finish()
    for node in NODES[:2]:
        moves.net.run(node, f"tc qdisc del dev {TAP} root")
    all_came(moves, found, "down")


def test_a_guest_that_runs_on_where_it_was_gets_what_its_tap_had_no_room_for(moves: Moves) -> None:
    moves.begin("down came", "receive", GUEST, VM[4], "7001")
    moves.begin("down sent", "send", "x", VM[4], "7001", "100")
    moves.prepare()
    # Until it is seen that it runs again.
    moves.later_ns = 100 * MS
    # Three times as many as a tap keeps.
    moves.switch(300, target="a")
    moves.net.end("m1", "Aborted")
    moves.net.until(lambda: moves.net.held_octets("a") == 0, "nothing is held")
    all_came(moves, moves.finish(), "down")
    assert moves.net.leads("a") == TAP


def test_of_a_guest_that_never_runs_again_nothing_stays(moves: Moves) -> None:
    moves.begin("down sent", "send", "x", VM[4], "7001", "500")
    moves.prepare()
    assert moves.net.held_octets("a") > 0
    moves.pause()
    moves.net.end("m1", "Aborted")
    moves.net.until(lambda: moves.net.held_octets("a") == 0, "nothing is held")
    assert moves.hold("a") is None
    assert moves.net.leads("a") == TAP
    assert moves.net.leads("b") == ""


@pytest.mark.parametrize("moment", ["before resending", "after resending"])
def test_statement_24_killed_while_packets_are_sent_again(moves: Moves, moment: str) -> None:
    """What was held is lost with the agent, and nothing else."""
    net = moves.net
    moves.begin("echo", "echo", GUEST, VM[4], "7003")
    moves.begin("asked", "ask", "x", VM[4], "7003", "1000")
    moves.prepare()
    death = net.order_death("a", moment)
    moves.switch(60)
    net.await_death("a", death)
    net.until(lambda: net.leads("a") == TUNNEL, "the source sends on")
    moves.conclude()
    found = moves.finish()
    assert found["asked"][-1][1] > moves.pauses[0][1] + LATE_MS * MS


def test_statement_24_killed_while_packets_are_held(moves: Moves) -> None:
    """Its successor holds them from then on."""
    net = moves.net
    moves.begin("echo", "echo", GUEST, VM[4], "7003")
    moves.begin("asked", "ask", "x", VM[4], "7003", "1000")
    death = net.order_death("a", "after holding")
    moves.prepare()
    net.await_death("a", death)
    net.until_redirectable("a")
    net.until(lambda: moves.net.held_octets("a") > 0, "its successor holds packets")
    moves.switch(60)
    net.until(lambda: moves.hold("a") is not None, "what was held is told")
    moves.conclude()
    answers = [number for number, _ in moves.finish()["asked"]]
    assert set(range(max(answers))) - set(answers) == set(), moves.shown()
