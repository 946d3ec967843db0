"""Which frames are kept to know the last one, and how they are thinned when they are too many."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.kernel import bpf
from handover_nodeagent.sniff import own_frames
from handover_nodeagent.sniff.own_frames import CAPACITY

MAC = "52:54:00:65:00:02"


def test_the_program_compares_the_whole_mac() -> None:
    loads = (bpf.LOAD_WORD, bpf.LOAD_HALF, bpf.IF_EQUAL)
    steps = [(step.code, step.k) for step in own_frames.compile_filter(MAC) if step.code in loads]
    # The source of an Ethernet frame: six bytes behind the six of its destination.
    assert steps == [
        (bpf.LOAD_WORD, 6),
        (bpf.IF_EQUAL, 0x52540065),
        (bpf.LOAD_HALF, 10),
        (bpf.IF_EQUAL, 0x0002),
    ]


def test_a_ring_is_small_and_holds_twice_what_a_look_wants() -> None:
    assert own_frames.GEOMETRY.size == 64 * 1024
    assert own_frames.GEOMETRY.block_size == 4096
    # What a frame takes: 82 bytes before its own (TPACKET3_HDRLEN, padding), and a multiple of 8.
    frame = 82 + own_frames.SNAP_LENGTH
    assert frame % 8 == 0
    assert 16 * ((4096 - 48) // frame - 1) == own_frames.CAPACITY
    # A frame each millisecond, as a monitored guest sends, is looked at before the ring is full.
    assert own_frames.LOOK * 1000 < own_frames.CAPACITY / 2
    # What is handed over after twice that time is seen by the next look.
    assert own_frames.GEOMETRY.retire_ms == 10


def test_a_time_is_exact_unless_it_says_otherwise() -> None:
    assert own_frames.LastFrame(5) == own_frames.LastFrame(5, 0)


def test_without_a_mac_every_frame_is_kept() -> None:
    program = own_frames.compile_filter(None)
    assert program[0] == bpf.Instruction(bpf.RETURN, 0, 0, own_frames.SNAP_LENGTH)


def test_one_of_two_is_kept_by_chance() -> None:
    assert [step.k for step in own_frames.compile_filter(None, 2)][:2] == [bpf.ANCILLARY + 56, 1]


def test_one_of_eight_is_kept_by_chance() -> None:
    program = own_frames.compile_filter(None, 8)
    assert [step.k for step in program[:3]] == [bpf.ANCILLARY + 56, 7, 0]
    assert [step.k for step in program[-2:]] == [own_frames.SNAP_LENGTH, 0]


@pytest.mark.parametrize(
    ("share", "kept", "is_full", "expected"),
    [
        pytest.param(1, 0, False, 1, id="silence"),
        pytest.param(1, CAPACITY // 2, False, 1, id="half of the ring"),
        pytest.param(1, CAPACITY // 2 + 1, False, 2, id="more than half"),
        pytest.param(1, CAPACITY, True, 32, id="full at once: nobody knows how many there were"),
        pytest.param(64, 312, False, 64, id="200,000 a second"),
        pytest.param(64, 3, False, 1, id="a guest that has calmed down"),
        pytest.param(4096, CAPACITY, True, 4096, id="as many as there can be"),
    ],
)
def test_the_share_follows_what_was_sent(
    share: int, kept: int, *, is_full: bool, expected: int
) -> None:
    assert own_frames.share_after(share, kept, is_full=is_full) == expected


@given(st.integers(1, 1_400_000))
def test_any_steady_rate_fits_after_three_looks(sent: int) -> None:
    share = 1
    for _ in range(3):
        kept = min(sent // share, CAPACITY)
        share = own_frames.share_after(share, kept, is_full=kept == CAPACITY)
    assert sent // share < CAPACITY


def test_what_is_not_thinned_is_exact() -> None:
    assert own_frames.spacing_ns(1, 5, 100) == 0
    assert own_frames.spacing_ns(2, 5, 100) == 60


def test_what_is_thinned_says_how_exact_it_is() -> None:
    spacings = [own_frames.spacing_ns(8, kept, 100_000) for kept in (0, 1, 3, 30, 300)]
    assert spacings == [100_000, 100_000, 100_000, 10_000, 1_000]
    assert all(earlier >= later for earlier, later in itertools.pairwise(spacings))
