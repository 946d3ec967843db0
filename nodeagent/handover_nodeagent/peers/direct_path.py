"""The direct path of one agent: what it says to the others, and what it makes of their messages.

Whoever joins it to the machines is its ``Sink``, and tells it what the API says: peers, advertised
endpoints, nodes. All is done on the loop, in the turn of the datagram or of the switch, and one
alarm wakes it for what is due.
"""

import asyncio
import base64
import functools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from handover_api.names import ObjectKey
from handover_api.peer import Peer
from handover_api.workloadendpoint import AgentAddress, Role
from handover_nodeagent import metrics
from handover_nodeagent.kernel import scheduling, tunnel
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import keys, messages
from handover_nodeagent.peers.answers import Answers
from handover_nodeagent.peers.clocks import Offset
from handover_nodeagent.peers.hellos import Contact, Hellos
from handover_nodeagent.peers.inner_routes import InnerRoutes
from handover_nodeagent.peers.keys import Key, Signer
from handover_nodeagent.peers.messages import BystanderAck, HelloAnswer, Kind, Way
from handover_nodeagent.peers.promises import Promises
from handover_nodeagent.peers.reader import Acted, Reader
from handover_nodeagent.peers.relations import Relation, Relations
from handover_nodeagent.peers.sink import Acknowledgment, Done, Proof, Sink
from handover_nodeagent.peers.sockets import Datagram, Place, Refusal
from handover_nodeagent.peers.statements import Destination, Recipient, Said, Statements, Topic
from handover_nodeagent.peers.trust import Accepted, Trust

SLICE: Final = 64
"""Datagrams that are sent in one turn of the loop, some half a millisecond; peers come first."""
# Looked up once: a route waits while a message is counted.
_ACCEPTED: Final = {kind: metrics.ACCEPTED_MESSAGES.labels(kind.name) for kind in Kind}
MOST_ADDRESSES: Final = 4
"""Addresses that an endpoint's status may name."""


