"""A history is built up fact by fact, and reads well with and without a terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from handover_lab import facts
from handover_lab.demo import timeline
from handover_lab.demo.timeline import Timeline
from handover_lab.facts import (
    Action,
    Chapter,
    Fact,
    Guest,
    History,
    Note,
    Phase,
    Role,
    Route,
    Signal,
    State,
    Traffic,
)

BEGAN = 1_700_000_000 * 10**9
NODES = ("node-a", "node-b")
MS = 10**6

FACTS: list[Fact] = [
    Chapter(BEGAN, "The VM moves"),
    Note(BEGAN, "for the first time"),
    Phase(BEGAN + 100 * MS, "Preparing"),
    Role(BEGAN + 200 * MS, "node-b", "target"),
    State(BEGAN + 210 * MS, "node-b", "Target"),
    Action(BEGAN + 220 * MS, "kubevirt", "vmim", "TargetReady"),
    Guest(BEGAN + 300 * MS, "node-a", "paused"),
    Guest(BEGAN + 306 * MS, "node-b", "runs"),
    Signal(BEGAN + 307 * MS, "node-b", "RARP", 412.4),
    Route(BEGAN + 308 * MS, "node-b", "dev tapvm metric 512", present=True),
    Route(BEGAN + 900 * MS, "node-a", "dev tapvm metric 1024", present=False),
    Role(BEGAN + 1000 * MS, "node-b", ""),
    State(BEGAN + 1100 * MS, "node-b", ""),
]

LINES = """
 The VM moves
    0.0000  for the first time
    0.1000  cluster  phase   Preparing
    0.2000  node-b   role    target
    0.2100  node-b   state   Target
    0.2200  kubevirt vmim    TargetReady
    0.3000  node-a   guest   stops here
    0.3060  node-b   guest   runs here
    0.3070  node-b   signal  RARP heard, route in after 412 µs
    0.3080  node-b   route   + dev tapvm metric 512
    1.0000  node-b   role    none any more
    1.1000  node-b   state   its endpoint is gone
