"""The socket that asks the kernel for changes.

``Channel`` is the way from an announcement to a route: one ``send`` for all messages and, in the
usual case, one ``recv``. What the kernel answers never raises here; a refusal is an errno.
"""

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final, Self

from handover_nodeagent.kernel.netlink import answers, codec

# linux/socket.h, and NETLINK_CAP_ACK and NETLINK_EXT_ACK of linux/netlink.h.
_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11

BATCH: Final = 64
"""Messages per ``send``: the refusals of all of them fit the receive buffer."""
RECEIVE: Final = 64 * 1024
# So that no batch runs over the end of the field's 32 bits: its answers are told by distance.
_MAX_SEQUENCE: Final = 0xFFFFFFFF - BATCH
_FLAGS: Final = struct.Struct("=H")
_FLAGS_AT: Final = 6


class Channel:
    """A synchronous request socket, for one thread: the loop's.

    ``port`` is the number by which notifications name who caused them.
    """

    def __init__(self, *, receive_buffer: int = 0) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        # A refusal comes without a copy of the refused message, but with the kernel's sentence.
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.bind((0, 0))
        # Looked up once, not for each route on the way from its announcement.
        self._send = self._socket.send
        self._receive = self._socket.recv
        self._sequence = 0
        self.port: int = self._socket.getsockname()[0]

    def transact(self, requests: Sequence[bytes]) -> answers.Results:
        """Send all *requests* in order and return an errno for each; 0 is success.

        The kernel goes on after a refused message. ENOBUFS: nobody knows what became of it;
        observe. It waits for nothing but the kernel's own work.
        """
        results: list[int] = []
        refusals: dict[int, bytes] = {}
        for start in range(0, len(requests), BATCH):
            numbers, refused = self._exchange(requests[start : start + BATCH])
            results += numbers
            refusals |= {start + index: answer for index, answer in refused.items()}
        return answers.Results(results, refusals)

    def ask(self, request: bytes) -> bytes | int:
        """Return the one message that answers *request*, or an errno; never 0.

        What answers with another type, or for another family, is no answer: EPROTO.
        """
        self._sequence = self._sequence % _MAX_SEQUENCE + 1
        try:
            self._send(answers.numbered(request, self._sequence))
            while True:
                answer = self._receive(RECEIVE)
                if len(answer) < answers.ANSWER.size:
                    continue
                _, kind, _, sequence, _, number = answers.ANSWER.unpack_from(answer)
                if sequence != self._sequence:
                    continue
                if kind == codec.ERROR:
                    return -number or errno.EPROTO
                return answer if answers.is_answer(request, answer) else errno.EPROTO
        except OSError as error:
            return error.errno or errno.EIO

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, requests: Sequence[bytes]) -> tuple[list[int], dict[int, bytes]]:
        """Send one batch; only its last message asks for an ack, refusals come unasked.

        Return an errno for each, and the refusals by their place in the batch.
        """
        first = self._sequence = self._sequence % _MAX_SEQUENCE + 1
        batch = bytearray(b"".join(requests))
        start = last = 0
        for request in requests:
            answers.WORD.pack_into(batch, start + answers.SEQUENCE_AT, self._sequence)
            self._sequence += 1
            last = start
            start += len(request)
        # The field as a whole: where its low byte lies depends on the machine's byte order.
        (flags,) = _FLAGS.unpack_from(batch, last + _FLAGS_AT)
        _FLAGS.pack_into(batch, last + _FLAGS_AT, flags | codec.ACK)
        try:
            self._send(batch)
        except OSError as error:
            return [error.errno or errno.EIO] * len(requests), {}
        return self._collect(first, len(requests))

    def _collect(self, first: int, count: int) -> tuple[list[int], dict[int, bytes]]:
        """Read the answers: all there are lie in the queue before ``send`` returns."""
        results = [0] * count
        refusals: dict[int, bytes] = {}
        dropped = 0
        while True:
            try:
                answer = self._receive(RECEIVE)
            except OSError as error:
                # The kernel says so once when it had to drop answers; then come those it kept.
                if error.errno == errno.ENOBUFS and not dropped:
                    dropped = errno.ENOBUFS
                    continue
                return [number or errno.ENOBUFS for number in results], refusals
            if len(answer) < answers.ANSWER.size:
                continue
            _, kind, _, sequence, _, number = answers.ANSWER.unpack_from(answer)
            index = sequence - first
            if kind != codec.ERROR or not 0 <= index < count:
                continue
            if number:
                results[index] = -number
                refusals[index] = answer
            if index == count - 1:
                return [number or dropped for number in results], refusals
