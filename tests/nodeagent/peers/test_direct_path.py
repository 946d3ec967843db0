"""Agents speak by real sockets on real segments: what is said is followed, whatever the path."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from tests.nodeagent import namespaces
from tests.nodeagent.peers import peer_net
from tests.nodeagent.peers.peer_net import PORT, Agent, PeerNet, addresses
from tests.nodeagent.peers.speakers import SOURCE, TARGET, UID

from handover_api.conditions import EndpointReason
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_nodeagent import metrics
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers.direct_path import SLICE
from handover_nodeagent.peers.messages import Kind, Way
from handover_nodeagent.peers.sink import Done

pytestmark = pytest.mark.root
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def segment() -> Iterator[PeerNet]:
    """Make the nodes, once for all."""
    namespaces.needs_root()
    with peer_net.made() as made:
        yield made


@pytest.fixture
def net(segment: PeerNet) -> Iterator[PeerNet]:
    """Give a network on which nothing is forbidden or forged afterwards."""
    yield segment
    for node in peer_net.NODES:
        segment.run(node, "nft flush ruleset")


@pytest.fixture
async def agents(net: PeerNet) -> Iterator[Callable[..., Agent]]:  # type: ignore[misc]
    """Make agents that end with the test."""
    made: list[Agent] = []

    def make(node: str, endpoint: ObjectKey, role: Role) -> Agent:
        made.append(Agent(net, node, endpoint, role).listen())
        return made[-1]

    yield make
    for agent in made:
        agent.path.close()


@pytest.fixture
async def source(agents: Callable[..., Agent]) -> Agent:
    return agents("a", SOURCE, Role.SOURCE)


@pytest.fixture
async def target(agents: Callable[..., Agent]) -> Agent:
    return agents("b", TARGET, Role.TARGET)


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.001)


def refused(reason: str) -> float:
    return float(metrics.REFUSED_MESSAGES.labels(reason)._value.get())


@contextlib.contextmanager
def counted(reason: str) -> Iterator[Callable[[], float]]:
    before = refused(reason)
    yield lambda: refused(reason) - before


async def test_a_have_is_followed_and_acknowledged_with_its_times(
    source: Agent, target: Agent
) -> None:
    source.knows(target.peer())
    target.knows(source.peer())
    target.path.prepare(TARGET, UID)
    before = time.time_ns()
    target.path.have(TARGET, UID)
    await until(lambda: target.acks)
    after = time.time_ns()
    ((word, key, uid, received),) = source.heard
    assert (word, key, uid) == ("has", SOURCE, UID)
    ((node, ack),) = target.acks
    assert node == "a"
    assert not ack.is_bystanders
    assert before <= ack.sent_ns <= received == ack.times.received_ns
    assert received <= ack.times.done_ns <= ack.acknowledged_ns <= after
    assert (ack.times.last_frame_ns, ack.times.last_frame_error_ns) == (7, 8)


async def promise(source: Agent, target: Agent) -> None:
    """Have them know each other, and then the target's HAVE be promised."""
    source.knows(target.peer())
    target.knows(source.peer())
    await until(lambda: source.proofs and target.proofs)
    target.path.prepare(TARGET, UID)
    await until(lambda: source.path._promises._open)


@pytest.mark.parametrize("is_promised", [True, False], ids=["promised", "as yet unknown"])
async def test_what_was_promised_is_followed_before_its_signature_is_verified(
    source: Agent, target: Agent, monkeypatch: pytest.MonkeyPatch, *, is_promised: bool
) -> None:
    promises = source.path._promises
    if is_promised:
        await promise(source, target)
    else:
        source.knows(target.peer())
        target.knows(source.peer())
    verify, order = source.path._trust._verify, list[str]()

    def watched(key: bytes, text: bytes, signature: bytes) -> bool:
        if text[1] == Kind.HAVE:
            order.extend((*source.words, "verified"))
        return verify(key, text, signature)

    monkeypatch.setattr(source.path._trust, "_verify", watched)
    target.path.have(TARGET, UID)
    await until(lambda: target.acks)
    assert order == (["has", "verified"] if is_promised else ["verified"])
    # Once, and acknowledged as what it was.
    assert source.words == ["has"]
    assert not promises._open


