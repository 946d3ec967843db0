"""The picture of a migration: every ping around the switchover, with Handover and without.

Drawn from values alone, so the same measurement gives the same bytes. Colors are Okabe and Ito's,
which color-blind people tell apart; answered, late and lost also differ in shape and in place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from handover_lab.network import measure
from handover_lab.network.measure import Packet, Switchover

ANSWERED: Final = "#0072B2"
LATE: Final = "#CC79A7"
LOST: Final = "#D55E00"
CUTOVER: Final = "#009E73"
PAUSE: Final = "#BFBFBF"
INK: Final = "#222222"
FAINT: Final = "#6B6B6B"

TITLE: Final = "A VM moves to another node, ping by ping"
KEY: Final = (
    ("\N{BLACK CIRCLE}", "answered, as high as its round trip", ANSWERED),
    ("\N{BLACK DIAMOND}", "late, and when it came", LATE),
    ("\N{BOX DRAWINGS HEAVY VERTICAL}", "lost", LOST),
    ("\N{BLACK SQUARE}", "the guest runs nowhere", PAUSE),
    ("\N{BOX DRAWINGS HEAVY VERTICAL}", "its route moves", CUTOVER),
)
FOOTNOTE: Final = (
    "Measured by the demonstration: a real QEMU guest between two nodes of a real Kubernetes"
    " cluster, all on one machine."
)

LEFT: Final = 0.065
STEPS_MS: Final = (10, 50, 100, 250, 500, 1000)
MOST_STEPS: Final = 8
"""On the axis of round trips; more of them overlap."""
LANES: Final = {"late": (1.14, LATE), "lost": (1.34, LOST)}
"""Above the round trips, in parts of their height: when late answers came, and when what was lost
had been sent.
"""
TOP: Final = 1.48
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
    def lost(self) -> tuple[Packet, ...]:
        """What had no answer in the shown stretch of time."""
        return tuple(packet for packet in self.shown if packet.answered_ns is None)

    @property
    def late(self) -> tuple[Packet, ...]:
        """What was sent there before the guest ran again, and answered after that."""
        return measure.late(self.shown, self.switchover.resumed_ns)

    @property
    def outage_ms(self) -> float | None:
        """For how long no answer came there; None: none came any more."""
        return measure.outage_ms(self.shown, self.switchover)

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
        headline(axes, name, scene)
        axes.set_xlim(-BEFORE_MS, AFTER_MS)
    lower.set_xlabel("milliseconds after the guest stopped on its old node")
    close_up(close, with_handover, ceiling)
    caption(figure)


def highest(scenes: Iterable[Scene]) -> float:
    """Return the top of the round-trip axis: above the slowest answer, at least 20 ms."""
    return max(20.0, *(trip_ms(packet) for scene in scenes for packet in scene.shown)) * 1.12


def panel(axes: Axes, scene: Scene, ceiling: float) -> None:
    """Draw each packet: a mark at its round-trip time, or a stroke in the lane of the lost.

    A late one has a stroke in a lane of its own, too, where its answer came.
    """
    late = scene.late
    others = [p for p in scene.shown if p.answered_ns is not None and p not in set(late)]
    axes.axvspan(0, scene.switchover.pause_ms, color=PAUSE, linewidth=0, zorder=0)
    axes.axvline(scene.at(scene.cutover_ns), color=CUTOVER, linewidth=1.6, zorder=1)
    for packets, shape, color, size in ((others, "o", ANSWERED, 2.4), (late, "D", LATE, 3.6)):
        times, trips = [scene.at(p.sent_ns) for p in packets], [trip_ms(p) for p in packets]
        axes.plot(times, trips, shape, color=color, markersize=size, markeredgewidth=0, zorder=3)
    came = [scene.at(p.answered_ns) for p in late if p.answered_ns is not None]
    for name, moments in (("late", came), ("lost", [scene.at(p.sent_ns) for p in scene.lost])):
        height, color = LANES[name]
        lane = (ceiling * (height - 0.07), ceiling * (height + 0.07))
        axes.vlines(moments, *lane, color=color, lw=1, zorder=3)
    axes.axhline(ceiling, color=PAUSE, linewidth=0.6, zorder=0)
    axes.set_ylim(-ceiling * 0.04, ceiling * TOP)
    label(axes, ceiling)


def label(axes: Axes, ceiling: float) -> None:
    """Mark the axis of round trips, and name the lanes above it."""
    step = next((n for n in STEPS_MS if ceiling / n <= MOST_STEPS), STEPS_MS[-1])
    marks = range(0, int(ceiling), step)
    lanes = [(name, ceiling * height, color) for name, (height, color) in LANES.items()]
    axes.set_yticks([*marks, *(height for _, height, _ in lanes)])
    axes.set_yticklabels([*(f"{n} ms" for n in marks), *(name for name, _, _ in lanes)])
    for text, (_, _, color) in zip(axes.get_yticklabels()[len(marks) :], lanes, strict=True):
        text.set_color(color)
    axes.tick_params(length=3)


def headline(axes: Axes, name: str, scene: Scene | None) -> None:
    """Write a panel's name and what it shows above it."""
    where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(name, (0, 1), (0, 9), **where, fontsize=11.5, fontweight="bold")
    if scene:
        color = LOST if scene.lost else ANSWERED
        axes.annotate(
            verdict(scene), (1, 1), (0, 9), **where, fontsize=10.5, color=color, ha="right"
        )


def verdict(scene: Scene) -> str:
    """Say in words what a migration cost."""
    lost, late, silent_ms = len(scene.lost), len(scene.late), scene.outage_ms
    pings = "1 ping" if lost == 1 else f"{lost:,} pings"
    silence = "no answer ever again" if silent_ms is None else f"{silent_ms:,.0f} ms silent"
    return f"{pings} lost, {late:,} late, {silence}"


def close_up(axes: Axes, scene: Scene, ceiling: float) -> None:
    """Show the switchover alone, where each single ping can be seen."""
    panel(axes, scene, ceiling)
    pause, cutover, late = scene.switchover.pause_ms, scene.at(scene.cutover_ns), scene.late
    came = [scene.at(packet.answered_ns or 0) for packet in late]
    end = max(60.0, 1.6 * cutover, *(1.15 * at for at in came))
    axes.set_xlim(-end / 6, end)
    axes.set_xlabel("milliseconds")
    headline(axes, "The same, close up", None)
    top = 0.93 * ceiling
    note(axes, (pause / 2, top), (0.4 * end, top), f"guest paused for {pause:.1f} ms", FAINT)
    top = 0.84 * ceiling
    moved = f"route moved {cutover - pause:.1f} ms later"
    note(axes, (cutover, top), (0.4 * end, top), moved, CUTOVER)
    if late:
        middle = late[len(late) // 2]
        point = scene.at(middle.sent_ns), trip_ms(middle)
        text = "late, not lost: sent\nbefore it ran again"
        note(axes, point, (0.4 * end, 0.45 * ceiling), text, LATE)


def note(
    axes: Axes, point: tuple[float, float], at: tuple[float, float], text: str, color: str
) -> None:
    """Explain a point in words, at its right."""
    line = {"arrowstyle": "-", "color": color, "linewidth": 0.8, "shrinkB": 2}
    # Legible also where packets are behind it.
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    words: dict[str, Any] = {"va": "center", "fontsize": 9, "bbox": paper, "zorder": 4}
    axes.annotate(text, point, at, color=color, arrowprops=line, **words)


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
