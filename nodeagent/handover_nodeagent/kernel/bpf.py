"""PURE: an assembler for classic BPF: programs whose jumps have names.

Both filters of the agent are written for it: what an endpoint's packet socket shows us, and which
notifications of netlink wake us. The kernel's side of it: Documentation/networking/filter.rst.
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

# A code is a class, a size or an operation, and an addressing mode, as the macros BPF_STMT and
# BPF_JUMP of linux/filter.h put them together from those of linux/bpf_common.h. A load behind the
# end of the packet ends the program, and the packet is dropped.
LOAD_WORD: Final = 0x20  # A = 4 bytes at k, big-endian, as all loads
LOAD_HALF: Final = 0x28  # A = 2 bytes at k
LOAD_BYTE: Final = 0x30  # A = 1 byte at k
LOAD_WORD_X: Final = 0x40  # A = 4 bytes at X + k
LOAD_HALF_X: Final = 0x48  # A = 2 bytes at X + k
LOAD_BYTE_X: Final = 0x50  # A = 1 byte at X + k
LOAD_LENGTH: Final = 0x80  # A = the packet's length
LOAD_NUMBER: Final = 0x00  # A = k
LOAD_MEMORY: Final = 0x60  # A = M[k]
STORE: Final = 0x02  # M[k] = A
SET_X: Final = 0x01  # X = k
LOAD_X: Final = 0x61  # X = M[k]
STORE_X: Final = 0x03  # M[k] = X
COPY_TO_X: Final = 0x07  # X = A
ADD: Final = 0x04  # A += k
ADD_X: Final = 0x0C  # A += X
AND: Final = 0x54  # A &= k
IF_EQUAL: Final = 0x15  # A == k
IF_EQUAL_X: Final = 0x1D  # A == X
IF_AT_LEAST: Final = 0x35  # A >= k
IF_AT_LEAST_X: Final = 0x3D  # A >= X
IF_ANY_BIT: Final = 0x45  # A & k
RETURN: Final = 0x06  # k bytes of the packet are kept; 0 drops it

ANCILLARY: Final = 0xFFFFF000
"""SKF_AD_OFF: a load from here on is one of the SKF_AD_ numbers, not of the packet."""

EVERYTHING: Final = 0xFFFFFFFF
_FARTHEST: Final = 255
"""A jump's field has 8 bits."""
_NOWHERE: Final = -_FARTHEST - 1
_FILTER: Final = struct.Struct("=HBBI")
"""struct sock_filter of linux/filter.h: code, jump if true, jump if false, k."""


class Instruction(NamedTuple):
    """One ``struct sock_filter``; the jumps skip that many instructions."""

    code: int
    jump_true: int
    jump_false: int
    k: int


Program = tuple[Instruction, ...]

DROP_ALL: Final[Program] = (Instruction(RETURN, 0, 0, 0),)


class Step(NamedTuple):
    """An instruction before its jumps are distances; "" goes on with the next one."""

    code: int
    k: int = 0
    true: str = ""
    false: str = ""


Source = Iterable[Step | str]
"""Steps, and between them the labels to which they jump."""


def assemble(source: Source) -> Program:
    """Turn names into distances: a jump leads to the *next* place that has the label.

    So the same label may stand at the end of each part. Raises ValueError for one that is not
    there, or too far away.
    """
    lines = tuple(source)
    nearest: dict[str, int] = {}
    # From the end: BPF jumps forwards only, so that what a step can reach is known by then.
    backwards: list[Instruction] = []
    for line in reversed(lines):
        behind = len(backwards)
        if isinstance(line, str):
            nearest[line] = behind
            continue
        code, k, true, false = line
        jump_true = behind - nearest.get(true, _NOWHERE) if true else 0
        jump_false = behind - nearest.get(false, _NOWHERE) if false else 0
        if max(jump_true, jump_false) > _FARTHEST:
            text = f"{line} cannot jump so far, or there is no such place"
            raise ValueError(text)
        backwards.append(Instruction(code, jump_true, jump_false, k))
    return tuple(reversed(backwards))


def pack(program: Program) -> bytes:
    """Return *program* as the kernel reads it: an array of ``struct sock_filter``."""
    return b"".join(_FILTER.pack(*instruction) for instruction in program)
