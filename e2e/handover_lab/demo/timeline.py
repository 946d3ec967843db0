"""The live view of a migration: two nodes, the phases, the packets, and what happened when.

On a terminal it is drawn anew ten times a second; elsewhere each fact is one plain line.
"""

from types import TracebackType
from typing import Final, Self

from rich.box import ROUNDED
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from handover_lab import facts
from handover_lab.facts import Fact, History, Node, Traffic

BARS: Final = "▁▂▃▄▅▆▇█"
LATE: Final = "◆"
LOST: Final = "✗"
KIND_STYLES: Final = {
    "phase": "bold magenta",
    "role": "cyan",
    "state": "bold cyan",
    "signal": "bold yellow",
    "route": "green",
    "guest": "blue",
}
GUEST_SIGNS: Final = {
    "": Text("no VM", "dim"),
    "boots": Text("◔ VM boots", "yellow"),
    "awaited": Text("○ awaits the VM", "dim"),
    "runs": Text("● VM runs", "bold green"),
    "paused": Text("◌ VM stopped", "red"),
}


class Timeline:
    """Shows a history while it is made; a context manager."""

    def __init__(
        self, began_ns: int, nodes: tuple[str, ...], console: Console | None = None
    ) -> None:
        """Begin with empty *nodes* at *began_ns*, which is the zero of all times shown."""
        self.history = History(began_ns, tuple(Node(name) for name in nodes))
        self._console = console or Console(highlight=False)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self.view, refresh_per_second=10
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def tell(self, fact: Fact | Traffic) -> None:
        """Take in one more fact, and show it."""
        before = len(self.history.facts)
        self.history = facts.with_fact(self.history, fact)
        if self._live is None:
            for new in self.history.facts[before:]:
                self._console.print(fact_line(self.history, new), soft_wrap=True)

    def view(self) -> RenderableType:
        """Draw the history as it stands, with as many of its latest facts as the terminal holds."""
        head = state_of(self.history)
        used = len(self._console.render_lines(head)) + 2
        return Group(head, Text(), *latest(self.history, self._console.size.height - used))


def state_of(told: History) -> RenderableType:
    """Draw what is true now."""
    return Group(
        Text(f" {told.title}", "bold"),
        Columns([node_panel(node) for node in told.nodes], padding=(0, 1)),
        phases(told.phase),
        Text(),
        flows(told.flows),
    )


def latest(told: History, height: int) -> list[Text]:
    """Write the last facts that fit into *height* lines."""
    lines: list[Text] = []
    for fact in reversed(told.facts):
        line = fact_line(told, fact)
        height -= 1 + line.plain.count("\n")
        if height < 0:
            break
        lines.append(line)
    return lines[::-1]


def node_panel(node: Node) -> Panel:
    """Draw one node: its guest, role, state and routes."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", min_width=5)
    grid.add_column(min_width=26)
    if node.hosts:
        grid.add_row("guest", GUEST_SIGNS[node.guest])
        grid.add_row("role", Text(node.role or "-", KIND_STYLES["role"]))
        grid.add_row("state", Text(node.state or "-", KIND_STYLES["state"]))
    grid.add_row("route", Text("\n".join(node.routes) or "-", KIND_STYLES["route"]))
    border = "green" if node.guest == "runs" else "dim"
    return Panel(grid, title=node.name, title_align="left", border_style=border, box=ROUNDED)


def phases(now: str) -> Text:
    """Draw the way of a LiveMigration and where on it this one is."""
    if now not in facts.PHASES:
        return Text(f" {now or 'no migration yet'}", KIND_STYLES["phase"] if now else "dim")
    reached = facts.PHASES.index(now)
    text = Text(" ")
    for index, phase in enumerate(facts.PHASES):
        text.append(" ── " if index else "", "dim")
        style = "dim" if index > reached else "magenta"
        text.append(phase, KIND_STYLES["phase"] + " reverse" if index == reached else style)
    return text


def flows(all_flows: tuple[Traffic, ...]) -> Table:
    """Draw the latest packets of each flow: a bar is the share answered in one cell of time.

    Where late answers came there is a mark in its place, unless something was lost there.
    """
    table = Table.grid(padding=(0, 1))
    for flow in all_flows:
        bars = Text()
        for number, share in enumerate(flow.cells):
            if number in flow.late_cells and share in {None, 1}:
                bars.append(LATE, "bold yellow")
            else:
                bars.append(bar(share), "green" if share == 1 else "bold red")
        lost = Text(f"{flow.lost:,} lost", "green" if flow.lost == 0 else "red")
        late = Text(f"{flow.late:,} late" if flow.late else "", "yellow")
        sent = Text(f"{flow.sent:,} sent", "dim")
        table.add_row(Text(f" {flow.name}", "dim"), bars, sent, lost, late)
    return table


def bar(share: float | None) -> str:
    """Draw one cell; nothing sent is blank, nothing answered a cross."""
    if share is None:
        return " "
    return BARS[round(share * (len(BARS) - 1))] if share else LOST


def fact_line(told: History, fact: Fact) -> Text:
    """Write one fact as a line: seconds since the beginning, where, what kind, what."""
    where, kind, what = facts.line(fact)
    if isinstance(fact, facts.Chapter):
        return Text(f"\n {what}", "bold")
    text = Text(f" {(fact.at_ns - told.began_ns) / 1e9:9.4f}  ", "dim")
    text.append(f"{where:<8} {kind:<7} " if kind else "")
    return text.append(what, KIND_STYLES.get(kind, "not dim"))
