"""What there is in the kernel: a dump, read to its end or not at all.

It blocks, so it runs in a thread, never in the loop. Whoever compares with what is desired takes
what is missing from an answer for gone; so a dump that is not whole is an ObservationError.
"""

import errno
import socket
from typing import Final

from handover_nodeagent.kernel.netlink import answers, codec
from handover_nodeagent.kernel.netlink.codec import ObservationError

PATIENCE: Final = 10.0
"""Seconds for which a dump waits for its next datagram; the kernel takes milliseconds."""
_ATTEMPTS: Final = 8
_RECEIVE: Final = 64 * 1024
"""The kernel makes datagrams of up to 32 KiB, unless one message alone needs more."""
_SOL_NETLINK: Final = 270
_STRICT_CHECK: Final = 12
"""NETLINK_GET_STRICT_CHK, since Linux 4.20."""


def read(request: bytes) -> list[bytes]:
    """Return the messages that answer *request*; what a change interrupted is read again.

    Those of another type or family are left out: a kernel without IPv6 answers a question for
    IPv6 routes with the IPv4 ones. Runs in a thread, never in the loop. Raises ObservationError.
    """
    try:
        return _read(request)
    except OSError as error:
        raise ObservationError(answers.describe(error.errno or errno.ETIMEDOUT)) from error


def _read(request: bytes) -> list[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        # Only so does the kernel filter, and refuse what it does not understand.
        sock.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        # An end that never comes must not keep the thread for ever.
        sock.settimeout(PATIENCE)
        for attempt in range(1, _ATTEMPTS + 1):
            asked = answers.numbered(request, attempt)
            sock.send(asked)
            found: list[bytes] = []
            if _read_once(sock, asked, found):
                return found
    text = f"the kernel's state changed during each of {_ATTEMPTS} attempts to read it"
    raise ObservationError(text)


def _read_once(sock: socket.socket, asked: bytes, found: list[bytes]) -> bool:
    """Read to the end; False when what was *found* does not fit together."""
    sequence = codec.unpack(codec.HEADER, asked, 0)[3]
    consistent = True
    while True:
        datagram, _, cut, _ = sock.recvmsg(_RECEIVE)
        if cut & socket.MSG_TRUNC:
            text = f"an answer of more than {_RECEIVE} bytes"
            raise ObservationError(text)
        for message in codec.split(datagram):
            _, kind, flags, number, _ = codec.HEADER.unpack_from(message)
            if number != sequence:
                continue
            if flags & codec.DUMP_INTERRUPTED:
                consistent = False
            if kind in {codec.DONE, codec.ERROR}:
                _end(message, is_empty=not found)
                return consistent
            if answers.is_answer(asked, message):
                found.append(message)


def _end(message: bytes, *, is_empty: bool) -> None:
    """Raise unless *message* ends a dump that is whole."""
    kind, number = codec.kind_of(message), codec.unpack(answers.ANSWER, message, 0)[5]
    if kind == codec.DONE and number == 0:
        return
    # A table without a route so far does not exist; one that has shown some cannot be missing.
    if number == -errno.ENOENT and is_empty:
        return
    raise ObservationError(
        answers.sentence(message) if number else "a dump that only says it is over"
    )
