"""The socket that asks the kernel for changes, and the dump that asks what there is.

``Channel`` is the way from an announcement to a route: one ``send`` for all messages and, in the
usual case, one ``recv``. What the kernel answers never raises here; a refusal is an errno.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, Self

from handover_nodeagent.kernel.netlink import codec

_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_STRICT_CHECK: Final = 12

BATCH: Final = 64
"""Messages per ``send``: the refusals of all of them fit the receive buffer."""
RECEIVE: Final = 64 * 1024
_MAX_SEQUENCE: Final = 0xFFFFFFFF - BATCH
_ATTEMPTS: Final = 8
DUMP_PATIENCE: Final = 10.0
"""Seconds for which a dump waits for its next datagram; the kernel takes milliseconds."""

ObservationError = codec.ObservationError

_ANSWER: Final = struct.Struct("=IHHIIi")
"""A header and the negative errno behind it."""
_WORD: Final = struct.Struct("=I")
_FLAGS: Final = struct.Struct("=H")
_FLAGS_AT: Final = 6
_SEQUENCE_AT: Final = 8
_FAMILY_AT: Final = codec.HEADER.size
_GET_AFTER_NEW: Final = 2
_HAS_TLVS: Final = 0x200
_ERROR_TEXT: Final = 1


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
        self._send = self._socket.send
        self._receive = self._socket.recv
        self._sequence = 0
        self._refusals: dict[int, bytes] = {}
        self.port: int = self._socket.getsockname()[0]

    def transact(self, requests: Sequence[bytes]) -> list[int]:
        """Send all *requests* in order and return an errno for each; 0 is success.

        The kernel goes on after a refused message. ENOBUFS: nobody knows what became of it;
        observe. It waits for nothing but the kernel's own work.
        """
        self._refusals.clear()
        results: list[int] = []
        for start in range(0, len(requests), BATCH):
            results += self._exchange(requests[start : start + BATCH], start)
        return results

    def explain(self, position: int) -> str:
        """Say why the message at *position* of the last ``transact`` was refused; "" if not."""
        answer = self._refusals.get(position)
        return sentence(answer) if answer else ""

    def ask(self, request: bytes) -> bytes | int:
        """Return the one message that answers *request*, or an errno; never 0.

        What answers with another type, or for another family, is no answer: EPROTO.
        """
        self._sequence = self._sequence % _MAX_SEQUENCE + 1
        try:
            self._send(numbered(request, self._sequence))
            while True:
                answer = self._receive(RECEIVE)
                if len(answer) < _ANSWER.size:
                    continue
                _, kind, _, sequence, _, number = _ANSWER.unpack_from(answer)
                if sequence != self._sequence:
                    continue
                if kind == codec.ERROR:
                    return -number or errno.EPROTO
                return answer if _answers(request, answer) else errno.EPROTO
        except OSError as error:
            return error.errno or errno.EIO

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, requests: Sequence[bytes], position: int) -> list[int]:
        """Send one batch; only its last message asks for an ack, refusals come unasked."""
        first = self._sequence = self._sequence % _MAX_SEQUENCE + 1
        batch = bytearray(b"".join(requests))
        start = last = 0
        for request in requests:
            _WORD.pack_into(batch, start + _SEQUENCE_AT, self._sequence)
            self._sequence += 1
            last = start
            start += len(request)
        # The field as a whole: where its low byte lies depends on the machine's byte order.
        (flags,) = _FLAGS.unpack_from(batch, last + _FLAGS_AT)
        _FLAGS.pack_into(batch, last + _FLAGS_AT, flags | codec.ACK)
        try:
            self._send(batch)
        except OSError as error:
            return [error.errno or errno.EIO] * len(requests)
        return self._collect(first, len(requests), position)

    def _collect(self, first: int, count: int, position: int) -> list[int]:
        """Read the answers: all there are lie in the queue before ``send`` returns."""
        results = [0] * count
        dropped = 0
        while True:
            try:
                answer = self._receive(RECEIVE)
            except OSError as error:
                # The kernel says so once when it had to drop answers; then come those it kept.
                if error.errno == errno.ENOBUFS and not dropped:
                    dropped = errno.ENOBUFS
                    continue
                return [number or errno.ENOBUFS for number in results]
            if len(answer) < _ANSWER.size:
                continue
            _, kind, _, sequence, _, number = _ANSWER.unpack_from(answer)
            index = sequence - first
            if kind != codec.ERROR or not 0 <= index < count:
                continue
            if number:
                results[index] = -number
                self._refusals[position + index] = answer
            if index == count - 1:
                return [number or dropped for number in results] if dropped else results


def dump(request: bytes) -> list[bytes]:
    """Return the messages that answer *request*; what a change interrupted is read again.

    Those of another type or family are left out: a kernel without IPv6 answers a question for
    IPv6 routes with the IPv4 ones. Runs in a thread, never in the loop. Raises ObservationError.
    """
    try:
        return _dump(request)
    except OSError as error:
        raise ObservationError(describe(error.errno or errno.ETIMEDOUT)) from error


def _dump(request: bytes) -> list[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        # Only so does the kernel filter, and refuse what it does not understand.
        sock.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        # An end that never comes must not keep the thread for ever.
        sock.settimeout(DUMP_PATIENCE)
        for attempt in range(1, _ATTEMPTS + 1):
            asked = numbered(request, attempt)
            sock.send(asked)
            found: list[bytes] = []
            if _read_dump(sock, asked, found):
                return found
    text = f"the kernel's state changed during each of {_ATTEMPTS} attempts to read it"
    raise ObservationError(text)


def _read_dump(sock: socket.socket, asked: bytes, found: list[bytes]) -> bool:
    """Read to the end; False when what was *found* does not fit together."""
    sequence = codec.unpack(codec.HEADER, asked, 0)[3]
    consistent = True
    while True:
        datagram, _, cut, _ = sock.recvmsg(RECEIVE)
        if cut & socket.MSG_TRUNC:
            text = f"an answer of more than {RECEIVE} bytes"
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
            if _answers(asked, message):
                found.append(message)


def _end(message: bytes, *, is_empty: bool) -> None:
    """Raise unless *message* ends a dump that is whole."""
    kind, number = codec.kind_of(message), codec.unpack(_ANSWER, message, 0)[5]
    if kind == codec.DONE and number == 0:
        return
    # A table without a route so far does not exist; one that has shown some cannot be missing.
    if number == -errno.ENOENT and is_empty:
        return
    raise ObservationError(sentence(message) if number else "a dump that only says it is over")


def _answers(request: bytes, message: bytes) -> bool:
    """Tell whether *message* is of the type and the family that *request* asks for.

    Each rtnetlink GET has the number of its NEW and two more; the family is the first byte behind
    the header, and 0 asks for all.
    """
    if codec.kind_of(message) != codec.kind_of(request) - _GET_AFTER_NEW:
        return False
    family = request[_FAMILY_AT]
    return len(message) > _FAMILY_AT and family in {0, message[_FAMILY_AT]}


def numbered(request: bytes, sequence: int) -> bytes:
    """Return *request* with its sequence number."""
    return request[:_SEQUENCE_AT] + _WORD.pack(sequence) + request[_SEQUENCE_AT + _WORD.size :]


def sentence(answer: bytes) -> str:
    """Read the errno and, where the kernel gives one, its sentence from a refusal."""
    _, _, flags, _, _, number = codec.unpack(_ANSWER, answer, 0)
    text = describe(-number)
    if flags & _HAS_TLVS:
        # A refusal repeats the header of what it refuses, the end of a dump does not.
        start = _ANSWER.size
        start += codec.HEADER.size if codec.kind_of(answer) == codec.ERROR else 0
        try:
            reason = codec.attributes(answer, start).get(_ERROR_TEXT)
        except codec.MalformedError:
            return text
        text += f" ({codec.to_text(reason)})" if reason else ""
    return text


def describe(number: int) -> str:
    """Return the errno's sentence; for a missing privilege what to do."""
    if number == errno.EPERM:
        return "Operation not permitted: CAP_NET_ADMIN is missing"
    return os.strerror(number) if number in errno.errorcode else f"errno {number}"