async def test_what_was_promised_is_believed_from_its_own_address_alone(
    source: Agent, target: Agent
) -> None:
    await promise(source, target)
    said = target.path._statements.say(Kind.HAVE, (TARGET, UID))
    with counted("Source") as refusals:
        forged = source.net.within("c", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        forged.sendto(said.datagram, (str(addresses("a")[0]), PORT))
        forged.close()
        await until(refusals)
    assert source.words == []


@pytest.mark.parametrize("without", [4, 6])
async def test_one_family_is_enough(source: Agent, target: Agent, without: int) -> None:
    source.knows(target.peer(without=without))
    target.knows(source.peer(without=without))
    target.path.have(TARGET, UID)
    await until(lambda: target.acks)
    assert source.words == ["has"]


async def test_released_after_have_and_have_again(source: Agent, target: Agent) -> None:
    source.knows(target.peer())
    target.knows(source.peer())
    for number, say in enumerate(
        [target.path.have, target.path.released, target.path.have], start=1
    ):
        target.path.prepare(TARGET, UID)
        say(TARGET, UID)
        await until(lambda number=number: len(target.acks) == number)  # type: ignore[misc]
    assert source.words == ["has", "released", "has"]


async def test_both_say_have_at_once(source: Agent, target: Agent) -> None:
    source.knows(target.peer())
    target.knows(source.peer())
    target.path.have(TARGET, UID)
    source.path.have(SOURCE, UID)
    await until(lambda: target.acks and source.acks)
    assert (source.words, target.words) == (["has"], ["has"])


async def test_hellos_prove_each_address_and_compare_the_clocks(
    source: Agent, target: Agent
) -> None:
    source.knows(target.peer())
    target.knows(source.peer())
    await until(lambda: len(target.proofs) == 2 and len(source.proofs) == 2)
    assert {proof.address for proof in target.proofs} == set(addresses("a"))
    assert {(proof.node, proof.way) for proof in target.proofs} == {("a", Way.PLAIN)}
    offset = target.path.offset(source.key.public)
    assert offset is not None
    # One machine, one clock.
    assert abs(offset.ahead_ns) <= offset.error_ns < SECOND


async def test_who_names_a_peer_again_hears_again_what_is_proved_of_it(
    agents: Callable[..., Agent], source: Agent, target: Agent
) -> None:
    """Whoever tells of peers begins anew with each change of them, another one's too."""
    source.knows(target.peer())
    target.knows(source.peer())
    await until(lambda: len(target.proofs) == 2)
    for named in ([source.peer()], [agents("c", SOURCE, Role.SOURCE).peer(), source.peer()]):
        target.proofs.clear()
        target.knows(*named)
        assert {(proof.node, proof.address) for proof in target.proofs} == {
            ("a", address) for address in addresses("a")
        }


async def test_who_knows_its_peer_later_has_the_other_ask_again(
    source: Agent, target: Agent
) -> None:
    target.knows(source.peer())
    # Beyond the series that the first one has sent in vain.
    await asyncio.sleep(0.7)
    assert target.proofs == []
    source.knows(target.peer())
    await until(lambda: target.proofs and source.proofs, 2.0)


async def test_what_could_not_be_done_is_told_again_and_acknowledged_when_it_is(
    source: Agent, target: Agent
) -> None:
    source.knows(target.peer())
    target.knows(source.peer())
    source.follows = False
    target.path.have(TARGET, UID)
    await until(lambda: len(source.heard) >= 3)
    assert target.acks == []
    assert {heard[3] for heard in source.heard} != set()
    source.path.answer(SOURCE, UID, Done(9))
    await until(lambda: target.acks)
    ((_, ack),) = target.acks
    assert (ack.times.received_ns, ack.times.done_ns) == (source.heard[0][3], 9)


async def test_a_lost_ack_is_sent_again_and_nothing_done_twice(
    net: PeerNet, source: Agent, target: Agent
) -> None:
    source.knows(target.peer(without=6))
    target.knows(source.peer(without=6))
    await until(lambda: target.proofs)
    # Three of four ACKs are lost, whose UDP header has 8 bytes.
    net.run("a", "nft add table ip t")
    net.run("a", "nft add chain ip t o { type filter hook output priority 0 ; }")
    net.run("a", "nft add rule ip t o udp dport 7473 udp length 162 numgen inc mod 4 < 3 drop")
    target.path.have(TARGET, UID)
    await until(lambda: target.acks)
    assert source.words == ["has"]


async def test_a_blocked_port_makes_the_peer_silent_and_an_open_one_heals_it(
    net: PeerNet, source: Agent, target: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handover_nodeagent.peers.hellos.EVERY", 0.3)
    monkeypatch.setattr("handover_nodeagent.peers.repeats.GIVE_UP", 0.6)
    net.run("a", "nft add table inet t")
    net.run("a", "nft add chain inet t i { type filter hook input priority 0 ; }")
    net.run("a", "nft add rule inet t i udp dport 7473 drop")
    source.knows(target.peer())
    target.knows(source.peer())
    await until(lambda: target.silent)
    assert target.silent == ["a"]
    target.knows(source.peer())
    assert target.silent == ["a", "a"], "told again"
    assert all(contact.is_silent for contact in target.path.contact(TARGET))
    net.run("a", "nft flush ruleset")
    await until(lambda: target.proofs)
    assert not any(contact.is_silent for contact in target.path.contact(TARGET))


async def test_an_endpoint_that_is_gone_is_spoken_of_no_more(source: Agent, target: Agent) -> None:
    source.knows(target.peer())
    target.knows(source.peer())
    source.path.forget(SOURCE)
    with counted("Source") as count:
        target.path.have(TARGET, UID)
        await until(lambda: count() >= 2)
        target.path.forget(TARGET)
        await asyncio.sleep(0.02)
        seen = count()
        await asyncio.sleep(0.1)
        assert (source.heard, count()) == ([], seen)


async def test_bystanders_hear_of_it_and_answer_unsigned(
    agents: Callable[..., Agent], source: Agent, target: Agent
) -> None:
    bystander = agents("c", ObjectKey("shop", "other"), Role.SOURCE)
    source.knows(target.peer())
    target.knows(source.peer())
    bystander.path.know_advertised(TARGET, target.peer())
    target.path.know_nodes({node: addresses(node) for node in "acx"})
    assert target.path.have(TARGET, UID) == 3, "the peer, a bystander, and one that is mute"
    await until(lambda: len(target.acks) == 2)
    assert {node: ack.is_bystanders for node, ack in target.acks} == {"a": False, "c": True}
    assert source.words == ["has"], "a peer is no bystander, too"
    assert bystander.words == ["bystander"]
    assert bystander.heard[0][1:3] == (TARGET, UID)


async def test_the_source_of_a_migration_before_hears_of_the_newest_target(
    agents: Callable[..., Agent], source: Agent
) -> None:
    """From A to B, and at once from B to C: A's redirect is to lead to C."""
    middle = agents("b", ObjectKey("shop", "vm-b"), Role.SOURCE)
    newest = agents("c", TARGET, Role.TARGET)
    source.knows(middle.peer("second"), newest.peer("second"), uid="first")
    for agent in (middle, newest):
        other = newest if agent is middle else middle
        agent.knows(other.peer("second"), source.peer("first"), uid="second")
    await until(lambda: len(newest.proofs) == 4 and len(source.proofs) == 4)
    newest.path.prepare(TARGET, "second")
    assert newest.path.have(TARGET, "second") == 2
    await until(lambda: len(newest.acks) == 2)
    assert [what[:3] for what in source.heard] == [("has", SOURCE, "second")]
    assert [what[:3] for what in middle.heard] == [("has", middle.endpoint, "second")]
    middle.path.have(middle.endpoint, "second")
    await until(lambda: len(middle.acks) == 2)
    assert [what[:3] for what in source.heard[1:]] == [("has", SOURCE, "second")], "rolled back"


async def test_a_released_goes_to_the_peers_alone(
    agents: Callable[..., Agent], source: Agent, target: Agent
) -> None:
    bystander = agents("c", ObjectKey("shop", "other"), Role.SOURCE)
    source.knows(target.peer())
    target.knows(source.peer())
    bystander.path.know_advertised(TARGET, target.peer())
    target.path.know_nodes({"c": addresses("c")})
    target.path.released(TARGET, UID)
    await until(lambda: target.acks)
    assert bystander.heard == []


async def test_a_restarted_agent_is_believed_by_its_new_key_alone(
    agents: Callable[..., Agent], source: Agent, target: Agent
) -> None:
    source.knows(target.peer())
    target.knows(source.peer())
    target.path.close()
    again = agents("b", TARGET, Role.TARGET)
    again.knows(source.peer())
    with counted("Key") as count:
        again.path.have(TARGET, UID)
        await until(count)
    source.knows(again.peer())
    await until(lambda: again.acks)
    assert source.words == ["has"]


async def test_a_taken_port_is_a_reason_and_tried_again(net: PeerNet) -> None:
    with namespaces.restored():
        namespaces.enter(net.fds["a"])
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind(("0.0.0.0", PORT))
        agent = Agent(net, "a", SOURCE, Role.SOURCE).listen()
        assert [refusal.reason for refusal in agent.path.refusals] == [EndpointReason.PORT_TAKEN]
        assert "7473" in agent.path.refusals[0].message
        assert agent.shown == [addresses("a")[1]], "what can be had is had"
        other.close()
        await until(lambda: not agent.path.refusals)
        assert agent.shown == [*addresses("a")], "in the order of the API"
        agent.path.close()
        assert agent.path.agent is None


async def test_an_address_that_is_not_there_is_a_reason(net: PeerNet) -> None:
    agent = Agent(net, "a", SOURCE, Role.SOURCE).listen([ip_address("192.0.2.1")])
    assert [refusal.reason for refusal in agent.path.refusals] == [EndpointReason.REFUSED]
    assert agent.path.agent is None
    agent.path.close()


async def test_the_peers_hear_it_at_once_and_nodes_in_slices_afterwards(
    source: Agent, target: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handover_nodeagent.peers.repeats.STATEMENT", (0.0,))
    target.knows(source.peer(without=6))
    await asyncio.sleep(0.6)
    sent: list[IPAddress] = []
    monkeypatch.setattr(target.path, "_send", lambda _, to: sent.append(to.address))
    nodes = [ip_address(f"10.0.1.{number}") for number in range(100)]
    target.path.know_nodes({f"n{number}": (one,) for number, one in enumerate(nodes)})
    target.path.have(TARGET, UID)
    assert sent == [addresses("a")[0]]
    # Of another guest that has come in the same instant nothing is sent in the same turn.
    asyncio.get_running_loop().call_soon(target.path._later, ())
    for end in (SLICE, 100):
        await asyncio.sleep(0)
        assert [one for one in sent if one in nodes] == nodes[:end]
