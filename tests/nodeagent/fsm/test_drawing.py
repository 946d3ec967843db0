"""The drawing in docs/ is the tables' own."""

from pathlib import Path

from handover_api.workloadendpoint import State
from handover_nodeagent.fsm import drawing

_COMMITTED = Path(__file__).parents[3] / "docs" / "states.md"


def test_the_committed_drawing_is_fresh() -> None:
    assert drawing.page() == _COMMITTED.read_text(encoding="utf-8")


def test_every_state_is_drawn_with_a_way_in_and_a_way_out() -> None:
    page = drawing.page()
    for state in State:
        assert f"--> {state}:" in page
        assert f"    {state} -->" in page


def test_an_arrow_carries_all_inputs_of_its_pair_of_states() -> None:
    assert "    Target --> Withdrawn: Aborted<br/>Vanished\n" in drawing.page()
