"""The picture is drawn from values alone and says what they say."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from handover_lab.demo import picture
from handover_lab.demo.picture import Scene
from handover_lab.network.measure import Packet, Switchover

MS = 10**6
STOPPED = 1_700_000_000 * 10**9


def scene(route_ms: int, awake_ms: int = 40) -> Scene:
    """A migration with a pause of 6 ms, whose route moves *route_ms* after STOP."""

    def answer(ms: int) -> int | None:
        if ms < 0:
            return ms * MS + 200_000
        return None if ms < route_ms else max(ms, route_ms + awake_ms) * MS + 200_000

    packets = tuple(
        Packet(STOPPED + ms * MS, None if (at := answer(ms)) is None else STOPPED + at)
        for ms in range(-200, 1500)
    )
    switchover = Switchover(STOPPED - 300 * MS, STOPPED, STOPPED + 6 * MS)
    return Scene(packets, switchover, STOPPED + route_ms * MS)


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    first = picture.draw(scene(8), scene(1006), tmp_path / "first")
    second = picture.draw(scene(8), scene(1006), tmp_path / "second")

    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_picture_follows_its_values(tmp_path: Path) -> None:
    first = picture.draw(scene(8), scene(1006), tmp_path / "first")
    second = picture.draw(scene(9), scene(1006), tmp_path / "second")

    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("with_handover", "without"),
    [
        (scene(0, awake_ms=0), scene(1006)),
        (scene(400), scene(1006)),
        (scene(8), scene(5000)),
        (Scene((), scene(8).switchover, STOPPED), scene(1006)),
    ],
    ids=["nothing lost", "a slow machine", "never came back", "no packets at all"],
)
def test_there_is_a_picture_of(tmp_path: Path, with_handover: Scene, without: Scene) -> None:
    png, svg = picture.draw(with_handover, without, tmp_path / "picture")

    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text().rstrip().endswith("</svg>")


def felt(*packets: tuple[int, int | None]) -> Scene:
    """A migration with a pause of 6 ms, of which each packet was sent and answered at these ms."""
    found = tuple(
        Packet(STOPPED + sent * MS, None if came is None else STOPPED + came * MS)
        for sent, came in packets
    )
    return Scene(found, scene(8).switchover, STOPPED + 8 * MS)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (felt((-1, 0), (2, 14), (5, 15), (7, 16)), "0 pings lost, 2 late, 14 ms silent"),
        (felt((-1, 0), (2, None), (5, 15)), "1 ping lost, 1 late, 15 ms silent"),
        (felt((-80, None), (-1, 0), (2, None), (5, None), (7, 16)), "3 pings lost, 0 late, 16 ms"),
        (scene(1006, awake_ms=0), "1,006 pings lost, 0 late, 1,007 ms silent"),
        (felt((-1, 0), (2, None), (7, None)), "2 pings lost, 0 late, no answer ever again"),
    ],
    ids=["none", "one", "also long before", "a thousand", "for good"],
)
def test_the_verdict_says_what_was_lost_and_what_was_late(shown: Scene, expected: str) -> None:
    assert picture.verdict(shown).startswith(expected)


def test_each_packet_is_drawn_once_as_what_it_was() -> None:
    figure = Figure()
    axes = figure.add_subplot()

    picture.panel(axes, felt((-2, -1), (2, None), (3, 14), (5, 15), (7, 16)), 20.0)

    _, answered, late, _ = (line.get_path().vertices for line in axes.lines)
    assert [xs(answered), xs(late)] == [[-2, 7], [3, 5]]
    came, lost = (
        [xs(stroke.vertices)[0] for stroke in lane.get_paths()] for lane in axes.collections
    )
    assert [came, lost] == [[14, 15], [2]]


def xs(vertices: ArrayLike) -> list[float]:
    """Return how far to the right each of them is."""
    return [float(x) for x, _ in np.asarray(vertices)]


@pytest.mark.parametrize("ceiling", [22.4, 100.0, 705.0, 9_000.0])
def test_the_marks_of_the_axis_do_not_overlap(ceiling: float) -> None:
    axes = Figure().add_subplot()

    picture.label(axes, ceiling)

    words = [text.get_text() for text in axes.get_yticklabels()]
    assert words[-2:] == ["late", "lost"]
    assert 2 <= len(words) - 2 <= picture.MOST_STEPS + 2
