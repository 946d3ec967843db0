"""Whose transaction it was: told by messages that another author, pyroute2, has written."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nfnetlink import nftsocket

from handover_nodeagent.kernel.netlink import codec
from handover_nodeagent.kernel.nft.authorship import Authorship

ARP, IPV4 = 3, 2
AUTHOR = "handover-123456"
NEW_TABLE, NEW_CHAIN, DELETED_RULE, NEW_GENERATION = 0, 3, 8, 15


def write(message: Any, kind: int, family: int, name: str, value: str) -> bytes:
    """Let pyroute2 write a message of the subsystem nftables."""
    message["header"]["type"] = 10 << 8 | kind
    message["nfgen_family"] = family
    message["attrs"] = [(name, value)]
    message.encode()
    return bytes(message.data)


def change(table: str = "handover", family: int = ARP, kind: int = NEW_CHAIN) -> bytes:
    return write(nftsocket.nft_chain_msg(), kind, family, "NFTA_CHAIN_TABLE", table)


def end(author: str) -> bytes:
    """Return what ends a transaction."""
    return write(nftsocket.nft_gen_msg(), NEW_GENERATION, 0, "NFTA_GEN_PROC_NAME", author)


@pytest.mark.parametrize(
    ("messages", "is_drift"),
    [
        ([change(), end("nft")], True),
        ([change(kind=NEW_TABLE), change(), end("nft")], True),
        ([change(kind=DELETED_RULE), change("other"), end("nft")], True),
        ([change(), end(AUTHOR)], False),
        ([change(), end("handover-654321")], True),
        ([change("other"), end("nft")], False),
        ([change(family=IPV4), end("nft")], False),
        ([end("nft")], False),
    ],
    ids=[
        "a chain",
        "a table",
        "a rule, among others",
        "our own",
        "another agent's",
        "another table",
        "another family",
        "nothing",
    ],
)
def test_only_somebody_elses_change_of_our_table_is_drift(
    messages: list[bytes], *, is_drift: bool
) -> None:
    authorship = Authorship(AUTHOR)
    # Each by itself: what one has touched is not the next one's.
    for _ in range(2):
        *changes, last = (authorship.take(message) for message in messages)
        assert not any(changes)
        assert last == is_drift


def test_whose_it_was_counts_for_its_own_changes_alone() -> None:
    authorship = Authorship(AUTHOR)
    told = [change(), end(AUTHOR), change("other"), end("nft"), change(), end("nft"), end("nft")]
    assert [authorship.take(message) for message in told] == [False] * 5 + [True, False]


@pytest.mark.parametrize("message", [b"", change()[:18], change()[:-4], end("nft")[:-4]])
def test_a_message_that_breaks_off_is_said_to(message: bytes) -> None:
    with pytest.raises(codec.MalformedError):
        Authorship(AUTHOR).take(message)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_no_bytes_raise_anything_but_that_they_cannot_be_read(messages: list[bytes]) -> None:
    authorship = Authorship(AUTHOR)
    for message in messages:
        with contextlib.suppress(codec.MalformedError):
            authorship.take(message)
