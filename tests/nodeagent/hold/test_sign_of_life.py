"""A guest is asked whether it takes what it is sent: by frames, against a guest's own kernel."""

import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address
from typing import Final

import pytest
from tests.nodeagent.hold.port import VM, Port, sockets, until
from tests.nodeagent.sniff.conftest import GARP, GUEST_MAC, NODE_MAC, Wire, run

from handover_api.workloadendpoint import State
from handover_nodeagent.hold import asked
from handover_nodeagent.hold.recorder import HoldRecorder
from handover_nodeagent.hold.sign_of_life import OVERTAKEN_NS, SignOfLife
from handover_nodeagent.network.model import Link
from handover_nodeagent.sniff.listen_spec import ListenSpec

pytestmark = pytest.mark.root

ETH_P_ARP: Final = 0x0806
ETH_P_IPV6: Final = 0x86DD
ARP_REQUEST: Final = 1
ND_ADVERT: Final = 136


class Ticks:
    """Counts the times at which a guest may be asked; ``then`` is what happens before each."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.001
        self.then: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        self.count += 1
        self.then()
        return self.seconds

    async def pass_by(self, count: int) -> None:
        """Return once it has been asked, or not, so many times more."""
        wanted = self.count + count
        await until(lambda: self.count > wanted)


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def spec(wire: Wire) -> ListenSpec:
    link = Link(wire.tap, "tap", NODE_MAC, up=True)
    return ListenSpec(link, (VM,), (), GUEST_MAC, True, State.BASE, 1, 0.0)  # noqa: FBT003


Signs = Callable[[ListenSpec], SignOfLife]


@pytest.fixture
async def signs(recorder: HoldRecorder, ticks: Ticks) -> AsyncIterator[Signs]:
    made: list[SignOfLife] = []

    def make(spec: ListenSpec) -> SignOfLife:
        made.append(SignOfLife(spec, recorder, ticks))
        return made[-1]

    yield make
    for it in made:
        it.close()


@pytest.fixture
def heard(wire: Wire) -> Iterator[socket.socket]:
    """Give a socket that has all ARP that comes to the guest."""
    with wire.guest_socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("eth", ETH_P_ARP))
        sock.settimeout(0)
        yield sock


def questions(heard: socket.socket) -> int:
    """Return how many questions have come to the guest since this was asked last."""
    count = 0
    while True:
        try:
            octets = heard.recv(100)
        except BlockingIOError:
            return count
        count += octets[21] == ARP_REQUEST


@pytest.fixture
def mute(wire: Wire) -> None:
    wire.guest_runs("ip link set eth arp off")


async def test_a_guest_is_asked_only_when_something_has_come(
    signs: Signs, spec: ListenSpec, ticks: Ticks, port: Port, heard: socket.socket
) -> None:
    it = signs(spec)
    await ticks.pass_by(20)
    # Twice, since nobody knows what came before.
    assert questions(heard) == 2
    before = time.time_ns()
    port.put([1])
    await until(lambda: it.taken_until() >= before)
    await ticks.pass_by(300)
    # Its block is handed over, by which it may look as if there was another packet.
    assert questions(heard) in {2, 3, 4}


async def test_who_answers_has_taken_all_that_came_before_the_question(
    signs: Signs, spec: ListenSpec, port: Port
) -> None:
    it = signs(spec)
    assert (it.taken_until(), it.waiting_ns) == (0, 0)
    for number in range(5):
        before = time.time_ns()
        port.put([number])
        await until(lambda before=before: it.taken_until() >= before)  # type: ignore[misc]
        # What a processor was about to put there may come behind the question.
        assert it.taken_until() <= time.time_ns() - OVERTAKEN_NS
        await until(lambda: it.waiting_ns == 0)


async def test_a_guest_with_an_ipv6_address_alone_is_asked_by_that(
    signs: Signs, wire: Wire, spec: ListenSpec, port: Port
) -> None:
    for command in (
        "sysctl -qw net.ipv6.conf.eth.disable_ipv6=0",
        "ip address add fd00:65::2/128 dev eth nodad",
    ):
        wire.guest_runs(command)
    it = signs(dataclasses.replace(spec, addresses=(ip_address("fd00:65::2"),)))

    def answered() -> int:
        port.put([1])
        return it.taken_until()

    await until(answered)


@pytest.mark.usefixtures("mute")
class TestMute:
    """A guest that takes nothing: it is paused, or gone."""

    @pytest.mark.parametrize("more", [0, 40, 200])
    async def test_it_is_asked_ever_more_seldom_and_has_taken_nothing(
        self,
        signs: Signs,
        spec: ListenSpec,
        ticks: Ticks,
        port: Port,
        heard: socket.socket,
        more: int,
    ) -> None:
        def put() -> None:
            if ticks.count <= asked.EAGER + more:
                port.put([ticks.count])

        ticks.seconds, ticks.then = 0, put
        it = signs(spec)
        await ticks.pass_by(asked.EAGER + more)
        # One more where a block was handed over just then.
        assert questions(heard) - asked.EAGER - more // 4 in {0, 1}
        assert it.taken_until() == 0
        assert 0 < it.waiting_ns < time.time_ns()

    async def test_it_has_no_more_questions_in_its_queue_than_fit_there(
        self,
        signs: Signs,
        spec: ListenSpec,
        ticks: Ticks,
        port: Port,
        heard: socket.socket,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # However slow the machine is.
        monkeypatch.setattr(asked, "PATIENCE_NS", 10**18)
        ticks.seconds, ticks.then = 0, lambda: port.put([ticks.count])
        signs(spec)
        await ticks.pass_by(6 * asked.OUTSTANDING)
        assert questions(heard) == asked.OUTSTANDING

    async def test_what_it_says_unasked_is_no_answer(
        self, signs: Signs, wire: Wire, spec: ListenSpec, ticks: Ticks, port: Port
    ) -> None:
        it = signs(spec)
        port.put([1])
        await until(lambda: it.waiting_ns)
        with wire.guest_socket() as guest:
            guest.send(GARP)
            guest.send(GARP[:20] + b"broken")
        await ticks.pass_by(3)
        assert it.taken_until() == 0

    async def test_a_question_that_did_not_go_out_is_not_waited_for(
        self, signs: Signs, spec: ListenSpec, ticks: Ticks, recorder: HoldRecorder, port: Port
    ) -> None:
        port.put([1])
        assert recorder.newest() != (0, 0)
        run("ip link set tap down")
        it = signs(spec)
        await ticks.pass_by(3)
        assert it.waiting_ns == 0


async def test_an_answer_to_whom_else_asks_for_another_address_shows_nothing(
    signs: Signs, wire: Wire, spec: ListenSpec, ticks: Ticks, port: Port
) -> None:
    """As to the node's own kernel, which asks in the name of the same link-local address."""
    for command in (
        "sysctl -qw net.ipv6.conf.eth.disable_ipv6=0",
        "sysctl -qw net.ipv4.conf.eth.arp_ignore=8",
        "ip address add fd00:65::2/128 dev eth nodad",
    ):
        wire.guest_runs(command)
    both = dataclasses.replace(spec, addresses=(ip_address("fd00:65::2"), VM))
    it = signs(both)
    port.put([1])
    await until(lambda: it.waiting_ns)
    (question,) = both.compose().ipv6
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap:
        tap.bind(("tap", ETH_P_IPV6))
        tap.settimeout(0)

        def answered() -> bool:
            port.send(question)
            try:
                return any(tap.recv(200)[54] == ND_ADVERT for _ in range(10))
            except BlockingIOError:
                return False

        await until(answered)
    await ticks.pass_by(3)
    assert it.taken_until() == 0


async def test_where_nobody_can_be_asked_nothing_is_known(
    signs: Signs, spec: ListenSpec, port: Port
) -> None:
    silent = signs(dataclasses.replace(spec, is_mute=True))
    gone = signs(dataclasses.replace(spec, link=dataclasses.replace(spec.link, index=4711)))
    port.put([1])
    # Others are asked meanwhile.
    asking = signs(spec)
    await until(asking.taken_until)
    assert (silent.taken_until(), gone.taken_until()) == (0, 0)
    # Each would have asked by now, and would wait for its answer for a second.
    assert (silent.waiting_ns, gone.waiting_ns) == (0, 0)


async def test_one_that_was_closed_asks_no_more_and_keeps_what_it_knows(
    signs: Signs, spec: ListenSpec, ticks: Ticks, port: Port, heard: socket.socket
) -> None:
    before = sockets()
    it = signs(spec)
    assert sockets() == before + 1
    port.put([1])
    await until(it.taken_until)
    known, count = it.taken_until(), ticks.count
    it.close()
    it.close()
    questions(heard)
    port.put([2])
    await until(lambda: sockets() == before)
    assert (it.taken_until(), ticks.count, questions(heard)) == (known, count, 0)
