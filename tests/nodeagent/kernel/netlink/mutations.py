"""What could come of a kernel's netlink answer: of another family, cut, with lengths that lie."""

import contextlib
import os
import random
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from handover_nodeagent.kernel.netlink import codec

SECONDS: Final = float(os.environ.get("HANDOVER_FUZZ_SECONDS", "2"))
"""For which each fuzzer goes on; `make fuzz` sets more."""
FIXED: Final = range(10)
"""Seeds that are tried in each run, before fresh ones."""

_DONE: Final = codec.compose(codec.DONE, 2, bytes(4))
_FLAGS_AT: Final = 6
_BODY_AT: Final = codec.HEADER.size
_ATTRIBUTES_AT: Final = {16: 32, 17: 32, 20: 24, 21: 24, 24: 28, 25: 28, 28: 28, 29: 28}
_ERRNOS: Final = (0, 1, 2, 4, 11, 12, 16, 17, 19, 22, 95, 101, 105, 110, 0x7FFFFFFF)
_EDGES: Final = (0, 1, 3, 4, 5, 0x7F, 0xFF, 0xFFFF)

Datagrams = list[bytes]


def seeds(seconds: float = SECONDS) -> Iterator[int]:
    """Give the fixed seeds, then fresh ones until the time is over; or the one asked for."""
    wanted = os.environ.get("HANDOVER_FUZZ_SEED")
    if wanted:
        yield int(wanted)
        return
    yield from FIXED
    until, system = time.monotonic() + seconds, random.SystemRandom()
    while time.monotonic() < until:
        yield system.getrandbits(32)


@contextlib.contextmanager
def named(seed: int) -> Iterator[random.Random]:
    """Give the dice of one seed, which a failure names."""
    try:
        yield random.Random(seed)  # noqa: S311  dice, no secret
    except Exception as error:
        error.add_note(f"repeat with HANDOVER_FUZZ_SEED={seed}")
        raise


def mutate(dice: random.Random, datagrams: Sequence[bytes]) -> Datagrams:
    """Make one to three mutations of a whole answer."""
    mutated = list(datagrams)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        mutated = dice.choice(_OF_ANSWERS)(dice, mutated)
    return mutated


def mutate_message(dice: random.Random, message: bytes) -> bytes:
    """Make one mutation of one message."""
    return dice.choice(_OF_MESSAGES)(dice, bytearray(message)) if message else message


# Of one message.


def _other_family(dice: random.Random, message: bytearray) -> bytes:
    if len(message) > _BODY_AT:
        message[_BODY_AT] = dice.choice((0, 2, 7, 10, 12, 28, 128, 255))
    return bytes(message)


def _other_type(dice: random.Random, message: bytearray) -> bytes:
    struct.pack_into("=H", message, 4, dice.choice((*range(36), 0xFFFF)))
    return bytes(message)


def _other_flags(dice: random.Random, message: bytearray) -> bytes:
    flags = struct.unpack_from("=H", message, _FLAGS_AT)[0] ^ 1 << dice.randrange(16)
    struct.pack_into("=H", message, _FLAGS_AT, flags)
    return bytes(message)


def _interrupted(dice: random.Random, message: bytearray) -> bytes:
    del dice
    message[_FLAGS_AT] |= codec.DUMP_INTERRUPTED
    return bytes(message)


def _lying_length(dice: random.Random, message: bytearray) -> bytes:
    near = len(message) + dice.randint(-8, 8)
    struct.pack_into("=I", message, 0, dice.choice((*_EDGES, max(0, near), 0xFFFFFFFF)))
    return bytes(message)


def _cut(dice: random.Random, message: bytearray) -> bytes:
    """Cut it, and let its header agree as often as not."""
    kept = message[: dice.randrange(len(message))]
    if len(kept) >= _BODY_AT and dice.random() < 0.5:
        struct.pack_into("=I", kept, 0, len(kept))
    return bytes(kept)


def _flipped(dice: random.Random, message: bytearray) -> bytes:
    for _ in range(dice.choice((1, 1, 2, 8))):
        message[dice.randrange(len(message))] ^= 1 << dice.randrange(8)
    return bytes(message)


def _edge(dice: random.Random, message: bytearray) -> bytes:
    message[dice.randrange(len(message))] = dice.choice(_EDGES) & 0xFF
    return bytes(message)