"""


def tell(told: History, these: list[Fact]) -> History:
    """Tell *these* one after the other."""
    for fact in these:
        told = facts.with_fact(told, fact)
    return told


def test_without_a_terminal_each_fact_is_a_line() -> None:
    output = io.StringIO()
    with Timeline(BEGAN, NODES, Console(file=output, width=100)) as shown:
        for fact in FACTS:
            shown.tell(fact)

    # The removal of a route that nobody had told of changes nothing and is no line.
    assert output.getvalue() == LINES


def test_on_a_terminal_the_last_view_stays() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, height=30, force_terminal=True, color_system=None)
    with Timeline(BEGAN, NODES, console) as shown:
        for fact in FACTS:
            shown.tell(fact)

    assert "● VM runs" in output.getvalue()
    assert "dev tapvm metric 512" in output.getvalue()


@pytest.mark.parametrize("height", [14, 20, 40])
def test_the_view_fits_the_terminal_and_ends_with_the_latest_fact(height: int) -> None:
    console = Console(file=io.StringIO(), width=100, height=height, force_terminal=True)
    shown = Timeline(BEGAN, NODES, console)
    for moment in range(50):
        shown.tell(Chapter(BEGAN, f"chapter {moment}"))
        shown.tell(Note(BEGAN, f"note {moment}"))

    lines = console.render_lines(shown.view())

    assert len(lines) <= height
    assert "note 49" in "".join(segment.text for segment in lines[-1])


def test_a_node_shows_what_is_true_now() -> None:
    node = tell(History(BEGAN, (facts.Node("node-b"),)), FACTS).node("node-b")

    assert facts.Node("node-b", "", "", "runs", ("dev tapvm metric 512",)) == node


@pytest.mark.parametrize(
    "fact", [f for f in FACTS if not isinstance(f, Action | Note | Signal)], ids=repr
)
def test_what_is_known_is_not_told_twice(fact: Fact) -> None:
    once = facts.with_fact(History(BEGAN, ()), fact)

    assert once == facts.with_fact(once, fact)


def test_a_new_chapter_forgets_the_phase_and_keeps_the_nodes() -> None:
    told = tell(History(BEGAN, ()), FACTS)
    after = facts.with_fact(told, Chapter(BEGAN, "And back"))

    assert ("And back", "", told.nodes) == (after.title, after.phase, after.nodes)


def test_a_flow_keeps_its_place() -> None:
    told = History(BEGAN, ())
    for flow in (Traffic("ping", 1, 0, ()), Traffic("udp", 1, 0, ()), Traffic("ping", 2, 1, ())):
        told = facts.with_fact(told, flow)

    assert (Traffic("ping", 2, 1, ()), Traffic("udp", 1, 0, ())) == told.flows


@pytest.mark.parametrize(
    ("share", "expected"), [(None, " "), (0.0, "✗"), (0.01, "▁"), (0.5, "▅"), (1.0, "█")]
)
def test_a_bar_is_as_high_as_the_answered_share(share: float | None, expected: str) -> None:
    assert expected == timeline.bar(share)


@pytest.mark.parametrize("phase", ["", "Aborted", *facts.PHASES])
def test_a_phase_is_named(phase: str) -> None:
    assert (phase or "no migration yet") in timeline.phases(phase).plain


def test_traffic_counts_what_is_settled() -> None:
    now = BEGAN + 10**9
    sent = [BEGAN + number * 100 * MS for number in range(10)]
    answered = {0: 1, 2: 1, 9: 1}

    flow = facts.traffic("ping", sent, answered, now, cell_ns=100 * MS)

    # Sent before the last half second: 0 to 4, of which 1, 3 and 4 are lost.
    assert (flow.sent, flow.lost, flow.late) == (10, 3, 0)
    assert flow.cells[-5:] == (1.0, 0.0, 1.0, 0.0, 0.0)
    assert list(flow.cells[:-5]) == [None] * (facts.CELLS - 5)


def test_what_waited_for_the_guest_is_late_when_it_came_and_what_had_no_answer_is_lost() -> None:
    sent = [BEGAN + number * 100 * MS for number in range(10)]
    resumed = BEGAN + 250 * MS
    # 0 was answered before, 1 and 2 after the guest ran again, 3 was sent then.
    answered = dict(enumerate(BEGAN + ms * MS for ms in (10, 260, 310, 320)))

    flow = facts.traffic("ping", sent, answered, BEGAN + 10**9, 100 * MS, [resumed])

    assert (flow.lost, flow.late) == (1, 2)
    assert sorted(flow.late_cells) == [facts.CELLS - 3, facts.CELLS - 2]
    assert flow.cells[-5:] == (1.0, 1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("cells", "shown"),
    [((1.0, 1.0), "█◆"), ((1.0, None), "█◆"), ((1.0, 0.0), "█✗"), ((1.0, 0.5), "█▅")],
)
def test_late_answers_have_a_mark_that_hides_no_loss(
    cells: tuple[float | None, ...], shown: str
) -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(timeline.flows((Traffic("ping", 9, 0, cells, 2, frozenset({1})),)))

    assert f"{shown} 9 sent 0 lost 2 late" in captured.get()


@given(
    st.lists(st.tuples(st.integers(0, 8 * 10**9), st.booleans()), max_size=60),
    st.integers(1, 10**9),
)
def test_traffic_adds_up(packets: list[tuple[int, bool]], cell_ns: int) -> None:
    sent = sorted(moment for moment, _ in packets)
    answered = {number: 1 for number, (_, is_answered) in enumerate(packets) if is_answered}
    now = 8 * 10**9

    flow = facts.traffic("ping", sent, answered, now, cell_ns)

    settled = {number for number, moment in enumerate(sent) if moment < now - facts.GRACE_NS}
    assert len(settled - answered.keys()) == flow.lost
    assert len(sent) == flow.sent
