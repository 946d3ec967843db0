"""One exchange for many messages: an errno for each, nothing raised, nothing mixed up."""

import errno
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from tests.nodeagent.node import V4, V6, Node
from tests.nodeagent.privileges import without_privileges

from handover_nodeagent.kernel import routes
from handover_nodeagent.kernel.netlink import channel as netlink
from handover_nodeagent.kernel.netlink import codec
from handover_nodeagent.network.model import Route

pytestmark = pytest.mark.root
FAMILY_AT = codec.HEADER.size
UNKNOWN_FAMILY = 12
ADDRESSES = codec.compose(codec.GETADDR, codec.DUMP, bytes(8))
ROUTES = codec.compose(codec.GETROUTE, codec.DUMP, b"\2" + bytes(11))
SHOWN = codec.compose(codec.NEWROUTE, 0x2, b"\2" + bytes(11))
END = codec.compose(codec.DONE, 0x2, bytes(4))
MakeRoute = Callable[..., Route]


def test_each_message_gets_its_own_errno(
    node: Node, channel: netlink.Channel, route: MakeRoute
) -> None:
    requests = [
        routes.encode_add(route(V4)),
        routes.encode_add(route(V4, oif=node.tap1)),
        routes.encode_remove(route(V6)),
        routes.encode_add(route(V6)),
        routes.encode_replace(route(V4, oif=9999)),
    ]
    expected = [0, errno.EEXIST, errno.ESRCH, 0, errno.ENODEV]
    assert expected == channel.transact(requests)


def test_the_kernel_explains_what_it_refused(channel: netlink.Channel, route: MakeRoute) -> None:
    channel.transact([routes.encode_add(route(V4)), routes.encode_remove(route(V6))])
    assert [channel.explain(position) for position in range(2)] == ["", "No such process"]


def test_a_route_on_a_link_that_is_down_is_refused_with_the_reason(
    node: Node, channel: netlink.Channel, route: MakeRoute
) -> None:
    node.run("ip link set tap1 down")
    requests = [routes.encode_replace(route(address, oif=node.tap1)) for address in (V4, V6)]
    assert channel.transact(requests) == [errno.ENETDOWN] * 2
    assert channel.explain(0) == "Network is down (Device for nexthop is not up)"


def test_nothing_to_send_is_nothing(channel: netlink.Channel) -> None:
    assert channel.transact([]) == []


def test_a_thousand_messages_keep_their_order(channel: netlink.Channel, route: MakeRoute) -> None:
    addresses = [IPv4Address(0x0A410100 + number) for number in range(500)]
    twice = [routes.encode_add(route(address)) for address in addresses for _ in range(2)]
    assert channel.transact(twice) == [0, errno.EEXIST] * 500
    assert channel.explain(998) == ""
    assert channel.explain(999) == "File exists"


def test_answers_that_the_kernel_drops_are_unknown_not_successes(
    node: Node, route: MakeRoute
) -> None:
    with netlink.Channel(receive_buffer=1) as narrow:
        absent = [routes.encode_remove(route(IPv4Address(number))) for number in range(1, 50)]
        results = narrow.transact([*absent, routes.encode_add(route(V4))])
        assert {errno.ESRCH, errno.ENOBUFS} == set(results)
        assert results[-1] == errno.ENOBUFS
        assert narrow.transact([routes.encode_replace(route(V4))]) == [0]
    assert node.lines("ip route show") == ["10.65.0.2 dev tap0 proto 88 scope link metric 512"]


def test_without_the_privilege_the_answer_is_a_value(route: MakeRoute) -> None:
    def attempt() -> tuple[list[int], str]:
        with netlink.Channel() as channel:
            return channel.transact([routes.encode_add(route(V4))]), channel.explain(0)

    expected = [errno.EPERM], "Operation not permitted: CAP_NET_ADMIN is missing"
    assert expected == without_privileges(attempt)


def test_sequence_numbers_start_anew_before_they_run_out(
    channel: netlink.Channel, route: MakeRoute
) -> None:
    channel._sequence = netlink._MAX_SEQUENCE - 1
    add, remove = routes.encode_replace(route(V4)), routes.encode_remove(route(V4))
    for _ in range(3):
        assert channel.transact([add, remove, remove]) == [0, 0, errno.ESRCH]


@pytest.mark.usefixtures("node")
def test_a_dump_that_is_refused_says_why() -> None:
    with pytest.raises(netlink.ObservationError, match="Invalid argument"):
        netlink.dump(codec.compose(codec.GETROUTE, codec.DUMP, b"\2\x20" + bytes(10)))


