"""A flood is more frames in a short while than any guest has reason to send."""

import pytest

from handover_nodeagent.sniff.flood import FRAMES, WINDOW, Arrivals


def arrived(frames: int, began: float = 100.0) -> Arrivals:
    arrivals = Arrivals(began)
    for _ in range(frames):
        arrivals.count()
    return arrivals


@pytest.mark.parametrize(
    ("frames", "are_many"), [(0, False), (FRAMES - 1, False), (FRAMES, True), (FRAMES + 15, True)]
)
def test_a_few_frames_are_not_judged_at_all(frames: int, *, are_many: bool) -> None:
    assert arrived(frames).are_many is are_many


@pytest.mark.parametrize(
    ("took", "is_flood"), [(0.0, True), (0.9 * WINDOW, True), (1.1 * WINDOW, False), (9.0, False)]
)
def test_many_in_a_short_while_are_a_flood(took: float, *, is_flood: bool) -> None:
    assert arrived(FRAMES).end_window(100.0 + took) is is_flood


def test_each_window_is_judged_by_itself() -> None:
    arrivals = arrived(FRAMES)
    assert arrivals.end_window(100.01)
    seen = [arrivals.are_many]
    for _ in range(FRAMES):
        arrivals.count()
    seen.append(arrivals.are_many)
    assert seen == [False, True]
    assert not arrivals.end_window(100.01 + 2 * WINDOW)
