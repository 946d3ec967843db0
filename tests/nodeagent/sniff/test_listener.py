"""Listening and asking on a running loop, with a real kernel as the guest."""

import asyncio
import dataclasses
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address
from typing import Final

import pytest
from tests.nodeagent.sniff.conftest import GARP, GUEST_MAC, NA, NODE_MAC, RARP, Wire, run

from handover_api.workloadendpoint import Signal
from handover_nodeagent.sniff import flood
from handover_nodeagent.sniff import listener as listener_module
from handover_nodeagent.sniff.arp_nd_questions import Parties, Questions, compose
from handover_nodeagent.sniff.listener import Listener
from handover_nodeagent.sniff.probe import ProbeSeries
from handover_nodeagent.sniff.verdict import Accepted, Expectation, Reason

pytestmark = pytest.mark.root

IP, IP6 = ip_address("10.65.0.2"), ip_address("fd00:65::2")
QUESTIONS: Final = compose(Parties(GUEST_MAC, NODE_MAC), [IP, IP6])
IPV4_ONLY: Final = dataclasses.replace(QUESTIONS, ipv6=())
IPV6_ONLY: Final = dataclasses.replace(QUESTIONS, ipv4=())
EXPECTED: Final = Expectation.of(GUEST_MAC, [IP, IP6], askers=QUESTIONS.askers)
QUIET: Final = ProbeSeries(Questions())

BAD_NA = NA[:56] + b"\x00\x00" + NA[58:]