@pytest.mark.usefixtures("node")
def test_what_answers_another_familys_question_is_left_out(
    channel: netlink.Channel, route: MakeRoute
) -> None:
    """A kernel without a family shows the routes of all others, as one without IPv6 does."""
    channel.transact([routes.encode_add(route(V4))])
    asked = codec.compose(codec.GETROUTE, codec.DUMP, bytes([UNKNOWN_FAMILY, *bytes(11)]))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as plain:
        plain.send(asked)
        shown = {one[FAMILY_AT] for one in codec.split(plain.recv(1 << 16))}
    assert codec.INET in shown
    assert netlink.dump(asked) == []


@pytest.mark.usefixtures("node")
def test_a_dump_without_a_socket_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(netlink.ObservationError, match="Too many open files"):
        netlink.dump(ADDRESSES)


@pytest.mark.usefixtures("node")
def test_a_dump_of_a_table_without_routes_is_empty() -> None:
    assert list(routes.dump(codec.INET, 4711)) == []


@pytest.mark.parametrize(("flags", "whole"), [(0x2, True), (0x2 | 0x10, False)])
def test_a_dump_says_itself_that_it_was_interrupted(flags: int, *, whole: bool) -> None:
    kernel, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, reader:
        kernel.send(codec.compose(codec.NEWROUTE, flags, bytes(12)))
        kernel.send(END)
        assert whole == netlink._read_dump(reader, ROUTES, [])


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
        with pytest.raises((netlink.ObservationError, TimeoutError), match=expected):
            netlink._read_dump(reader, ROUTES, [])


def test_what_answers_an_earlier_question_is_left_out() -> None:
    kernel, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, reader:
        kernel.send(netlink.numbered(SHOWN, 1) + netlink.numbered(END, 1))
        kernel.send(netlink.numbered(SHOWN, 2) + netlink.numbered(END, 2))
        found: list[bytes] = []
        assert netlink._read_dump(reader, netlink.numbered(ROUTES, 2), found)
    assert found == [netlink.numbered(SHOWN, 2)]


@pytest.mark.usefixtures("node")
def test_a_dump_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel answers what is no dump with one message and no end."""
    monkeypatch.setattr(netlink, "DUMP_PATIENCE", 0.05)
    single = codec.compose(codec.GETLINK, 0, bytes(4) + b"\1" + bytes(11))
    with pytest.raises(netlink.ObservationError, match="timed out"):
        netlink.dump(single)


class Impostor(netlink.Channel):
    """A channel whose kernel answers a question with *answer*, and then with nothing."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        answers = [answer]

        def receive(_size: int, _flags: int = 0) -> bytes:
            if not answers:
                raise BlockingIOError(errno.EAGAIN, "")
            return netlink.numbered(answers.pop(), self._sequence)

        self._receive = receive


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (codec.compose(codec.NEWLINK, 0, bytes(16)), errno.EPROTO),
        (codec.compose(codec.NEWROUTE, 0, b"\x0a" + bytes(11)), errno.EPROTO),
        (codec.compose(codec.ERROR, 0, bytes(20)), errno.EPROTO),
        (codec.compose(codec.ERROR, 0, b"\x9b\xff\xff\xff" + bytes(16)), errno.ENETUNREACH),
        (bytes(16), errno.EAGAIN),
    ],
    ids=["another type", "another family", "an acknowledgment", "a refusal", "too short"],
)
def test_what_does_not_answer_the_question_is_an_errno(answer: bytes, expected: int) -> None:
    with Impostor(answer) as channel:
        assert channel.ask(codec.compose(codec.GETROUTE, 0, b"\2" + bytes(11))) == expected


def test_the_flags_of_the_last_message_are_one_field_in_any_byte_order(
    monkeypatch: pytest.MonkeyPatch, channel: netlink.Channel, route: MakeRoute
) -> None:
    """Guards: the bit for the acknowledgment in the wrong byte, where the field is big-endian."""
    sent: list[bytes] = []

    def refuse(batch: bytes) -> int:
        sent.append(bytes(batch))
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(channel, "_send", refuse)
    monkeypatch.setattr(netlink, "_FLAGS", struct.Struct(">H"))
    request = bytearray(routes.encode_add(route(V4)))
    struct.pack_into(">H", request, 6, 0x0601)
    channel.transact([bytes(request)])
    assert struct.unpack_from(">H", sent[0], 6) == (0x0605,)


@pytest.mark.usefixtures("node")
def test_an_interrupted_dump_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = len(netlink.dump(ADDRESSES))
    read = netlink._read_dump
    outcomes = iter([False, False, True])

    def interrupted(sock: socket.socket, asked: bytes, found: list[bytes]) -> bool:
        return read(sock, asked, found) and next(outcomes)

    monkeypatch.setattr(netlink, "_read_dump", interrupted)
    assert whole == len(netlink.dump(ADDRESSES))
    assert list(outcomes) == []


@pytest.mark.usefixtures("node")
def test_a_state_that_never_rests_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_read_dump", lambda *_: False)
    with pytest.raises(netlink.ObservationError, match="changed during each of 8 attempts"):
        netlink.dump(ADDRESSES)
