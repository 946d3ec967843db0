"""The picture of a migration: every ping around the switchover, with Handover and without.

Drawn from values alone, so the same measurement gives the same bytes. Colors are Okabe and Ito's,
which color-blind people tell apart; answered and lost also differ in shape and in place.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from handover_lab.network import measure
from handover_lab.network.measure import Loss, Packet, Switchover

ANSWERED: Final = "#0072B2"
LOST: Final = "#D55E00"
CUTOVER: Final = "#009E73"
PAUSE: Final = "#BFBFBF"
INK: Final = "#222222"
FAINT: Final = "#6B6B6B"

TITLE: Final = "A VM moves to another node, ping by ping"
KEY: Final = (
    ("\N{BLACK CIRCLE}", "answered, as high as its round trip was long", ANSWERED),
    ("\N{BOX DRAWINGS HEAVY VERTICAL}", "lost", LOST),
    ("\N{BLACK SQUARE}", "the guest runs nowhere", PAUSE),
    ("\N{BOX DRAWINGS HEAVY VERTICAL}", "its route moves", CUTOVER),
)
FOOTNOTE: Final = (
    "Measured by the demonstration: a real QEMU guest between two nodes of a real Kubernetes"
    " cluster, all on one machine."
)

LEFT: Final = 0.065
LATE_MS: Final = 3.0
BEFORE_MS, AFTER_MS = 100.0, 1300.0
STYLE: Final = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "svg.hashsalt": "handover",
    "path.simplify": False,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """One migration as its pings saw it."""

    packets: Sequence[Packet]
    switchover: Switchover
    cutover_ns: int
    """When the target's route was in."""

    @property
    def loss(self) -> Loss:
        """What the shown stretch of time lost."""
        return measure.loss(self.shown, self.switchover)

    @property
    def shown(self) -> tuple[Packet, ...]:
        """The packets that the long panels show."""
        stopped = self.switchover.stopped_ns
        return measure.between(
            self.packets, stopped - int(BEFORE_MS * 1e6), stopped + int(AFTER_MS * 1e6)
        )

    def at(self, moment_ns: int) -> float:
        """Return *moment_ns* in the picture's time: ms after the guest stopped."""
        return (moment_ns - self.switchover.stopped_ns) / 1e6


def draw(with_handover: Scene, without: Scene, stem: Path) -> tuple[Path, Path]:
    """Write *stem*.png and *stem*.svg."""
    with style.context(STYLE):
        figure = Figure(figsize=(12, 6.4), dpi=160)
        FigureCanvasAgg(figure)
        compose(figure, with_handover, without)
        png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": "Handover"})
    return png, svg


def compose(figure: Figure, with_handover: Scene, without: Scene) -> None:
    """Lay out the three panels: the same stretch of time twice, and the first one close up."""
    grid = figure.add_gridspec(
        2, 2, width_ratios=(2.1, 1), left=LEFT, right=0.985, top=0.79, bottom=0.135,
        hspace=0.42, wspace=0.14,
    )  # fmt: skip
    ceiling = highest((with_handover, without))
    upper = figure.add_subplot(grid[0, 0])
    lower = figure.add_subplot(grid[1, 0], sharex=upper, sharey=upper)
    close = figure.add_subplot(grid[:, 1])
    for axes, scene, name in (
        (upper, with_handover, "With Handover"),
        (lower, without, "Without: the route follows a second later"),
    ):
        panel(axes, scene, ceiling)
        headline(axes, name, verdict(scene.loss))
        axes.set_xlim(-BEFORE_MS, AFTER_MS)
    lower.set_xlabel("milliseconds after the guest stopped on its old node")
    close_up(close, with_handover, ceiling)
    caption(figure)


def highest(scenes: Iterable[Scene]) -> float:
    """Return the top of the round-trip axis: above the slowest answer, at least 20 ms."""
    return max(20.0, *(trip_ms(packet) for scene in scenes for packet in scene.shown)) * 1.12


