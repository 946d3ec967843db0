"""PURE: what the kernel answers: to which request, why one was refused, whether a dump is whole."""

import errno
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from handover_nodeagent.kernel.netlink import codec

ANSWER: Final = struct.Struct("=IHHIIi")
"""struct nlmsghdr and what begins struct nlmsgerr of linux/netlink.h: the negative errno. The end
of a dump (NLMSG_DONE) has a number in the same place."""
WORD: Final = struct.Struct("=I")
SEQUENCE_AT: Final = 8
_FAMILY_AT: Final = codec.HEADER.size
# linux/rtnetlink.h numbers NEW, DEL and GET of each kind in a row.
_GET_AFTER_NEW: Final = 2
_HAS_TLVS: Final = 0x200
"""NLM_F_ACK_TLVS: attributes follow, as NETLINK_EXT_ACK has asked for."""
_ERROR_TEXT: Final = 1
"""NLMSGERR_ATTR_MSG."""


class Dump:
    """What answers *asked*, a question for all there is, as it comes in datagram by datagram.

    ``messages`` are those of the type and the family that were asked for: a kernel without IPv6
    answers a question for IPv6 routes with the IPv4 ones.
    """

    def __init__(self, asked: bytes) -> None:
        self.asked = asked
        self.messages: list[bytes] = []
        # False: a change interrupted it, and what is there does not fit together.
        self.is_consistent = True
        self._sequence = codec.unpack(codec.HEADER, asked, 0)[3]

    def take(self, datagram: bytes) -> bool:
        """Take in what came; tell whether it is the end. Raises ObservationError.

        Whoever compares with what is desired takes what is missing for gone: so nothing but the
        end of a dump that is whole is one.
        """
        for message in codec.split(datagram):
            _, kind, flags, number, _ = codec.HEADER.unpack_from(message)
            # The rest of an attempt before this one.
            if number != self._sequence:
                continue
            if flags & codec.DUMP_INTERRUPTED:
                self.is_consistent = False
            if kind in {codec.DONE, codec.ERROR}:
                self._end(message)
                return True
            if is_answer(self.asked, message):
                self.messages.append(message)
        return False

    def _end(self, message: bytes) -> None:
        """Raise unless *message* ends a dump that is whole."""
        kind, number = codec.kind_of(message), codec.unpack(ANSWER, message, 0)[5]
        if kind == codec.DONE and number == 0:
            return
        # A table without a route so far does not exist; one that has shown some cannot be missing.
        if number == -errno.ENOENT and not self.messages:
            return
        text = sentence(message) if number else "a dump that only says it is over"
        raise codec.ObservationError(text)


class Results(list[int]):
    """What became of each request of one exchange, in their order: 0, or the errno."""

    __slots__ = ("_refusals",)

    def __init__(
        self, results: Iterable[int] = (), refusals: Mapping[int, bytes] | None = None
    ) -> None:
        """Take the *refusals* as they came, by position; most are never put into words."""
        super().__init__(results)
        self._refusals = refusals or {}

    def explain(self, position: int) -> str:
        """Say why the request at *position* was refused; "" if it was not."""
        answer = self._refusals.get(position)
        return sentence(answer) if answer else ""


def is_answer(request: bytes, message: bytes) -> bool:
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
    return request[:SEQUENCE_AT] + WORD.pack(sequence) + request[SEQUENCE_AT + WORD.size :]


def sentence(answer: bytes) -> str:
    """Read the errno and, where the kernel gives one, its sentence from a refusal."""
    _, _, flags, _, _, number = codec.unpack(ANSWER, answer, 0)
    text = describe(-number)
    if flags & _HAS_TLVS:
        # A refusal repeats the header of what it refuses, the end of a dump does not.
        start = ANSWER.size
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
    # strerror makes up a text for any number.
    return os.strerror(number) if number in errno.errorcode else f"errno {number}"
