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
from handover_lab.bench.outage.rows import NAMES, added_by
from handover_lab.demo.picture import ANSWERED, CUTOVER, FAINT, INK, LOST, STYLE

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
HOLDING: Final = (
    ("lost in\nall, most", "lost_total_max", 1.0),
    ("twice,\nmost", "duplicates_max", 1.0),
    ("no room,\nmost", "dropped_at_port_max", 1.0),
    ("wake-up\nms", "wakeup_ms_median", 1.0),
    ("answer\nms", "answer_ms_median", 1.0),
    ("client's gap less\npause, answer", "tcp_gap_minus_pause_and_wakeup_ms_median", 1.0),
    ("most", "tcp_gap_minus_pause_and_wakeup_ms_max", 1.0),
    ("source's\nMiB", "source_memory_mib_median", 1.0),
    ("times", "source_memory_ratio", 1.0),
    ("CPU,\nms/s", "source_cpu_ms_per_s_median", 1.0),
    ("times", "source_cpu_ratio", 1.0),
    ("RARP → route,\ntimes", "announcement_to_route_ratio", 1.0),
    ("RARP → redirect,\ntimes", "announcement_to_redirect_ratio", 1.0),
)
"""The same of what resend is about; "times": of the row without it."""

SWITCH: Final = (
    "  After the switch: sent once the target's route was in, and the source's redirect where there"
    " is one."
)
NETWORKS: Final = (
    "  Lost in all: by the network, from the migration's begin on. What came to the guest at the"
    " target and has no answer, the guest has lost."
)
TITLE: Final = "A VM moves, and its network follows: what was lost, whatever carries the routes"
FOOTNOTE: Final = (
    "Real QEMU guests between nodes of one machine; pings every millisecond from outside of the"
    " cluster. A dot is the median of a row's migrations, the end of its line the worst."
)
PANELS: Final = (
    ("lost_total", "pings lost in all, by the network"),
    ("lost_after_switch", "pings lost after the switch"),
    ("silence_minus_pause_ms", "silence beyond the guest's own pause, ms"),
)
LEFT_EDGE: Final = 0.24
THRESHOLD: Final = 1.0
"""Below it the axis of lost pings is linear: it begins at 0, where a row should be."""
ROW_INCHES: Final = 0.27
MARKS: Final = {4: "o", 6: "s"}


Columns = Sequence[tuple[str, str, float]]


def table(lines: Sequence[Line], columns: Columns, title: str) -> Table:
    """Compose a table."""
    shown = Table(title=title, title_justify="left", box=None)
    for head in ("routes by", "nodes", "IPv", "n"):
        shown.add_column(head, justify="left" if head != "n" else "right", no_wrap=True)
    for head, _, _ in columns:
        shown.add_column(head, justify="right", no_wrap=True)
    before = ""
    for each in lines:
        cells = [cell(each[key], factor) for _, key, factor in columns]
        name = who(each)
        bad = each["redirect"] and each["lost_after_switch_max"]
        bad = bad or (each["resend"] and each["lost_total_max"])
        named = [name if name != before else "", str(each["topology"]), str(each["family"])]
        shown.add_row(*named, str(each["n"]), *cells, style="bold red" if bad else None)
        before = name
    return shown


def who(each: Line) -> str:
    """Say who carried the routes."""
    name = NAMES.get(str(each["carrier"]), str(each["carrier"]))
    return name + added_by(redirect=bool(each["redirect"]), resend=bool(each["resend"]))


def cell(value: object, factor: float) -> str:
    """Write a figure as short as it may be."""
    if not isinstance(value, int | float):
        return "-"
    shown = value * factor
    return f"{shown:,.0f}" if shown == int(shown) or abs(shown) >= 100 else f"{shown:,.2f}"


def show(lines: Sequence[Line], console: Console) -> None:
    """Print the table, and what of it is reached."""
    console.print(table(lines, COLUMNS, "Median of each row's migrations"))
    console.print(SWITCH)
    console.print(table(lines, HOLDING, "In all, the guest's pause included, and at what price"))
    console.print(NETWORKS)
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
        if times := known([each for each in lines if chosen in {None, each["carrier"]}], key):
            least, highest = min(times) / 1e3, max(times) / 1e3
            sentence = f"{what}: {least:.2f} to {highest:.2f} ms, the rows' medians"
            sentence += f" ({most / 1e3:g} ms on a quiet machine)"
            found.append((sentence, max(times) <= most))
    return found + targets_of_resend([each for each in lines if each["resend"]])


def targets_of_resend(lines: Sequence[Line]) -> list[tuple[str, bool]]:
    """Say the same of lines with resend."""
    found = []
    if lost := known(lines, "lost_total_max"):
        sentence = f"lost in all with resend, at most: {max(lost):g} (0)"
        found.append((sentence, not any(lost) and len(lost) == len(lines)))
    if gaps := known(lines, "tcp_gap_minus_pause_and_wakeup_ms_median"):
        sentence = f"a client's gap beyond pause and answer: {min(gaps):.1f} to {max(gaps):.1f} ms"
        sentence += f", the rows' medians ({figures.GAP_MS:g} ms)"
        found.append((sentence, max(gaps) <= figures.GAP_MS))
    for name, what in zip(figures.CUTOVER_RATIOS, ("route", "redirect"), strict=True):
        if times := figures.cutover_ratio(lines, name):
            sentence = f"announcement → {what}: {times:.2f} times that without resend"
            found.append((f"{sentence} ({figures.CUTOVER:g})", times <= figures.CUTOVER))
    return found


def known(lines: Sequence[Line], name: str) -> list[float]:
    """Return what was measured."""
    return [float(value) for each in lines if (value := each[name]) is not None]


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw what each row lost, in all and after the switch, and how long it was silent."""
    with style.context(STYLE):
        height = 1.9 + ROW_INCHES * len(lines)
        picture = Figure(figsize=(12.5, height), dpi=140)
        FigureCanvasAgg(picture)
        edges = {"left": LEFT_EDGE, "right": 0.98, "top": 1 - 0.9 / height, "bottom": 0.9 / height}
        panels = picture.subplots(1, 3, sharey=True, gridspec_kw={**edges, "wspace": 0.06})
        left = panels[0]
        for axes, (what, words) in zip(panels, PANELS, strict=True):
            panel(axes, lines, what)
            axes.set_xlabel(words)
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
        color = ANSWERED if each["resend"] else CUTOVER if each["redirect"] else LOST
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
        ("\N{BLACK CIRCLE} and with resend", ANSWERED),
        ("round: IPv4, square: IPv6", FAINT),
    ):
        picture.text(where, at, words, fontsize=9.5, color=color)
        where += 0.2
