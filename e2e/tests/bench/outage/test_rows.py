"""Which rows there are, and how a person chooses some of them."""

import pytest

from handover_lab.bench.outage import rows
from handover_lab.bench.outage.rows import ROWS


def test_every_carrier_is_measured_with_all_that_a_source_does_on_both_topologies() -> None:
    assert len({row.words for row in ROWS}) == len(ROWS) == 2 * 4 * 3
    assert {(row.redirect, row.resend) for row in ROWS} == {
        *((False, False), (True, False), (True, True))
    }


def test_without_a_word_all_are_chosen() -> None:
    assert rows.choose([]) == ROWS


@pytest.mark.parametrize(
    ("words", "titles"),
    [
        (
            ["bird", "routed"],
            ["BIRD, routed", "BIRD + redirect, routed", "BIRD + redirect + resend, routed"],
        ),
        (["resend", "agents", "routed"], ["agents + redirect + resend, routed"]),
        (
            ["frr", "agents", "redirect", "segment"],
            ["FRR + redirect, segment", "agents + redirect, segment"],
        ),
        (["none", "plain", "segment"], ["1 s late, segment"]),
    ],
)
def test_words_of_a_kind_add_up_and_kinds_restrict(words: list[str], titles: list[str]) -> None:
    assert [row.title for row in rows.choose(words)] == titles


def test_a_word_of_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="ospf: no row is called so, but agents, bird"):
        rows.choose(["bird", "ospf"])
