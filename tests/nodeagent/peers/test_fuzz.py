"""Random and mutated datagrams against an oracle that shares no code with the reader.

The oracle knows the layouts by their offsets alone. What it would not call a message is refused,
what was not signed is never accepted, and nothing raises.
"""

import random
from ipaddress import ip_address

from hypothesis import strategies as st
from tests.nodeagent.peers import speakers

from handover_nodeagent.peers import keys, messages
from handover_nodeagent.peers.messages import BystanderAck, Kind, Malformed, Times
from handover_nodeagent.peers.relations import Relations
from handover_nodeagent.peers.trust import Accepted, Question, Trust
from tests import fuzzing

SIZES = {1: 163, 2: 179, 3: 122, 4: 122, 5: 154, 6: 34}
BATCH = 2_000


def oracle(octets: bytes) -> bool:
    """Tell whether the bytes are laid out as a message of ours."""
    if len(octets) < 34 or octets[0] != 1 or SIZES.get(octets[1]) != len(octets):
        return False
    return octets[1] not in {1, 2} or octets[58] in {1, 2}


def mutated(octets: bytes, draw: random.Random) -> bytes:
    """Change a message by what goes wrong with bytes, or what somebody might try."""
    changed = bytearray(octets)
    for _ in range(draw.choice([0, 1, 1, 2, 8])):
        at = draw.randrange(len(changed)) if changed else 0
        match draw.randrange(6):
            case 0 if changed:
                changed[at] ^= 1 << draw.randrange(8)
            case 1 if changed:
                changed[at] = draw.choice([0, 1, 2, 3, 4, 5, 6, 7, 0x7F, 0x80, 0xFF])
            case 2:
                del changed[at:]
            case 3:
                changed += draw.randbytes(draw.randrange(1, 80))
            case 4:
                changed[at : at + 8] = draw.randbytes(8)
            case _ if changed:
                changed[:2] = bytes([draw.choice([1, 1, 1, 2]), draw.randrange(8)])
    return bytes(changed)


class Receiver:
    """An agent that hears all of it, and knows what was really said."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.here, self.there = speakers.source(), speakers.target()
        relations = Relations()
        relation = self.there.relation_to(self.here)
        relations.know_peers(self.here.endpoint, [relation])
        self.trust = Trust(relations, keys.verify)
        subject = messages.subject(self.here.endpoint, speakers.UID)
        self.trust.expect(speakers.NONCE, Question(Kind.HAVE, subject, (relation,)))
        self.now = 0.0
        self.true = [self.say(Kind(kind)) for kind in SIZES for _ in range(3)]

    def say(self, kind: Kind) -> bytes:
        if kind is Kind.BYSTANDER_ACK:
            return messages.compose_bystander_ack(speakers.NONCE, Times(1, 2))
        is_answer = kind in {Kind.ACK, Kind.HELLO_ANSWER}
        speaker = self.here if is_answer else self.there
        subject = messages.subject(speaker.endpoint, speakers.UID)
        return self.there.say(kind, speakers.BODIES[kind], subject=subject)

    def meet(self, octets: bytes) -> None:
        message = messages.read(octets)
        assert oracle(octets) is not isinstance(message, Malformed)
        # So slowly that no budget hides what a check would say.
        self.now += 1.0
        judgment = self.trust.judge(octets, ip_address("10.0.0.2"), self.now)
        if isinstance(judgment, Accepted) and not isinstance(judgment.message, BystanderAck):
            assert octets in self.true


def test_fuzz_what_was_not_signed_is_never_believed() -> None:
    def meet(seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311  a seed repeats it
        it = Receiver(draw)
        for _ in range(BATCH // fuzzing.EXAMPLES):
            octets = draw.choice(it.true) if draw.random() < 0.9 else draw.randbytes(200)
            it.meet(mutated(octets, draw))

    assert fuzzing.rounds(meet, st.integers(0, 2**63 - 1))
