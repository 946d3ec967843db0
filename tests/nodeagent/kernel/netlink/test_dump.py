"""A dump is whole, or it is said why it is not."""

import errno
import socket
from collections.abc import Callable

import pytest
from tests.nodeagent.node import V4

from handover_nodeagent.kernel import route_lookup
from handover_nodeagent.kernel.netlink import answers, codec, dump, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import Route

pytestmark = pytest.mark.root
FAMILY_AT = codec.HEADER.size
UNKNOWN_FAMILY = 12
ADDRESSES = codec.compose(codec.GETADDR, codec.DUMP, bytes(8))
ROUTES = codec.compose(codec.GETROUTE, codec.DUMP, b"\2" + bytes(11))
SHOWN = codec.compose(codec.NEWROUTE, 0x2, b"\2" + bytes(11))
END = codec.compose(codec.DONE, 0x2, bytes(4))
MakeRoute = Callable[..., Route]


@pytest.mark.usefixtures("node")
def test_a_dump_that_is_refused_says_why() -> None:
    with pytest.raises(codec.ObservationError, match="Invalid argument"):
        dump.read(codec.compose(codec.GETROUTE, codec.DUMP, b"\2\x20" + bytes(10)))


@pytest.mark.usefixtures("node")
def test_what_answers_another_familys_question_is_left_out(
    channel: Channel, route: MakeRoute
) -> None:
    """A kernel without a family shows the routes of all others, as one without IPv6 does."""
    channel.transact([rtmsg.encode_add(route(V4))])
    asked = codec.compose(codec.GETROUTE, codec.DUMP, bytes([UNKNOWN_FAMILY, *bytes(11)]))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as plain:
        plain.send(asked)
        shown = {one[FAMILY_AT] for one in codec.split(plain.recv(1 << 16))}
    assert codec.INET in shown
    assert dump.read(asked) == []


@pytest.mark.usefixtures("node")
def test_a_dump_without_a_socket_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(codec.ObservationError, match="Too many open files"):
        dump.read(ADDRESSES)


@pytest.mark.usefixtures("node")
def test_a_dump_of_a_table_without_routes_is_empty() -> None:
    assert list(route_lookup.read_table(codec.INET, 4711)) == []


def test_a_datagram_that_did_not_fit_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "_RECEIVE", len(SHOWN) - 1)
    kernel, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, reader:
        kernel.send(SHOWN)
        with pytest.raises(codec.ObservationError, match="more than 27 bytes"):
            dump._receive(reader, answers.Dump(ROUTES))


def test_a_dump_ends_with_its_last_datagram() -> None:
    kernel, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    answer = answers.Dump(ROUTES)
    with kernel, reader:
        for datagram in (SHOWN, SHOWN, END, SHOWN):
            kernel.send(datagram)
        dump._receive(reader, answer)
        assert reader.recv(64) == SHOWN
    assert answer.messages == [SHOWN] * 2


@pytest.mark.usefixtures("node")
def test_a_dump_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel answers what is no dump with one message and no end."""
    monkeypatch.setattr(dump, "PATIENCE", 0.05)
    single = codec.compose(codec.GETLINK, 0, bytes(4) + b"\1" + bytes(11))
    with pytest.raises(codec.ObservationError, match="timed out"):
        dump.read(single)


@pytest.mark.usefixtures("node")
def test_an_interrupted_dump_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = len(dump.read(ADDRESSES))
    receive = dump._receive
    outcomes = iter([False, False, True])

    def interrupted(sock: socket.socket, answer: answers.Dump) -> None:
        receive(sock, answer)
        answer.is_consistent = next(outcomes)

    monkeypatch.setattr(dump, "_receive", interrupted)
    assert whole == len(dump.read(ADDRESSES))
    assert list(outcomes) == []


@pytest.mark.usefixtures("node")
def test_a_state_that_never_rests_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: socket.socket, answer: answers.Dump) -> None:
        answer.is_consistent = False

    monkeypatch.setattr(dump, "_receive", interrupted)
    with pytest.raises(codec.ObservationError, match="changed during each of 8 attempts"):
        dump.read(ADDRESSES)
