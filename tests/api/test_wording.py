"""Sentences that stay short."""

from handover_api import wording


def test_a_few_names_are_all_told_in_order() -> None:
    assert wording.some(["b", "a"]) == "a, b"
    assert wording.some([]) == ""
    assert wording.some(list("edcba")) == "a, b, c, d, e"


def test_of_many_names_the_first_are_told_and_the_rest_counted() -> None:
    assert wording.some([f"{n:03}" for n in range(300)]) == "000, 001, 002, 003, 004 and 295 more"


def test_a_long_text_loses_its_end() -> None:
    assert wording.clipped("abcd", 4) == "abcd"
    assert wording.clipped("abcde", 4) == "abc…"
