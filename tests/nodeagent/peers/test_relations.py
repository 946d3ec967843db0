"""The index of who may speak for which endpoint, through every change of it."""

from ipaddress import ip_address

import hypothesis
from hypothesis import strategies as st
from tests.nodeagent.peers import speakers

from handover_api.names import ObjectKey
from handover_nodeagent.peers.relations import Relation, Relations

PEER = speakers.target()
OURS = speakers.source()
RELATION = PEER.relation_to(OURS)


def test_a_peer_is_found_by_what_its_messages_carry() -> None:
    known = Relations()
    known.know_peers(OURS.endpoint, [RELATION])
    assert known.peers(OURS.endpoint) == (RELATION,)
    assert known.of_subject(RELATION.subject) == (RELATION,)
    assert known.has_key(RELATION.key_id)
    assert known.has_address(ip_address("fd00::2"))
    assert known.peer_addresses == {ip_address("10.0.0.2"), ip_address("fd00::2")}


def test_a_peer_that_is_named_no_more_may_say_nothing() -> None:
    known = Relations()
    known.know_peers(OURS.endpoint, [RELATION])
    known.know_peers(OURS.endpoint, [])
    assert known.peers(OURS.endpoint) == ()
    assert known.of_subject(RELATION.subject) == ()
    assert not known.has_key(RELATION.key_id)
    assert not known.has_address(ip_address("10.0.0.2"))
    assert known.peer_addresses == frozenset()


def test_who_is_named_twice_stays_until_both_are_gone() -> None:
    known = Relations()
    other = ObjectKey("shop", "vm-source-2")
    known.know_peers(OURS.endpoint, [RELATION])
    known.know_peers(other, [PEER.relation_to(speakers.source(endpoint=other))])
    known.know_peers(OURS.endpoint, [])
    assert known.has_address(ip_address("10.0.0.2"))
    assert [one.key for one in known.of_subject(RELATION.subject)] == [other]


def test_an_endpoint_of_ours_comes_before_one_that_is_advertised() -> None:
    known = Relations()
    known.know_advertised(PEER.endpoint, [PEER.advertised()])
    known.know_peers(OURS.endpoint, [RELATION])
    assert known.of_subject(RELATION.subject) == (RELATION, PEER.advertised())


def test_the_address_of_an_advertised_endpoint_is_no_peers() -> None:
    known = Relations()
    known.know_advertised(PEER.endpoint, [PEER.advertised()])
    assert known.has_address(ip_address("10.0.0.2"))
    assert known.peer_addresses == frozenset()


def test_a_new_key_replaces_the_old_one() -> None:
    known = Relations()
    again = speakers.target()
    known.know_peers(OURS.endpoint, [RELATION])
    known.know_peers(OURS.endpoint, [again.relation_to(OURS)])
    assert not known.has_key(RELATION.key_id)
    assert known.has_key(again.key.public[:8])


SPEAKERS = [speakers.target(endpoint=ObjectKey("n", f"t{n}")) for n in range(3)]
LISTENERS = [speakers.source(endpoint=ObjectKey("n", f"s{n}")) for n in range(3)]
changes = st.lists(
    st.tuples(st.booleans(), st.sampled_from(LISTENERS), st.sets(st.sampled_from(range(3)))),
    max_size=20,
)


@hypothesis.given(changes)
def test_the_index_is_what_an_index_made_anew_would_be(
    changed: list[tuple[bool, speakers.Speaker, set[int]]],
) -> None:
    known = Relations()
    peers, advertised = dict[ObjectKey, list[Relation]](), dict[ObjectKey, list[Relation]]()
    for is_peer, listener, named in changed:
        those = [SPEAKERS[n].relation_to(listener) for n in sorted(named)]
        if is_peer:
            known.know_peers(listener.endpoint, those)
            peers[listener.endpoint] = those
        else:
            spoken = SPEAKERS[0].advertised()
            known.know_advertised(SPEAKERS[0].endpoint, [spoken] if named else [])
            advertised[SPEAKERS[0].endpoint] = [spoken] if named else []
    fresh = Relations()
    for ours, those in peers.items():
        fresh.know_peers(ours, those)
    for theirs, those in advertised.items():
        fresh.know_advertised(theirs, those)
    assert known._key_ids == fresh._key_ids
    assert known._addresses == fresh._addresses
    assert known.peer_addresses == fresh.peer_addresses
    assert {k: set(v) for k, v in known._by_subject.items()} == {
        k: set(v) for k, v in fresh._by_subject.items()
    }
