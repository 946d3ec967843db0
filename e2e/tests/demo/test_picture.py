"""The picture is drawn from values alone and says what they say."""

from pathlib import Path

import pytest

from handover_lab.demo import picture
from handover_lab.demo.picture import Scene
from handover_lab.network.measure import Loss, Packet, Switchover

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


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Loss(100, 0, 0, 12.3), "0 pings lost, 12 ms silent"),
        (Loss(100, 1, 0, 12.3), "1 ping lost, 12 ms silent"),
        (Loss(2000, 1012, 1003, 1014.2), "1,012 pings lost, 1,014 ms silent"),
        (Loss(100, 90, 90, None), "90 pings lost, no answer ever again"),
    ],
    ids=["none", "one", "a thousand", "for good"],
)
def test_the_verdict_on_losing(loss: Loss, expected: str) -> None:
    assert expected == picture.verdict(loss)
