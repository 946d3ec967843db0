"""What there is in the kernel: a dump, read to its end or not at all.

It blocks, so it runs in a thread, never in the loop. A dump that is not whole is an
ObservationError (``answers.Dump``).
"""

import errno
import socket
from typing import Final

from handover_nodeagent.kernel.netlink import answers
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

    Runs in a thread, never in the loop. Raises ObservationError.
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
            answer = answers.Dump(answers.numbered(request, attempt))
            sock.send(answer.asked)
            _receive(sock, answer)
            if answer.is_consistent:
                return answer.messages
    text = f"the kernel's state changed during each of {_ATTEMPTS} attempts to read it"
    raise ObservationError(text)


def _receive(sock: socket.socket, answer: answers.Dump) -> None:
    """Let *answer* take all that comes, to its end."""
    is_over = False
    while not is_over:
        datagram, _, cut, _ = sock.recvmsg(_RECEIVE)
        if cut & socket.MSG_TRUNC:
            text = f"an answer of more than {_RECEIVE} bytes"
            raise ObservationError(text)
        is_over = answer.take(datagram)
