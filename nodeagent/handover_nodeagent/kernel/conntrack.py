"""Connections that the kernel shall remember no more, as this node sees but half of them by now.

Of what goes untracked conntrack keeps what it saw before, for days. When it sees such a connection
again, packets do not fit that, and rules that drop what is invalid end it. One of which nothing is
known it takes as it is (nf_conntrack_tcp_loose).
"""

import socket
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from handover_nodeagent.kernel import route_lookup
from handover_nodeagent.kernel.netlink import answers, codec, ctmsg, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.ctmsg import Connection
from handover_nodeagent.network.model import IPAddress

_NETFILTER: Final = 12
"""NETLINK_NETFILTER of linux/netlink.h."""
_PATIENCE: Final = 10.0
_RECEIVE: Final = 64 * 1024


def forget(
    addresses: Iterable[IPAddress], uplinks: AbstractSet[str], nodes: Iterable[IPAddress] = ()
) -> int:
    """Forget the connections of *addresses* with whoever is reached by *uplinks*; count them.

    What leads to *nodes* is one of those, too. Not those of this node's own pods, which it sees as
    a whole, nor those whose addresses are translated here. Runs in a thread, never in the loop.
    Raises OSError.
    """
    count = 0
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as sock,
        Channel() as channel,
    ):
        sock.settimeout(_PATIENCE)
        known = {*uplinks, *(_device_to(channel, node) for node in nodes)} - {""}
        for address in addresses:
            for one in _of(sock, address):
                other = one.destination if one.source == address else one.source
                if not one.is_translated and _device_to(channel, other) in known:
                    sock.send(ctmsg.encode_delete(one))
                    # One that has ended meanwhile is refused, and as good.
                    sock.recv(_RECEIVE)
                    count += 1
    return count


def _of(sock: socket.socket, address: IPAddress) -> list[Connection]:
    """Return the connections from and to *address*."""
    # Of a hundred thousand others each costs but this look at its bytes.
    shown = (
        ctmsg.decode(message)
        for request in ctmsg.encode_dumps(address)
        for message in _ask(sock, request)
        if address.packed in message
    )
    return [one for one in shown if address in {one.source, one.destination}]


def _ask(sock: socket.socket, request: bytes) -> Iterator[bytes]:
    """Yield what answers *request*, until the kernel says that this was all."""
    sock.send(request)
    while True:
        for message in codec.split(sock.recv(_RECEIVE)):
            kind = codec.kind_of(message)
            if kind == codec.ERROR:
                number = -codec.unpack(answers.ANSWER, message, 0)[5]
                raise OSError(number, answers.describe(number))
            if kind == codec.DONE:
                return
            if kind == ctmsg.NEW:
                yield message


def _device_to(channel: Channel, address: IPAddress) -> str:
    found = route_lookup.match(channel, address)
    if not isinstance(found, bytes):
        return ""
    try:
        return socket.if_indextoname(rtmsg.decode(found).route.oif)
    except (codec.MalformedError, OSError):
        # By several devices, or by one that is gone: nobody knows, and what is there stays.
        return ""
