"""What the bars of the house style count, and what they do not."""

import pytest

from handover_lab import house_style
from handover_lab.house_style import Function, Source

MODULE = '''"""What lives here.

And its rule."""

# Why it is five.
FIVE = 5
"""Seconds."""


class Route:  # noqa: D101
    metric: int

    def take(self, address, *, oif):
        """Add it."""
        # The order matters.
        return (
            address,
            oif,
        )  # type: ignore[return-value]
'''


def module(**changes: object) -> Source:
    fields: dict[str, object] = {
        "path": "crds/handover_api/model.py",
        "lines": 100,
        "code": 60,
        "comments": 6,
        "docstrings": 12,
        "ignores": 0,
        "functions": (Function("diff", 8, 2),),
        "banned": (),
    }
    return Source(**(fields | changes))  # type: ignore[arg-type]


def missed(*sources: Source, tests: int = 120) -> list[str]:
    rows = house_style.bars(sources, ["handover_api"], tests)
    return [row.point for row in rows if not row.is_kept]


def test_a_module_is_counted_in_lines_of_four_kinds() -> None:
    found = house_style.read("network/model.py", MODULE)
    assert found.lines == 19
    assert found.code == 8
    assert found.comments == 2
    assert found.docstrings == 5
    assert found.ignores == 1


def test_a_function_has_neither_its_docstring_nor_self() -> None:
    assert house_style.read("m.py", MODULE).functions == (Function("take", 6, 2),)


@pytest.mark.parametrize(
    "name", ["utils", "RouteManager", "_info", "do_it", "handle_event", "_lodging", "Resident"]
)
def test_a_banned_word_is_found_in_either_spelling(name: str) -> None:
    assert house_style.is_banned(name)


@pytest.mark.parametrize("name", ["OPERATOR_FIELD_MANAGER", "processes", "understanding", "gear"])
def test_a_word_of_kubernetes_or_a_longer_one_is_not_banned(name: str) -> None:
    assert not house_style.is_banned(name)


def test_names_are_those_that_a_module_defines() -> None:
    text = "import info\n\n\ndef tell(data: str) -> None:\n    info.helper(wishes=data)\n"
    assert house_style.read("crds/ledger.py", text).banned == ("data", "ledger")


def test_what_keeps_every_bar_misses_none() -> None:
    assert missed(module()) == []


@pytest.mark.parametrize(
    ("changes", "point"),
    [
        ({"path": "operator/handover_operator/controller.py"}, "pure share of lines"),
        ({"lines": 501}, "module lines, median / p90 / most"),
        ({"functions": (Function("f", 61, 1),)}, "function lines, median / p90 / most"),
        ({"functions": (Function("f", 1, 7),)}, "parameters, most"),
        ({"comments": 2}, "comments per code line"),
        ({"comments": 10}, "comments per code line"),
        ({"docstrings": 8}, "docstring lines per code line"),
        ({"ignores": 6}, "type ignores"),
        ({"banned": ("ears",)}, "banned words in names"),
    ],
    ids=str,
)
def test_what_misses_a_bar_is_told(changes: dict[str, object], point: str) -> None:
    assert point in missed(module(**changes), module(**changes), tests=300)


def test_too_few_tests_and_too_many_are_told() -> None:
    assert missed(module(), tests=99) == ["tests : sources"]
    assert missed(module(), tests=181) == ["tests : sources"]


def test_a_miss_says_where_to_look_first() -> None:
    rows = house_style.bars([module(), module(path="x/long.py", lines=501)], ["handover_api"], 700)
    assert "MISS" in house_style.table(rows)
    assert "x/long.py" in house_style.table(rows)
