"""A small interpreter of classic BPF (linux/filter.h), which is told what only a kernel knows."""

from collections.abc import Mapping
from typing import Final

from handover_nodeagent.kernel.bpf import Program

# linux/bpf_common.h: the class of a code, and what the operand of an operation is.
CLASS, ALU, JUMP, MISC, RETURN = 0x07, 0x04, 0x05, 0x07, 0x06
OPERAND_X, LENGTH = 0x08, 0x80
SKF_AD_OFF: Final = 0xFFFFF000
SIZES, INDIRECT = {0x00: 4, 0x08: 2, 0x10: 1}, 0x40


def run(program: Program, octets: bytes, ancillary: Mapping[int, int]) -> int:
    """Return how many octets *program* keeps of a frame; *ancillary* is by SKF_AD_ number."""
    special = {SKF_AD_OFF + number: value for number, value in ancillary.items()}
    memory: dict[int, int] = {}
    a = x = at = 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        if code == RETURN:
            return k
        if code & CLASS == JUMP:
            other = x if code & OPERAND_X else k
            tests = {0x10: a == other, 0x20: a > other, 0x30: a >= other}
            at += yes if tests.get(code & 0xF0, a & other) else no
        elif code & 0xE7 in {0x20, INDIRECT}:
            size, start = SIZES[code & 0x18], k + (x if code & INDIRECT else 0)
            if start not in special and start + size > len(octets):
                return 0
            a = special.get(start, int.from_bytes(octets[start : start + size], "big"))
        elif code in {0x02, 0x03}:
            memory[k] = a if code == 0x02 else x
        elif code in {0x01, 0x61, MISC}:
            x = {0x01: k, 0x61: memory.get(k, 0), MISC: a}[code]
        else:
            results = {LENGTH: len(octets), 0x60: memory.get(k, 0)}
            results |= {0x04: a + k, 0x0C: a + x, 0x54: a & k}
            a = results[code] % 2**32
