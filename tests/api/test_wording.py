"""Sentences that stay short."""

from collections.abc import Iterator

import pytest

from handover_api import wording


def test_a_few_names_are_all_told_in_order() -> None:
    assert wording.name_few(["b", "a"]) == "a, b"
    assert wording.name_few([]) == ""
    assert wording.name_few(list("edcba")) == "a, b, c, d, e"


def test_of_many_names_the_first_are_told_and_the_rest_counted() -> None:
    many = [f"{n:03}" for n in range(300)]
    assert wording.name_few(many) == "000, 001, 002, 003, 004 and 295 more"


@pytest.mark.parametrize(
    ("total", "separator", "expected"),
    [
        (5, ", ", "0, 1, 2, 3, 4"),
        (7, ", ", "0, 1, 2, 3, 4 and 2 more"),
        (7, "; ", "0; 1; 2; 3; 4; and 2 more"),
    ],
)
def test_of_many_things_the_texts_of_the_rest_are_never_made(
    total: int, separator: str, expected: str
) -> None:
    made: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(total):
            made.append(number)
            yield str(number)

    assert wording.enumerate_few(texts(), total, separator) == expected
    assert made == list(range(wording.FEW))


def test_a_long_text_loses_its_end() -> None:
    assert wording.clip("abcd", 4) == "abcd"
    assert wording.clip("abcde", 4) == "abc…"