def _other_attribute(dice: random.Random, message: bytearray) -> bytes:
    """Change kind or length of one attribute; as often as not kinds that nobody knows."""
    start = _ATTRIBUTES_AT.get(struct.unpack_from("=H", message, 4)[0], 28)
    places: list[int] = []
    while start + 4 <= len(message):
        places.append(start)
        start += max(4, (struct.unpack_from("=H", message, start)[0] + 3) & ~3)
    if places:
        at = dice.choice(places)
        if dice.random() < 0.5:
            kind = dice.choice((*range(40), 0x8001, 0x3FFF, 0xFFFF))
            struct.pack_into("=H", message, at + 2, kind)
        else:
            near = struct.unpack_from("=H", message, at)[0] + dice.randint(-4, 4)
            struct.pack_into("=H", message, at, dice.choice((*_EDGES, near)) & 0xFFFF)
    return bytes(message)


def _unknown_attribute(dice: random.Random, message: bytearray) -> bytes:
    added = codec.attribute(dice.choice((99, 0x3FF0, 0x8063)), dice.randbytes(dice.randrange(9)))
    longer = bytes(message) + bytes(-len(message) % 4) + added
    return struct.pack("=I", len(longer)) + longer[4:]


_OF_MESSAGES: Final[Sequence[Callable[[random.Random, bytearray], bytes]]] = (
    _other_family,
    _other_type,
    _other_flags,
    _interrupted,
    _lying_length,
    _cut,
    _flipped,
    _edge,
    _other_attribute,
    _other_attribute,
    _unknown_attribute,
)


# Of a whole answer.


def _one_message(dice: random.Random, datagrams: Datagrams) -> Datagrams:
    """Mutate one message where it stands."""
    parts = [list(_parts(one)) for one in datagrams]
    places = [(i, j) for i, part in enumerate(parts) for j in range(len(part))]
    if places:
        i, j = dice.choice(places)
        parts[i][j] = mutate_message(dice, parts[i][j])
    return [b"".join(one + bytes(-len(one) % 4) for one in part) for part in parts]


def _error_between(dice: random.Random, datagrams: Datagrams) -> Datagrams:
    number = struct.pack("=i", -dice.choice(_ERRNOS))
    error = codec.compose(codec.ERROR, dice.choice((0, 0x100, 0x200)), number + bytes(16))
    at = dice.randint(0, len(datagrams))
    return [*datagrams[:at], _like(error, datagrams), *datagrams[at:]]


def _no_end(dice: random.Random, datagrams: Datagrams) -> Datagrams:
    del dice
    kept = (
        b"".join(part for part in _parts(one) if codec.kind_of(part) != codec.DONE)
        for one in datagrams
    )
    return [one for one in kept if one]


def _early_end(dice: random.Random, datagrams: Datagrams) -> Datagrams:
    at = dice.randint(0, len(datagrams))
    number = struct.pack("=i", -dice.choice(_ERRNOS))
    end = codec.compose(codec.DONE, 2, number)
    return [*datagrams[:at], _like(end, datagrams), *datagrams[at:]]


def _empty(dice: random.Random, datagrams: Datagrams) -> Datagrams:
    return dice.choice(([], [b""], [_like(_DONE, datagrams)]))


def _lost_or_twice(dice: random.Random, datagrams: Datagrams) -> Datagrams:
    if not datagrams:
        return datagrams
    at = dice.randrange(len(datagrams))
    return [*datagrams[:at], *[datagrams[at]] * dice.choice((0, 2)), *datagrams[at + 1 :]]


def _cut_datagram(dice: random.Random, datagrams: Datagrams) -> Datagrams:
    if not datagrams:
        return datagrams
    at = dice.randrange(len(datagrams))
    cut = datagrams[at][: dice.randrange(len(datagrams[at]) + 1)]
    return [*datagrams[:at], cut, *datagrams[at + 1 :]]


_OF_ANSWERS: Final[Sequence[Callable[[random.Random, Datagrams], Datagrams]]] = (
    *(_one_message,) * 6,
    _error_between,
    _no_end,
    _early_end,
    _empty,
    _lost_or_twice,
    _cut_datagram,
)


def _parts(datagram: bytes) -> Iterator[bytes]:
    """Split leniently: an earlier mutation may have broken it."""
    try:
        yield from codec.split(datagram)
    except codec.MalformedError:
        return


def _like(message: bytes, datagrams: Sequence[bytes]) -> bytes:
    """Give *message* the sequence number of the answer that it comes into."""
    known = next((one for one in datagrams if len(one) >= _BODY_AT), None)
    if known is None:
        return message
    return message[:8] + known[8:12] + message[12:]
