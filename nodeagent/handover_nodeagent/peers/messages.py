"""PURE: what agents say to each other, as bytes; knows no peer and believes nothing.

One datagram is one message. All begin with version and kind, and a kind has one size: whatever is
longer, shorter, or of a version or kind that is not known here is refused as a whole, so that an
older agent never misreads a newer one's. All numbers are big-endian. Signed kinds:

=========  ====  ==========================================================================
from byte  size
=========  ====  ==========================================================================
0          1     version: 1
1          1     kind
2          8     key id: how the sender's public key begins
10         8     boot: when the sender started, in ns; the same as long as its key
18         8     sequence: grows with each message that the sender signs
26         16    subject: which endpoint and migration it speaks of (``subject``)
42         16    nonce: of a statement or HELLO its own, of an answer what it answers
58               HELLO: way (1), said (8), promise (32)
58               HELLO-ANSWER: way (1), said (8), received (8), sent (8), promise (32)
58               HAVE, RELEASED: nothing
58               ACK: received (8), done (8), last frame (8), its error (8)
end - 64   64    Ed25519 of all before it
=========  ====  ==========================================================================

A bystander's ACK is version, kind, the nonce (16), received (8) and done (8), unsigned: it stops a
repetition and times a node, and whoever could forge it could as well drop the datagrams. Times are
nanoseconds of the sender's realtime clock, 0 where there is none.
"""

import enum
import hashlib
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from handover_api.names import ObjectKey

VERSION: Final = 1
MOST: Final = 200
"""Bytes of a message: below any path's MTU, so that no IP fragment has to be kept for it."""
SIGNATURE: Final = 64
KEY_ID: Final = 8
"""Bytes that choose among the few keys that the API has given; the signature proves."""
NONCE: Final = 16
NEVER: Final = 0
"""The sequence that nothing has, and the time at which nothing was."""
NO_PROMISE: Final = bytes(32)
"""The digest that nothing has."""

_HEADER: Final = struct.Struct("!BB8sQQ16s16s")
_HELLO: Final = struct.Struct("!BQ32s")
_HELLO_ANSWER: Final = struct.Struct("!BQQQ32s")
_ACK: Final = struct.Struct("!QQQQ")
_BYSTANDER_ACK: Final = struct.Struct("!BB16sQQ")


class Kind(enum.IntEnum):
    """The second byte; a number that was ever given stays its kind's."""

    HELLO = 1
    HELLO_ANSWER = 2
    HAVE = 3
    RELEASED = 4
    ACK = 5
    BYSTANDER_ACK = 6


STATEMENTS: Final = frozenset({Kind.HAVE, Kind.RELEASED})
"""What says who has the guest."""


class Way(enum.IntEnum):
    """How a HELLO travels: signed, so that none that came plainly proves the tunnel."""

    PLAIN = 1
    TUNNEL = 2


class Malformed(enum.Enum):
    """Why bytes are no message; the values are a metric's."""

    SIZE = "Size"
    VERSION = "Version"
    KIND = "Kind"
    WAY = "Way"


class Header(NamedTuple):
    """What all signed messages have; the layout is the module's."""

    kind: Kind
    key_id: bytes
    boot: int
    sequence: int
    subject: bytes
    nonce: bytes


class Hello(NamedTuple):
    """Asks a peer whether it hears us.

    ``said``: the sequence of the sender's last statement on the subject; older ones are void.
    ``promise``: the ``digest`` of the HAVE that it has ready, to be known by that when it comes.
    """

    way: Way
    said: int
    promise: bytes = NO_PROMISE


class HelloAnswer(NamedTuple):
    """Answers a HELLO; ``way`` is the one by which that came."""

    way: Way
    said: int
    received_ns: int
    sent_ns: int
    promise: bytes = NO_PROMISE


class Times(NamedTuple):
    """An ACK's: when the statement came, when all was done, the guest's last frame before.

    That one was heard at ``last_frame_ns``, or earlier by the error: the kernel tells it in blocks.
    """

    received_ns: int
    done_ns: int
    last_frame_ns: int = NEVER
    last_frame_error_ns: int = 0


class Statement(NamedTuple):
    """HAVE or RELEASED: the kind says it all."""


