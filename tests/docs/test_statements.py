"""tests/statements.md names tests: each of them is there, and each that has a number is named."""

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "tests" / "statements.md").read_text(encoding="utf-8")
# A file, and the tests up to the next item of the list or paragraph.
ITEMS: Final = re.findall(r"^- `([\w/]+\.py)`:(.*?)(?=^- |^$|\Z)", TEXT, re.DOTALL | re.MULTILINE)
NUMBERED: Final = re.compile(r"def (test_statement_\d+\w*)\(")


def named_in(text: str) -> list[str]:
    """Return the tests that *text* names."""
    return re.findall(r"`(test_\w+)`", text)


@pytest.mark.parametrize(("path", "text"), ITEMS, ids=[path for path, _ in ITEMS])
def test_each_test_that_is_named_is_there(path: str, text: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    assert named_in(text)
    assert [name for name in named_in(text) if f"def {name}(" not in source] == []


def test_each_test_with_a_number_is_named() -> None:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    numbered = {name for source in sources for name in NUMBERED.findall(source)}
    named = {name for _, text in ITEMS for name in named_in(text)}
    assert numbered
    assert numbered <= named


@pytest.mark.parametrize("number", range(20, 28))
def test_each_statement_has_tests(number: int) -> None:
    _, found, rest = TEXT.partition(f"\n**{number}. ")
    assert found
    assert named_in(rest.partition("\n**")[0])
