"""A dump is whole, or it is said why it is not."""

import errno
import socket
from collections.abc import Callable

import pytest
from tests.nodeagent.node import V4

from handover_nodeagent.kernel import routes
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
    assert list(routes.read_table(codec.INET, 4711)) == []


@pytest.mark.parametrize(("flags", "whole"), [(0x2, True), (0x2 | 0x10, False)])
def test_a_dump_says_itself_that_it_was_interrupted(flags: int, *, whole: bool) -> None:
    kernel, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, reader:
        kernel.send(codec.compose(codec.NEWROUTE, flags, bytes(12)))
        kernel.send(END)
        assert whole == dump._read_once(reader, ROUTES, [])


BROKEN_ENDS = {
    "an acknowledgment": ([codec.compose(codec.ERROR, 0, bytes(20))], "only says"),
    "a refusal": (
        [codec.compose(codec.ERROR, 0, b"\xea\xff\xff\xff" + bytes(16))],
        "Invalid",
    ),
    "a table that is missing after all": (
        [SHOWN, codec.compose(codec.DONE, 0, b"\xfe\xff\xff\xff")],
        "No such file",
    ),
    "a rest that is no message": ([SHOWN + b"\x09\0\0\0"], "too short"),
    "a length that lies": ([b"\xff" + SHOWN[1:]], "255 bytes where 28 are left"),
    "no end": ([SHOWN], "timed out"),
}


@pytest.mark.parametrize("case", BROKEN_ENDS)
def test_a_dump_that_does_not_end_as_it_should_is_none(case: str) -> None:
    """Guards: what is missing from an answer would be taken for gone."""
    sent, expected = BROKEN_ENDS[case]
    kernel, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    reader.settimeout(0.01)
    with kernel, reader:
        for datagram in sent:
            kernel.send(datagram)
        with pytest.raises((codec.ObservationError, TimeoutError), match=expected):
            dump._read_once(reader, ROUTES, [])


def test_what_answers_an_earlier_question_is_left_out() -> None:
    kernel, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, reader:
        kernel.send(answers.numbered(SHOWN, 1) + answers.numbered(END, 1))
        kernel.send(answers.numbered(SHOWN, 2) + answers.numbered(END, 2))
        found: list[bytes] = []
        assert dump._read_once(reader, answers.numbered(ROUTES, 2), found)
    assert found == [answers.numbered(SHOWN, 2)]


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
    read = dump._read_once
    outcomes = iter([False, False, True])

    def interrupted(sock: socket.socket, asked: bytes, found: list[bytes]) -> bool:
        return read(sock, asked, found) and next(outcomes)

    monkeypatch.setattr(dump, "_read_once", interrupted)
    assert whole == len(dump.read(ADDRESSES))
    assert list(outcomes) == []


@pytest.mark.usefixtures("node")
def test_a_state_that_never_rests_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "_read_once", lambda *_: False)
    with pytest.raises(codec.ObservationError, match="changed during each of 8 attempts"):
        dump.read(ADDRESSES)
