"""What a person sees of it: the table, what is reached, and the picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from handover_lab.bench.outage import figures
from handover_lab.bench.outage.figures import Line
from handover_lab.bench.outage.rows import NAMES
from handover_lab.demo.picture import CUTOVER, FAINT, INK, LOST, STYLE

COLUMNS: Final = (
    ("pause\nms", "pause_ms_median", 1.0),
    ("silence\nless pause", "silence_minus_pause_ms_median", 1.0),
    ("lost", "lost_median", 1.0),
    ("after\nRESUME", "lost_after_resume_median", 1.0),
    ("after the\nswitch", "lost_after_switch_median", 1.0),
    ("most", "lost_after_switch_max", 1.0),
    ("TCP gap\nless pause", "tcp_gap_minus_pause_ms_median", 1.0),
    ("RARP →\nroute ms", "announcement_to_route_us_p50", 1e-3),
    ("RARP →\nredirect", "announcement_to_redirect_us_p50", 1e-3),
    ("C\nprogram", "floor_us_p50", 1e-3),
    ("HAVE →\nACK", "have_to_ack_us_p50", 1e-3),
    ("last by-\nstander", "announcement_to_last_node_us_p50", 1e-3),
)
"""Heads, what of a line is below them, and times what: all times are shown in ms."""

SWITCH: Final = (
    "  After the switch: sent once the target's route was in, and the source's redirect where there"
    " is one."
)
TITLE: Final = "A VM moves, and its network follows: what was lost, whatever carries the routes"
FOOTNOTE: Final = (
    "Real QEMU guests between nodes of one machine; pings every millisecond from outside of the"
    " cluster. A dot is the median of a row's migrations, the end of its line the worst."
)
LEFT_EDGE: Final = 0.22
THRESHOLD: Final = 1.0
"""Below it the axis of lost pings is linear: it begins at 0, where a row should be."""
ROW_INCHES: Final = 0.27
MARKS: Final = {4: "o", 6: "s"}


def table(lines: Sequence[Line]) -> Table:
    """Compose the table."""
    shown = Table(title="Median of each row's migrations", title_justify="left", box=None)
    for head in ("routes by", "nodes", "IPv", "n"):
        shown.add_column(head, justify="left" if head != "n" else "right", no_wrap=True)
    for head, _, _ in COLUMNS:
        shown.add_column(head, justify="right", no_wrap=True)
    before = ""
    for each in lines:
        cells = [cell(each[key], factor) for _, key, factor in COLUMNS]
        name = who(each)
        bad = each["redirect"] and each["lost_after_switch_max"]
        named = [name if name != before else "", str(each["topology"]), str(each["family"])]
        shown.add_row(*named, str(each["n"]), *cells, style="bold red" if bad else None)
        before = name
    return shown


def who(each: Line) -> str:
    """Say who carried the routes."""
    name = NAMES.get(str(each["carrier"]), str(each["carrier"]))
    return f"{name} + redirect" if each["redirect"] else name


def cell(value: object, factor: float) -> str:
    """Write a figure as short as it may be."""
    if not isinstance(value, int | float):
        return "-"
    shown = value * factor
    return f"{shown:,.0f}" if shown == int(shown) or abs(shown) >= 100 else f"{shown:,.2f}"


def show(lines: Sequence[Line], console: Console) -> None:
    """Print the table, and what of it is reached."""
    console.print(table(lines))
    console.print(SWITCH)
    for sentence, is_reached in targets(lines):
        mark, color = ("✓", "green") if is_reached else ("✗", "red")
        console.print(f"  {mark} {sentence}", style=color)


def targets(lines: Sequence[Line]) -> list[tuple[str, bool]]:
    """Say what was to be reached, with what was measured, where it was."""
    lost = [each["lost_after_switch_max"] for each in lines if each["redirect"]]
    measured = [int(each) for each in lost if each is not None]
    found = []
    if measured:
        sentence = f"lost after the switch with a redirect, at most: {max(measured)} (0)"
        found.append((sentence, not any(measured) and len(measured) == len(lost)))
    if reached := figures.ratio(lines):
        sentence = f"announcement → redirect: {reached:.2f} times the C program ({figures.RATIO:g})"
        found.append((sentence, reached <= figures.RATIO))
    for what, key, most, chosen in (
        ("announcement → redirect", "announcement_to_redirect_us_p50", figures.REDIRECT_US, None),
        (
            "announcement → last bystander (agents)",
            "announcement_to_last_node_us_p50",
            figures.LAST_NODE_US,
            "agents",
        ),
    ):
        known = [
            float(value)
            for each in lines
            if chosen in {None, each["carrier"]} and (value := each[key]) is not None
        ]
        if known:
            least, highest = min(known) / 1e3, max(known) / 1e3
            sentence = f"{what}: {least:.2f} to {highest:.2f} ms, the rows' medians"
            sentence += f" ({most / 1e3:g} ms on a quiet machine)"
            found.append((sentence, max(known) <= most))
    return found


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw what each row lost after the switch, and for how much longer than its pause it was."""
    with style.context(STYLE):
        height = 1.9 + ROW_INCHES * len(lines)
        picture = Figure(figsize=(11, height), dpi=140)
        FigureCanvasAgg(picture)
        edges = {"left": LEFT_EDGE, "right": 0.98, "top": 1 - 0.9 / height, "bottom": 0.9 / height}
        left, right = picture.subplots(1, 2, sharey=True, gridspec_kw={**edges, "wspace": 0.05})
        panel(left, lines, "lost_after_switch")
        panel(right, lines, "silence_minus_pause_ms")
        left.set_xlabel("pings lost after the switch, of one in a millisecond")
        right.set_xlabel("silence beyond the guest's own pause, ms")
        left.set_yticks(range(len(lines)))
        left.set_yticklabels(
            [f"{who(each)}, {each['topology']}, v{each['family']}" for each in lines]
        )
        left.set_ylim(len(lines) - 0.4, -0.6)
        picture.text(0.02, 1 - 0.4 / height, TITLE, fontsize=14, weight="bold", color=INK)
        key(picture, height)
        picture.text(0.02, 0.2 / height, FOOTNOTE, fontsize=8, color=FAINT)
        picture.savefig(path, metadata={"Software": None})


def panel(axes: Axes, lines: Sequence[Line], what: str) -> None:
    """Draw a dot for each line, and how far the worst of its migrations is from it."""
    for height, each in enumerate(lines):
        value, worst = each[f"{what}_median"], each[f"{what}_max"]
        if not isinstance(value, int | float) or not isinstance(worst, int | float):
            continue
        color = CUTOVER if each["redirect"] else LOST
        axes.plot([max(0.0, value), max(0.0, worst)], [height, height], color=color, linewidth=1)
        mark = MARKS.get(int(each["family"] or 0), "o")
        axes.plot([max(0.0, value)], [height], mark, color=color, markersize=5, clip_on=False)
    axes.set_xscale("symlog", linthresh=THRESHOLD)
    axes.set_xlim(0, max(10.0, 1.5 * axes.get_xlim()[1]))
    axes.grid(axis="x", alpha=0.3)


def key(picture: Figure, height: float) -> None:
    """Say what colors and marks are."""
    where, at = 0.02, 1 - 0.68 / height
    for words, color in (
        ("\N{BLACK CIRCLE} without the source's redirect", LOST),
        ("\N{BLACK CIRCLE} with it", CUTOVER),
        ("round: IPv4, square: IPv6", FAINT),
    ):
        picture.text(where, at, words, fontsize=9.5, color=color)
        where += 0.22
