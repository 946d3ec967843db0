"""One exchange for many messages: an errno for each, nothing raised, nothing mixed up."""

import errno
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from tests.nodeagent.node import V4, V6, Node
from tests.nodeagent.privileges import without_privileges

from handover_nodeagent.kernel.netlink import answers, codec, rtmsg
from handover_nodeagent.kernel.netlink import channel as netlink
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import Route

pytestmark = pytest.mark.root
MakeRoute = Callable[..., Route]


def test_each_message_gets_its_own_errno(node: Node, channel: Channel, route: MakeRoute) -> None:
    requests = [
        rtmsg.encode_add(route(V4)),
        rtmsg.encode_add(route(V4, oif=node.tap1)),
        rtmsg.encode_remove(route(V6)),
        rtmsg.encode_add(route(V6)),
        rtmsg.encode_replace(route(V4, oif=9999)),
    ]
    expected = [0, errno.EEXIST, errno.ESRCH, 0, errno.ENODEV]
    assert expected == channel.transact(requests)


def test_the_kernel_explains_what_it_refused(channel: Channel, route: MakeRoute) -> None:
    results = channel.transact([rtmsg.encode_add(route(V4)), rtmsg.encode_remove(route(V6))])
    # What another exchange brings changes nothing of it.
    channel.transact([rtmsg.encode_replace(route(V4, oif=9999))])
    assert [results.explain(position) for position in range(2)] == ["", "No such process"]


def test_a_route_on_a_link_that_is_down_is_refused_with_the_reason(
    node: Node, channel: Channel, route: MakeRoute
) -> None:
    node.run("ip link set tap1 down")
    requests = [rtmsg.encode_replace(route(address, oif=node.tap1)) for address in (V4, V6)]
    results = channel.transact(requests)
    assert results == [errno.ENETDOWN] * 2
    assert results.explain(0) == "Network is down (Device for nexthop is not up)"


def test_nothing_to_send_is_nothing(channel: Channel) -> None:
    assert channel.transact([]) == []


def test_a_thousand_messages_keep_their_order(channel: Channel, route: MakeRoute) -> None:
    addresses = [IPv4Address(0x0A410100 + number) for number in range(500)]
    twice = [rtmsg.encode_add(route(address)) for address in addresses for _ in range(2)]
    results = channel.transact(twice)
    assert results == [0, errno.EEXIST] * 500
    assert results.explain(998) == ""
    assert results.explain(999) == "File exists"


def test_answers_that_the_kernel_drops_are_unknown_not_successes(
    node: Node, route: MakeRoute
) -> None:
    with Channel(receive_buffer=1) as narrow:
        absent = [rtmsg.encode_remove(route(IPv4Address(number))) for number in range(1, 50)]
        results = narrow.transact([*absent, rtmsg.encode_add(route(V4))])
        assert {errno.ESRCH, errno.ENOBUFS} == set(results)
        assert results[-1] == errno.ENOBUFS
        assert narrow.transact([rtmsg.encode_replace(route(V4))]) == [0]
    assert node.lines("ip route show") == ["10.65.0.2 dev tap0 proto 88 scope link metric 512"]


def test_without_the_privilege_the_answer_is_a_value(route: MakeRoute) -> None:
    def attempt() -> tuple[list[int], str]:
        with Channel() as channel:
            results = channel.transact([rtmsg.encode_add(route(V4))])
            return list(results), results.explain(0)

    expected = [errno.EPERM], "Operation not permitted: CAP_NET_ADMIN is missing"
    assert expected == without_privileges(attempt)


def test_sequence_numbers_start_anew_before_they_run_out(
    channel: Channel, route: MakeRoute
) -> None:
    channel._sequence = netlink._MAX_SEQUENCE - 1
    add, remove = rtmsg.encode_replace(route(V4)), rtmsg.encode_remove(route(V4))
    for _ in range(3):
        assert channel.transact([add, remove, remove]) == [0, 0, errno.ESRCH]


class Impostor(Channel):
    """A channel whose kernel answers a question with *answer*, and then with nothing."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        left = [answer]

        def receive(_size: int, _flags: int = 0) -> bytes:
            if not left:
                raise BlockingIOError(errno.EAGAIN, "")
            return answers.numbered(left.pop(), self._sequence)

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
    monkeypatch: pytest.MonkeyPatch, channel: Channel, route: MakeRoute
) -> None:
    """Guards: the bit for the acknowledgment in the wrong byte, where the field is big-endian."""
    sent: list[bytes] = []

    def refuse(batch: bytes) -> int:
        sent.append(bytes(batch))
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(channel, "_send", refuse)
    monkeypatch.setattr(netlink, "_FLAGS", struct.Struct(">H"))
    request = bytearray(rtmsg.encode_add(route(V4)))
    struct.pack_into(">H", request, 6, 0x0601)
    channel.transact([bytes(request)])
    assert struct.unpack_from(">H", sent[0], 6) == (0x0605,)