class Record:
    """A sink that remembers; ``act`` is called at each announcement."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[tuple[Accepted, int]] = asyncio.Queue()
        self.rejections: list[Reason] = []
        self.troubles: asyncio.Queue[str] = asyncio.Queue()
        self.act: Callable[[Accepted], None] = lambda _: None

    def heard(self, accepted: Accepted, received_at: int) -> None:
        self.accepted.put_nowait((accepted, received_at))
        self.act(accepted)

    def rejected(self, reason: Reason) -> None:
        self.rejections.append(reason)

    def lost(self, trouble: str) -> None:
        self.troubles.put_nowait(trouble)

    async def next(self) -> Accepted:
        """Await the next announcement."""
        accepted, _ = await asyncio.wait_for(self.accepted.get(), 5)
        return accepted


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def guest(wire: Wire) -> Iterator[socket.socket]:
    with wire.guest_socket() as sock:
        yield sock


Listen = Callable[..., Listener]


@pytest.fixture
async def listen(wire: Wire, record: Record) -> AsyncIterator[Listen]:
    made: list[Listener] = []

    def start(expected: Expectation = EXPECTED, series: ProbeSeries = QUIET) -> Listener:
        made.append(Listener(wire.tap, expected, series, record))
        return made[-1]

    yield start
    for listener in made:
        listener.stop()


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(holds: Callable[[], bool], act: Callable[[], object] = lambda: None) -> None:
    """Let the loop run, and *act* meanwhile, until a condition *holds*; fail after 5 s."""
    deadline = now() + 5
    while not holds():
        assert now() < deadline
        act()
        await asyncio.sleep(0)


async def test_an_announcement_is_heard_with_the_time_of_its_receipt(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listen()
    before = time.time_ns()
    guest.send(RARP)
    accepted, received_at = await asyncio.wait_for(record.accepted.get(), 5)
    assert accepted == Accepted(Signal.RARP, RARP[6:12])
    assert before <= received_at <= time.time_ns()


async def test_a_listener_that_is_stopped_while_it_reports_reports_no_more(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listener = listen()
    record.act = lambda _: listener.stop()
    for _ in range(10):
        guest.send(RARP)
    await record.next()
    listener.stop()
    assert record.accepted.empty()
    listener.probe(ProbeSeries(QUESTIONS).start(0.2, now()))
    listener.correct()
    listener.expect(EXPECTED)
    assert record.troubles.empty()


async def test_a_stopped_listener_closes_its_socket_later_and_elsewhere(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    loop, close = asyncio.get_running_loop(), os.close

    def note(descriptor: int) -> None:
        close(descriptor)
        place = (descriptor, threading.get_ident())
        loop.call_soon_threadsafe(closed.put_nowait, place)

    monkeypatch.setattr(os, "close", note)
    listener = listen()
    descriptor = listener._capture.fileno()
    listener.stop()
    os.fstat(descriptor)
    gone, thread = await asyncio.wait_for(closed.get(), 5)
    assert gone == descriptor
    assert thread != threading.get_ident()


@pytest.mark.parametrize("questions", [IPV4_ONLY, IPV6_ONLY], ids=["IPv4", "IPv6"])
async def test_a_running_guest_answers_the_probe(
    listen: Listen, record: Record, questions: Questions
) -> None:
    listener = listen(series=ProbeSeries(questions).start(0.05, now()))
    for _ in range(3):
        assert await record.next() == Accepted(Signal.PROBE, RARP[6:12], is_answer=True)
    assert listener.series.unanswered <= 1
    assert record.rejections == []


async def test_an_answer_to_an_older_episode_is_one_that_this_one_did_not_ask_for(
    listen: Listen, record: Record
) -> None:
    listener = listen(series=ProbeSeries(IPV4_ONLY).ask(now()))
    assert (await record.next()).is_answer
    listener.probe(ProbeSeries(IPV4_ONLY))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as node:
        node.bind(("tap", 0))
        node.send(IPV4_ONLY.ipv4[0])
    while (await record.next()).is_answer:
        pass  # the three of the asking that were on their way


async def test_an_unsolicited_na_counts_once_the_guest_answers(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listener = listen(series=ProbeSeries(QUESTIONS))
    guest.send(NA)
    heard = await record.next()
    assert heard == Accepted(Signal.NEIGHBOR_ADVERTISEMENT, RARP[6:12], is_answer=True)
    assert not listener.expected.advertised


async def test_an_unsolicited_na_of_a_guest_that_is_mute_counts_for_nothing(
    wire: Wire, listen: Listen, guest: socket.socket, record: Record
) -> None:
    wire.guest_runs("ip address flush dev eth")
    listener = listen(series=ProbeSeries(QUESTIONS))
    guest.send(NA)
    await until(lambda: listener.series.has_asked and not listener.series.burst)
    guest.send(RARP)
    assert (await record.next()).signal is Signal.RARP


async def test_a_rarp_teaches_the_mac_and_then_others_count(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listener = listen(dataclasses.replace(EXPECTED, mac=None))
    guest.send(GARP)
    guest.send(RARP)
    assert (await record.next()).mac == GUEST_MAC
    assert listener.expected == EXPECTED
    guest.send(GARP)
    assert (await record.next()).signal is Signal.GRATUITOUS_ARP


async def test_a_sink_that_learns_the_mac_itself_has_the_last_word(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    unarmed = dataclasses.replace(EXPECTED, armed=False)
    listener = listen(dataclasses.replace(EXPECTED, mac=None))
    record.act = lambda _: listener.expect(unarmed)
    guest.send(RARP)
    await record.next()
    assert listener.expected == unarmed


async def test_arming_takes_effect_at_once(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listener = listen(dataclasses.replace(EXPECTED, armed=False))
    guest.send(GARP)
    guest.send(RARP)
    assert (await record.next()).signal is Signal.RARP
    listener.expect(EXPECTED)
    guest.send(GARP)
    assert (await record.next()).signal is Signal.GRATUITOUS_ARP


async def test_the_corrections_reach_the_guests_neighbor_table(wire: Wire, listen: Listen) -> None:
    wire.guest_runs("ip neigh add 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth nud reachable")
    gateway = "fe80::ecee:eeff:feee:eeee"
    wire.guest_runs(f"ip neigh add {gateway} lladdr 02:00:00:00:00:01 dev eth router nud reachable")
    listen(series=ProbeSeries(QUESTIONS)).correct()
    wire.await_neigh("169.254.1.1", NODE_MAC)
    wire.await_neigh(gateway, f"{NODE_MAC} router")


async def test_a_lost_interface_is_reported_once(listen: Listen, record: Record) -> None:
    listen(series=ProbeSeries(QUESTIONS).start(0.02, now()))
    await record.next()
    run("ip link delete tap")
    assert "is down or gone" in await asyncio.wait_for(record.troubles.get(), 5)
    await asyncio.sleep(0.1)
    assert record.troubles.empty()


async def test_probes_that_never_left_do_not_use_up_the_bound(
    listen: Listen, record: Record
) -> None:
    run("ip link set tap down")
    listener = listen(series=ProbeSeries(QUESTIONS).start(0.02, now()))
    await asyncio.wait_for(record.troubles.get(), 5)
    assert listener.series.unanswered == 0
    run("ip link set tap up")
    listener.probe(listener.series.start(0.02, now()))
    assert (await record.next()).signal is Signal.PROBE


async def test_a_flood_of_broken_frames_leaves_only_ears_for_a_rarp(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listener = listen()
    await until(lambda: listener._pause is not None, lambda: guest.send(BAD_NA))
    assert set(record.rejections) == {Reason.IRRELEVANT}
    guest.send(RARP)
    assert (await record.next()).signal is Signal.RARP
    await until(lambda: listener._pause is None)
    guest.send(GARP)
    assert (await record.next()).signal is Signal.GRATUITOUS_ARP


async def test_a_flood_of_announcements_that_change_nothing_is_rationed(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listen()
    began = now()
    while now() - began < 0.5:
        guest.send(RARP)
        await asyncio.sleep(0)
    heard = record.accepted.qsize()
    rounds = (now() - began) / listener_module.FLOOD_PAUSE + 1
    assert heard <= rounds * 3 * flood.FRAMES


async def test_frames_at_a_guests_own_pace_are_no_flood(
    listen: Listen, guest: socket.socket, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood, "WINDOW", 0.0)
    listener = listen()
    for _ in range(flood.FRAMES * 2):
        guest.send(RARP)
        await record.next()
    assert listener._pause is None


async def test_a_changed_expectation_is_in_force_after_the_calm(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listener = listen(dataclasses.replace(EXPECTED, armed=True))
    await until(lambda: listener._pause is not None, lambda: guest.send(BAD_NA))
    listener.expect(dataclasses.replace(EXPECTED, armed=False))
    await until(lambda: listener._pause is None)
    guest.send(GARP)
    guest.send(RARP)
    assert (await record.next()).signal is Signal.RARP


async def test_a_flood_of_others_frames_never_wakes_the_reader(
    listen: Listen, guest: socket.socket, record: Record
) -> None:
    listener = listen()
    woken = 0
    read = listener._read

    def note() -> None:
        nonlocal woken
        woken += 1
        read()

    asyncio.get_running_loop().add_reader(listener._capture.fileno(), note)
    other = GARP[:6] + b"\x02" + GARP[7:]
    for _ in range(20_000):
        guest.send(other)
    guest.send(RARP)
    await record.next()
    assert woken == 1
