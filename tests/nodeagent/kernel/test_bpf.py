"""The assembler: names become distances, and bytes what the kernel reads."""

import struct

import pytest

from handover_nodeagent.kernel import bpf
from handover_nodeagent.kernel.bpf import Instruction, Step


def test_a_jump_leads_to_the_next_place_of_that_name() -> None:
    program = bpf.assemble(
        (
            Step(bpf.IF_EQUAL, 1, "end", "other"),
            Step(bpf.LOAD_LENGTH),
            *("end", Step(bpf.RETURN, 1)),
            *("other", Step(bpf.IF_EQUAL, 2, "", "end")),
            Step(bpf.RETURN, 2),
            *("end", Step(bpf.RETURN, 3)),
        )
    )
    jumps = [(each.jump_true, each.jump_false) for each in program]
    assert jumps == [(1, 2), (0, 0), (0, 0), (0, 1), (0, 0), (0, 0)]
    assert [each.k for each in program] == [1, 0, 1, 2, 2, 3]


@pytest.mark.parametrize("label", ["nowhere", "before", "far"])
def test_a_jump_that_cannot_be_is_refused(label: str) -> None:
    rest = [Step(bpf.LOAD_NUMBER)] * 256
    source: bpf.Source = ("before", Step(bpf.IF_EQUAL, 0, label), *rest, "far", Step(bpf.RETURN))
    with pytest.raises(ValueError, match=f"'{label}'.* cannot jump so far"):
        bpf.assemble(source)


def test_a_jump_to_nowhere_is_refused_also_at_the_very_end() -> None:
    with pytest.raises(ValueError, match="'nowhere'"):
        bpf.assemble([Step(bpf.IF_EQUAL, 0, "nowhere")])


def test_a_jump_may_be_as_long_as_its_field_says() -> None:
    rest = [Step(bpf.LOAD_NUMBER)] * 255
    program = bpf.assemble([Step(bpf.IF_EQUAL, 0, "far"), *rest, "far", Step(bpf.RETURN)])
    assert program[0] == Instruction(bpf.IF_EQUAL, 255, 0, 0)


def test_a_program_keeps_all_of_a_packet_by_the_largest_number_of_its_field() -> None:
    keeping = bpf.assemble([Step(bpf.LOAD_NUMBER, 1), Step(bpf.RETURN, bpf.EVERYTHING)])
    assert bpf.pack(keeping) == struct.pack("=HBBI", 0, 0, 0, 1) + b"\x06\0\0\0\xff\xff\xff\xff"


def test_the_kernel_gets_it_as_an_array_of_eight_bytes_each() -> None:
    program = (Instruction(0x15, 1, 2, 0x08060001), *bpf.DROP_ALL)
    expected = struct.pack("=HBBI", 0x15, 1, 2, 0x08060001) + struct.pack("=HBBI", 6, 0, 0, 0)
    assert bpf.pack(program) == expected
