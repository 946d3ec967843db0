"""What was promised is known when it comes: once, and from whoever promised it last."""

import dataclasses

import pytest
from tests.nodeagent.peers import speakers

from handover_api.names import ObjectKey
from handover_nodeagent.peers import messages
from handover_nodeagent.peers.messages import NO_PROMISE, Header, Kind
from handover_nodeagent.peers.promises import Promises
from handover_nodeagent.peers.relations import Relation

HAVE = b"the very bytes"
OTHER = b"other bytes"
PEER = speakers.target().relation_to(speakers.source())
SECOND = dataclasses.replace(PEER, key=ObjectKey("shop", "vm-of-another-source"))


def hello(sequence: int, boot: int = 1) -> Header:
    return Header(Kind.HELLO, PEER.key_id, boot, sequence, PEER.subject, bytes(16))


def promised(*said: tuple[Header, bytes], to: tuple[Relation, ...] = (PEER,)) -> Promises:
    """Return what is known after these HELLOs, each with its promise."""
    promises = Promises()
    for header, promise in said:
        promises.learn(to, header, promise)
    return promises


def test_a_promise_is_kept_once() -> None:
    promises = promised((hello(1), messages.digest(HAVE)))

    assert [promises.redeem(one) for one in (OTHER, HAVE, HAVE)] == [(), (PEER,), ()]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([(hello(1), HAVE), (hello(2), OTHER)], False),
        ([(hello(2), OTHER), (hello(1), HAVE)], False),
        ([(hello(9), OTHER), (hello(1, boot=2), HAVE)], True),
        ([(hello(1), HAVE), (hello(2), b"")], False),
        ([(hello(1), b"")], False),
    ],
    ids=["another one", "an older one, late", "after a restart", "taken back", "none"],
)
def test_the_newest_hello_says_what_is_promised(
    said: list[tuple[Header, bytes]], *, expected: bool
) -> None:
    digests = [
        (header, messages.digest(promise) if promise else NO_PROMISE) for header, promise in said
    ]

    assert promised(*digests).redeem(HAVE) == ((PEER,) if expected else ())


def test_what_was_kept_is_promised_again_by_no_hello_that_was_under_way() -> None:
    """Else whoever recorded the HAVE could have it followed once more."""
    promises = promised((hello(1), messages.digest(HAVE)))
    promises.redeem(HAVE)

    promises.learn((PEER,), hello(2), messages.digest(HAVE))

    assert promises.redeem(HAVE) == ()


def test_it_is_told_to_each_endpoint_that_it_concerns_and_is_no_more() -> None:
    promises = promised((hello(1), messages.digest(HAVE)), to=(PEER, SECOND))
    promises.forget([PEER])
    promises.forget([PEER])

    assert promises.redeem(HAVE) == (SECOND,)
    promises.forget([SECOND])
    assert promises._newest == {}


def test_who_is_gone_has_promised_nothing() -> None:
    promises = promised((hello(1), messages.digest(HAVE)))

    promises.forget([PEER])

    assert promises.redeem(HAVE) == ()
    assert promises._open == {}


def test_nothing_is_promised_to_a_bystander() -> None:
    bystander = dataclasses.replace(PEER, own_role=None)

    assert promised((hello(1), messages.digest(HAVE)), to=(bystander,)).redeem(HAVE) == ()