def panel(axes: Axes, scene: Scene, ceiling: float) -> None:
    """Draw each packet: a dot at its round-trip time, or a stroke in the lane of the lost."""
    answered = [p for p in scene.shown if p.answered_ns is not None]
    lost = [scene.at(p.sent_ns) for p in scene.shown if p.answered_ns is None]
    lane = ceiling * 1.16
    axes.axvspan(0, scene.switchover.pause_ms, color=PAUSE, linewidth=0, zorder=0)
    axes.axvline(scene.at(scene.cutover_ns), color=CUTOVER, linewidth=1.6, zorder=1)
    times, trips = [scene.at(p.sent_ns) for p in answered], [trip_ms(p) for p in answered]
    axes.plot(times, trips, "o", color=ANSWERED, markersize=2.4, markeredgewidth=0, zorder=3)
    axes.vlines(lost, lane - ceiling * 0.08, lane + ceiling * 0.08, color=LOST, lw=1, zorder=3)
    axes.axhline(ceiling, color=PAUSE, linewidth=0.6, zorder=0)
    axes.set_ylim(-ceiling * 0.04, ceiling * 1.3)
    step = 10 if ceiling < 80 else 50
    axes.set_yticks([*range(0, int(ceiling), step), lane])
    axes.set_yticklabels([*(f"{n} ms" for n in range(0, int(ceiling), step)), "lost"])
    axes.get_yticklabels()[-1].set_color(LOST)
    axes.tick_params(length=3)


def headline(axes: Axes, name: str, text: str) -> None:
    """Write a panel's name and what it shows above it."""
    where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(name, (0, 1), (0, 9), **where, fontsize=11.5, fontweight="bold")
    axes.annotate(text, (1, 1), (0, 9), **where, fontsize=10.5, color=LOST, ha="right")


def verdict(loss: Loss) -> str:
    """Say in words what a migration cost."""
    pings = "1 ping" if loss.lost == 1 else f"{loss.lost:,} pings"
    silence = (
        "no answer ever again" if loss.outage_ms is None else f"{loss.outage_ms:,.0f} ms silent"
    )
    return f"{pings} lost, {silence}"


def close_up(axes: Axes, scene: Scene, ceiling: float) -> None:
    """Show the switchover alone, where each single ping can be seen."""
    panel(axes, scene, ceiling)
    pause, cutover = scene.switchover.pause_ms, scene.at(scene.cutover_ns)
    after = (p for p in scene.shown if p.sent_ns > scene.cutover_ns)
    late = list(itertools.takewhile(lambda packet: trip_ms(packet) > LATE_MS, after))
    end = max(60.0, 1.6 * cutover, *(1.15 * scene.at(p.sent_ns) for p in late))
    axes.set_xlim(-end / 6, end)
    axes.set_xlabel("milliseconds")
    headline(axes, "The same, close up", "")
    top = 0.93 * ceiling
    note(axes, (pause / 2, top), (0.4 * end, top), f"guest paused for {pause:.1f} ms", FAINT)
    top = 0.84 * ceiling
    moved = f"route moved {cutover - pause:.1f} ms later"
    note(axes, (cutover, top), (0.4 * end, top), moved, CUTOVER)
    if late:
        middle = late[len(late) // 3]
        point = scene.at(middle.sent_ns), trip_ms(middle)
        text = "late, not lost: they waited\nfor the guest to wake up"
        note(axes, point, (0.44 * end, 0.71 * ceiling), text, ANSWERED)


def note(
    axes: Axes, point: tuple[float, float], at: tuple[float, float], text: str, color: str
) -> None:
    """Explain a point in words, at its right."""
    line = {"arrowstyle": "-", "color": color, "linewidth": 0.8, "shrinkB": 2}
    axes.annotate(text, point, at, color=color, va="center", fontsize=9, arrowprops=line)


def trip_ms(packet: Packet) -> float:
    """Return a packet's round-trip time, 0 for a lost one."""
    return 0.0 if packet.answered_ns is None else (packet.answered_ns - packet.sent_ns) / 1e6


def caption(figure: Figure) -> None:
    """Title, the key to the marks, and what was measured."""
    figure.text(LEFT, 0.94, TITLE, fontsize=16, weight="bold")
    anchor = figure.text(LEFT, 0.885, "A thousand pings a second:  ", color=FAINT)
    for mark, words, color in KEY:
        for text, ink in ((mark, color), (f" {words}    ", FAINT)):
            anchor = figure.axes[0].annotate(
                text, (1, 0), xycoords=anchor, va="bottom", color=ink, annotation_clip=False
            )
    figure.text(LEFT, 0.022, FOOTNOTE, fontsize=8.5, color=FAINT)
