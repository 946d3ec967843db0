"""Which faults are worked into a module, and that each one is there and alone."""

import ast
import enum

import pytest

from handover_lab.mutants import mutants
from handover_lab.mutants.mutation import changes


class Color(enum.Enum):
    """An enumeration that a module may know."""

    RED = 1
    BLUE = 2


def faults(source: str) -> list[str]:
    """Return what each fault makes of *source*."""
    texts = []
    for number in range(len(changes(ast.parse(source), {}))):
        tree = ast.parse(source)
        changes(tree, {"Color": Color})[number].make()
        texts.append(ast.unparse(ast.fix_missing_locations(tree)))
    return texts


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a == b", ["a != b"]),
        ("a < b", ["a <= b", "a >= b"]),
        ("a and b", ["a or b", "b", "a"]),
        ("a + 1", ["a - 1", "a + 2"]),
        ("f(x=y)", ["pass", "f()"]),
        ("any(x)", ["pass", "all(x)"]),
        ("x = {**a, 'b': c}", ["x = {'b': c}", "x = {**a}", "x = {**a, 'bXX': c}"]),
        ("x = (*a, b)", ["x = (b,)", "x = (*a,)"]),
        ("def f():\n    return x", ["def f():\n    return None"]),
        ("if a:\n    b.c = d", ["if not a:\n    b.c = d", "if a:\n    pass"]),
        ("if a in b:\n    x = y", ["if a not in b:\n    x = y"]),
        ("x = [a for a in b if a]", ["x = [a for a in b if not a]"]),
        ("x = not a", ["x = a"]),
    ],
)
def test_each_fault_is_worked_in_alone(source: str, expected: list[str]) -> None:
    assert sorted(faults(source)) == sorted(expected)


@pytest.mark.parametrize(
    "source",
    [
        '"""Words."""',
        "import a",
        "assert a == 1",
        "def f(a: 1 = b) -> 2:\n    pass",
        "@f(a=1)\nclass A:\n    pass",
        "Alias = a | b",
        "class A:\n    WORD = 'word'",
        "x = (a, b)",
    ],
)
def test_what_no_behavior_depends_on_is_left_alone(source: str) -> None:
    assert faults(source) == []


def test_a_member_becomes_the_next_one() -> None:
    tree = ast.parse("x = Color.BLUE\ny = other.BLUE")
    (change,) = changes(tree, {"Color": Color})
    change.make()
    assert ast.unparse(ast.fix_missing_locations(tree)) == "x = Color.RED\ny = other.BLUE"
    assert change.text == "Color.BLUE → Color.RED"


def test_of_a_long_line_what_differs_is_shown() -> None:
    (change, *_) = changes(ast.parse(f"def f():\n    g({'a' * 200}, b=c)"), {})
    assert (change.where, change.line) == ("f", 2)
    assert len(change.text) < 130


def test_a_module_that_nobody_measures_is_an_error_that_names_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mutants", "step", "stpe"])
    with pytest.raises(SystemExit, match="2"):
        mutants.main()
    assert "stpe; there are handover_nodeagent.fsm.step" in capsys.readouterr().err