Body = Hello | HelloAnswer | Times | Statement


class Signed(NamedTuple):
    """A signed message, read but not verified: ``signature`` is for all of ``text``."""

    header: Header
    body: Body
    text: bytes
    signature: bytes


class BystanderAck(NamedTuple):
    """An unsigned answer to a HAVE that went to all nodes."""

    nonce: bytes
    times: Times


Message = Signed | BystanderAck

_SIZES: Final[Mapping[Kind, int]] = {
    Kind.HELLO: _HEADER.size + _HELLO.size + SIGNATURE,
    Kind.HELLO_ANSWER: _HEADER.size + _HELLO_ANSWER.size + SIGNATURE,
    Kind.HAVE: _HEADER.size + SIGNATURE,
    Kind.RELEASED: _HEADER.size + SIGNATURE,
    Kind.ACK: _HEADER.size + _ACK.size + SIGNATURE,
    Kind.BYSTANDER_ACK: _BYSTANDER_ACK.size,
}
_LEAST: Final = min(_SIZES.values())
_KINDS: Final = frozenset(_SIZES)
_WAYS: Final = frozenset(Way)


def subject(endpoint: ObjectKey, uid: str) -> bytes:
    """Name the *endpoint* that a sender speaks for and the migration: of one size, whatever both.

    "/" stands in no name of Kubernetes and NUL in no text of its API, so no two pairs are alike.
    """
    return hashlib.sha256(f"{endpoint}\0{uid}".encode()).digest()[:16]


def digest(datagram: bytes) -> bytes:
    """Return by what a datagram is known before it comes: its BLAKE2s (RFC 7693)."""
    # By Python's own code: OpenSSL's takes longer, the more so where nobody has used it lately.
    return hashlib.blake2s(datagram).digest()


def compose(header: Header, body: Body) -> bytes:
    """Return the text of a message, to be signed; the signature follows it."""
    return _HEADER.pack(VERSION, *header) + _compose_body(body)


def compose_bystander_ack(nonce: bytes, times: Times) -> bytes:
    """Return a whole message, which has no signature."""
    kind = Kind.BYSTANDER_ACK
    return _BYSTANDER_ACK.pack(VERSION, kind, nonce, times.received_ns, times.done_ns)


def read(octets: bytes) -> Message | Malformed:
    """Return the message; no bytes whatsoever raise."""
    kind = _read_kind(octets)
    if isinstance(kind, Malformed):
        return kind
    if kind is Kind.BYSTANDER_ACK:
        _, _, nonce, received, done = _BYSTANDER_ACK.unpack(octets)
        return BystanderAck(nonce, Times(received, done))
    text, signature = octets[:-SIGNATURE], octets[-SIGNATURE:]
    body = _read_body(kind, text[_HEADER.size :])
    if isinstance(body, Malformed):
        return body
    return Signed(Header(kind, *_HEADER.unpack_from(text)[2:]), body, text, signature)


def _read_kind(octets: bytes) -> Kind | Malformed:
    if not _LEAST <= len(octets) <= MOST:
        return Malformed.SIZE
    # Before anything else is looked at: only the first byte means the same in every version.
    if octets[0] != VERSION:
        return Malformed.VERSION
    if octets[1] not in _KINDS:
        return Malformed.KIND
    kind = Kind(octets[1])
    return kind if len(octets) == _SIZES[kind] else Malformed.SIZE


def _compose_body(body: Body) -> bytes:
    match body:
        case Hello():
            return _HELLO.pack(*body)
        case HelloAnswer():
            return _HELLO_ANSWER.pack(*body)
        case Times():
            return _ACK.pack(*body)
        case Statement():
            return b""


def _read_body(kind: Kind, octets: bytes) -> Body | Malformed:
    if kind in STATEMENTS:
        return Statement()
    if kind is Kind.ACK:
        return Times(*_ACK.unpack(octets))
    if octets[0] not in _WAYS:
        return Malformed.WAY
    if kind is Kind.HELLO:
        way, *rest = _HELLO.unpack(octets)
        return Hello(Way(way), *rest)
    way, *rest = _HELLO_ANSWER.unpack(octets)
    return HelloAnswer(Way(way), *rest)