class DirectPath:
    """The agent's end of the direct path."""

    def __init__(
        self, sink: Sink, key: Key, boot: int, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Speak with *key*, made at this start, which was at *boot* (ns).

        Call *changed* when ``agent`` is another one.
        """
        self._changed = changed
        self._told: AgentAddress | None = None
        self._sink = sink
        signer = Signer(key, boot)
        self._signer = signer
        self._relations = Relations()
        self._trust = Trust(self._relations, keys.verify)
        self._statements = Statements(signer.sign, keys.make_nonce, self._trust)
        self._hellos = Hellos(signer.sign, keys.make_nonce, self._statements.news, self._trust)
        self._promises = Promises()
        self._answers = Answers(signer.sign)
        self._reader = Reader(self._relations, self._trust, self._act, self._accept, self._opened)
        self._nodes: dict[str, tuple[IPAddress, ...]] = {}
        self._bystanders: dict[str, Recipient] = {}
        self._told_at_once: dict[ObjectKey, tuple[Recipient, ...]] = {}
        self._addresses: tuple[IPAddress, ...] = ()
        self._port = 0
        self._tunnel: InnerRoutes | None = None
        self._outgoing: deque[tuple[bytes, Destination]] = deque()
        self._has_flushed = False
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def agent(self) -> AgentAddress | None:
        """What the status of our endpoints is to tell; None while nobody can reach us."""
        places = [place for place in self._reader.places if not place.device]
        addresses = tuple(place.address for place in places)[:MOST_ADDRESSES]
        if not addresses:
            return None
        text = base64.b64encode(self._signer.public_key).decode()
        return AgentAddress(public_key=text, addresses=addresses, port=self._port)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Why there is no socket at some address of the node; it is tried again."""
        refusals = self._reader.refusals.items()
        return tuple(refusal for place, refusal in refusals if not place.device)

    @property
    def has_tunnel(self) -> bool:
        """Tell whether the way through the tunnel can be proved: there is none without IPv6."""
        return any(place.device for place in self._reader.places)

    def listen(self, addresses: Collection[IPAddress], port: int) -> None:
        """Be reached at these addresses of this node; others are given up."""
        self._addresses, self._port = tuple(addresses), port
        self._listen()
        self._find_bystanders()

    def use_tunnel(self, routes: InnerRoutes | None) -> None:
        """Send HELLOs by the tunnel's device, too; None: it is gone."""
        self._tunnel = routes
        self._listen()
        self._lead()
        self._hellos.ask_all(self._now())
        self._wind()

    def close(self) -> None:
        """Say and hear nothing more."""
        self._reader.close()
        if self._alarm:
            self._alarm.cancel()
        self._alarm = None
        self._outgoing.clear()

    def know_peers(
        self, key: ObjectKey, role: Role | None, peers: Iterable[Peer], uid: str | None = None
    ) -> None:
        """Know by the API who may speak to the endpoint *key* of ours.

        It has or had *role* in the migration *uid*; None: in that of each peer.
        """
        new = tuple(_relation(key, role, peer, uid) for peer in peers) if role else ()
        old = self._relations.know_peers(key, new)
        self._told_at_once.pop(key, None)
        self._tell_again(one for one in new if one in old)
        if new == old:
            return
        now = self._now()
        self._lead()
        self._hellos.know(set(old) - set(new), [one for one in new if one not in old], now)
        self._answers.forget(set(old) - set(new))
        self._promises.forget(set(old) - set(new))
        self._work()

    def forget(self, key: ObjectKey) -> None:
        """Know that the endpoint *key* of ours is gone."""
        self.know_peers(key, None, ())
        self._statements.forget({key})
        self._wind()

    def know_advertised(self, key: ObjectKey, speaker: Peer | None) -> None:
        """Know by the API who hosts the advertised endpoint *key*; None: it is advertised no more.

        A *speaker* names it as its own endpoint.
        """
        relations = (_relation(key, None, speaker),) if speaker else ()
        old = self._relations.know_advertised(key, relations)
        self._answers.forget(set(old) - set(relations))

    def know_nodes(self, nodes: Mapping[str, tuple[IPAddress, ...]]) -> None:
        """Know the other nodes that hear of each HAVE; none of them where BGP tells it."""
        if nodes != self._nodes:
            self._nodes = dict(nodes)
            self._find_bystanders()

    def _find_bystanders(self) -> None:
        # At the switch a thousand nodes would wait for a millisecond that was free before.
        self._bystanders = {
            node: Recipient(node, tuple(Destination.at(one, self._port) for one in addresses[:1]))
            for node, addresses in self._nodes.items()
        }

    def prepare(self, key: ObjectKey, uid: str) -> None:
        """Have a HAVE of the endpoint *key* ready, and promise it, as long as there is time."""
        if self._statements.prepare(key, uid):
            self._hellos.ask_again(self._relations.peers(key), self._now())
            self._wind()
        self._find_peers(key)

    def have(self, key: ObjectKey, uid: str) -> int:
        """Say that we have the guest, until all know it; return how many are asked.

        The peers hear it at once, the other nodes in the next turn of the loop: another guest
        that announces itself in this instant gets its route before.
        """
        return self._say(Kind.HAVE, key, uid, self._bystanders)

    def released(self, key: ObjectKey, uid: str) -> None:
        """Say that we have the guest no more: to the peers alone, whom the API would tell later."""
        self._say(Kind.RELEASED, key, uid, {})

    def answer(self, key: ObjectKey, uid: str, done: Done) -> None:
        """Acknowledge what the peer of *uid* said last to *key*, once it is done."""
        for octets, destination in self._answers.later(key, uid, done):
            self._send(octets, destination)

    def contact(self, key: ObjectKey) -> tuple[Contact, ...]:
        """Return what is known of the ways to the peers of an endpoint of ours."""
        contacts = (self._hellos.contact(one) for one in self._relations.peers(key))
        return tuple(one for one in contacts if one)

    def offset(self, public_key: bytes) -> Offset | None:
        """Return how far that agent's clock is ahead of ours."""
        return self._hellos.offset(public_key, time.time_ns())

    def _listen(self) -> None:
        places = [Place(address, self._port) for address in self._addresses]
        if self._tunnel:
            places += [
                Place(tunnel.inner_address(address), self._port, self._tunnel.device)
                for address in self._addresses
            ]
        self._reader.listen(places)

    def _opened(self) -> None:
        """Tell of sockets that could be had only now: others are to know where we are reached."""
        before, self._told = self._told, self.agent
        if before != self._told:
            self._changed()

    def _lead(self) -> None:
        if self._tunnel:
            self._tunnel.lead_to(self._relations.peer_addresses)

    def _say(self, kind: Kind, key: ObjectKey, uid: str, nodes: Mapping[str, Recipient]) -> int:
        """Say it to the peers and to *nodes*; return how many are asked.

        Here it is but sent to the peers: the next guest's route may be waiting. What follows has
        its turn before any ACK is read, which comes by the selector.
        """
        topic, times = (key, uid), (self._now(), time.time_ns())
        peers = self._peers(key)
        said = self._statements.say(kind, topic)
        for one in peers:
            for destination in one.destinations:
                self._send(said.datagram, destination)
        begin = functools.partial(self._begin, kind, topic, said, times)
        asyncio.get_running_loop().call_soon(begin, peers, nodes)
        return len(peers) + len(nodes) - len(nodes.keys() & {one.node for one in peers})

    def _begin(
        self,
        kind: Kind,
        topic: Topic,
        said: Said,
        times: tuple[float, int],
        peers: Iterable[Recipient],
        nodes: Mapping[str, Recipient],
    ) -> None:
        """Send what was said to those that are no peers, and expect the ACKs of all.

        None of them is read before: that is another turn of the loop.
        """
        # A newer one was said in the same turn, or the endpoint is gone.
        if self._statements.said(*topic) != said.sequence:
            return
        told = {one.node for one in peers}
        bystanders = [one for node, one in nodes.items() if node not in told]
        self._later((said.datagram, one) for one in bystanders)
        # Their routes, and the source's, go before what is expected of them.
        scheduling.give_way()
        self._statements.begin(kind, topic, said, [*peers, *bystanders], times)
        self._statements.told(topic, times[0])
        self._wind()

    def _peers(self, key: ObjectKey) -> tuple[Recipient, ...]:
        """Return all peers, of other migrations, too, as they were found before the switch."""
        if known := self._told_at_once.get(key):
            return known
        relations = self._relations.peers(key)
        found = tuple(Recipient(one.node, self._reached(one), one) for one in relations)
        if found:
            self._told_at_once[key] = found
        return found

    def _find_peers(self, key: ObjectKey) -> None:
        """Find anew whom to tell at once, and where."""
        self._told_at_once.pop(key, None)
        self._peers(key)

    def _reached(self, one: Relation) -> tuple[Destination, ...]:
        """Return the first of a peer's addresses that has answered; all, where none has."""
        contact = self._hellos.contact(one)
        proved = contact.proved if contact else ()
        for address in one.addresses:
            if (address, Way.PLAIN) in proved:
                return (Destination.at(address, one.port),)
        return tuple(Destination.at(address, one.port) for address in one.addresses)

    def _act(self, datagram: Datagram) -> Acted:
        """Act upon what was promised; then it is judged and acknowledged like all else."""
        return {
            one: self._sink.peer_has(one, datagram.received_ns)
            for one in self._promises.redeem(datagram.octets)
            if datagram.source in one.addresses
        }

    def _accept(self, accepted: Accepted, datagram: Datagram, acted: Acted) -> None:
        message = accepted.message
        if isinstance(message, BystanderAck):
            _ACCEPTED[Kind.BYSTANDER_ACK].inc()
            self._acknowledge(message.nonce, None, datagram, message.times)
            return
        nonce = message.header.nonce
        match message.body:
            # First: until it is done, what arrives for a guest goes where it is no more.
            case messages.Statement():
                self._hear(accepted, message.header, datagram, acted)
            case messages.Hello(way=way, promise=promise):
                if not accepted.is_repeat:
                    self._promises.learn(accepted.relations, message.header, promise)
                    self._answer_hello(accepted.relations, nonce, way, datagram)
            case HelloAnswer() as answer:
                self._promises.learn(accepted.relations, message.header, answer.promise)
                self._prove(nonce, answer, datagram.received_ns)
            case messages.Times() as times:
                self._acknowledge(nonce, accepted.relations[0], datagram, times)
        _ACCEPTED[message.header.kind].inc()

    def _hear(
        self, accepted: Accepted, header: messages.Header, datagram: Datagram, acted: Acted
    ) -> None:
        """Let the sink act on a statement, unless it has; then acknowledge it."""
        kind, nonce = header.kind, header.nonce
        ours = [one for one in accepted.relations if not one.is_bystanders]
        # A bystander hears HAVE alone: what follows from RELEASED is between the peers.
        relations = ours or [one for one in accepted.relations if kind is Kind.HAVE]
        assert datagram.source is not None, "the tunnel carries HELLOs alone"
        for one in relations:
            to = Destination.at(datagram.source, one.port)
            known = self._answers.known(one, nonce) if accepted.is_repeat else None
            if known is None:
                done = acted[one] if one in acted else self._tell(one, kind, datagram.received_ns)
                if one.is_bystanders:
                    # Another node's route goes before this one's answer.
                    scheduling.give_way()
                self._answers.hear(one, nonce, datagram.received_ns, to)
                known = self._answers.compose(one, nonce, done) if done else None
            if known is not None:
                self._send(known, to)

    def _tell(self, relation: Relation, kind: Kind, received_ns: int) -> Done | None:
        if relation.is_bystanders:
            return self._sink.bystander_has(relation.key, relation.uid, received_ns)
        if kind is Kind.HAVE:
            return self._sink.peer_has(relation, received_ns)
        return self._sink.peer_released(relation, received_ns)

    def _acknowledge(
        self,
        nonce: bytes,
        relation: Relation | None,
        datagram: Datagram,
        times: messages.Times,
    ) -> None:
        found = self._statements.acknowledge(nonce, relation, datagram.source, self._now())
        if found is None:
            return
        delivery, recipient = found
        offset = self.offset(relation.public_key) if relation else None
        ack = Acknowledgment(
            delivery.sent_ns, datagram.received_ns, times, offset, relation is None
        )
        self._sink.acknowledged(*delivery.topic, recipient.node, ack)
        self._wind()

    def _answer_hello(
        self, relations: tuple[Relation, ...], nonce: bytes, way: Way, datagram: Datagram
    ) -> None:
        for one in relations:
            if one.is_bystanders:
                continue
            said, promise = self._statements.news(one.key, one.own_uid)
            body = HelloAnswer(way, said, datagram.received_ns, time.time_ns(), promise)
            _, octets = self._signer.sign(Kind.HELLO_ANSWER, body, one.subject, nonce)
            # The tunnel does not say from where; the answer goes by the plain path.
            to = Destination.at(datagram.source, one.port) if datagram.source else None
            for destination in (to,) if to else self._reached(one):
                self._send(octets, destination)
            self._hellos.heard(one, self._now())
            self._wind()

    def _prove(self, nonce: bytes, answer: HelloAnswer, received_ns: int) -> None:
        proved = self._hellos.answered(nonce, answer, received_ns)
        if proved:
            contact, address, way = proved
            one = contact.relation
            self._find_peers(one.key)
            proof = Proof(one.node, address, way, self.offset(one.public_key))
            self._sink.peer_proved(one.key, one.uid, proof)
        self._wind()

    def _tell_again(self, relations: Iterable[Relation]) -> None:
        """Say what is known of those that stay: who tells us of peers may know nothing of it."""
        for one in relations:
            contact = self._hellos.contact(one)
            if contact is None:
                continue
            offset = self.offset(one.public_key)
            for address, way in contact.proved:
                self._sink.peer_proved(one.key, one.uid, Proof(one.node, address, way, offset))
            if contact.is_silent:
                self._sink.peer_silent(one.key, one.uid, one.node)

    def _work(self) -> None:
        """Do all that is due."""
        if self._alarm:
            self._alarm.cancel()
        self._alarm = None
        now = self._now()
        try:
            self._reader.expire(now)
            self._send_due(now)
            # Where the tunnel has no socket so far, nobody could hear it either.
            ways = tuple(Way) if self.has_tunnel else (Way.PLAIN,)
            for hello in self._hellos.take(now, ways):
                self._send_hello(hello.nonce, hello.datagram, hello.destination, hello.way)
            for one in self._hellos.silent(now):
                self._sink.peer_silent(one.key, one.uid, one.node)
        finally:
            # Whatever a sink meets, the others have their alarm.
            self._wind()

    def _send_hello(self, nonce: bytes, octets: bytes, to: Destination, way: Way) -> None:
        self._hellos.sent(nonce, time.time_ns())
        if way is Way.PLAIN:
            self._send(octets, to)
        elif self._tunnel:
            inner = Destination.at(tunnel.inner_address(to.address), to.port)
            self._reader.send(octets, inner, self._tunnel.device)

    def _send_due(self, now: float) -> None:
        """Send what is due: to the peers at once."""
        due = self._statements.take(now)
        for octets, one in due:
            for destination in one.destinations if one.relation else ():
                self._send(octets, destination)
        self._later((octets, one) for octets, one in due if not one.relation)

    def _later(self, waiting: Iterable[tuple[bytes, Recipient]]) -> None:
        """Send a slice now, unless this turn of the loop had one; the rest in the next turns."""
        for octets, one in waiting:
            self._outgoing.extend((octets, destination) for destination in one.destinations)
        if not self._has_flushed:
            self._flush()

    def _flush(self) -> None:
        """Send a slice of what waits; the next one has a turn of the loop of its own."""
        self._has_flushed = bool(self._outgoing)
        for _ in range(min(SLICE, len(self._outgoing))):
            octets, destination = self._outgoing.popleft()
            self._send(octets, destination)
        if self._has_flushed:
            asyncio.get_running_loop().call_soon(self._flush)

    def _send(self, octets: bytes, to: Destination) -> None:
        self._reader.send(octets, to)

    def _wind(self) -> None:
        """Set the alarm to the earliest of what is due."""
        dues = [self._reader.due, self._statements.due, self._hellos.due]
        due = min((each for each in dues if each is not None), default=None)
        if self._alarm and self._alarm.when() != due:
            self._alarm.cancel()
            self._alarm = None
        if due is not None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(due, self._work)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _relation(key: ObjectKey, role: Role | None, peer: Peer, uid: str | None = None) -> Relation:
    about = (key, role, uid or peer.uid, peer.uid, peer.endpoint, peer.node, peer.role)
    return Relation(*about, public_key=peer.key, addresses=peer.addresses, port=peer.port)
