"""Stages run beside each other, are shown one after the other, and no failure is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handover_lab.testing.stages import main

INI = "[pytest]\nmarkers =\n  one\n  two\n"
MEETING = """
import pathlib, time
import pytest

def meet(mine, other):
    pathlib.Path(mine).touch()
    deadline = time.monotonic() + 60
    while not pathlib.Path(other).exists():
        assert time.monotonic() < deadline, "the other stage does not run"
        time.sleep(0.01)

@pytest.mark.one
def test_one():
    meet("one", "two")

@pytest.mark.two
def test_two():
    meet("two", "one")
"""
VERDICTS = """
import pytest

@pytest.mark.one
def test_one():
    assert {one}

@pytest.mark.two
def test_two():
    assert {two}
"""


def stages(room: Path, test: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a project of its own."""
    (room / "pytest.ini").write_text(INI)
    (room / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "handover_lab.testing.stages", *argv]
    # Plugins take most of such a short run.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        command, cwd=room, env=environment, capture_output=True, text=True, check=False
    )


def test_they_run_at_the_same_time(tmp_path: Path) -> None:
    done = stages(tmp_path, MEETING, "first=one", "second=two", "--", "-q")
    assert done.returncode == 0, done.stdout


def test_words_after_a_stage_are_its_own_and_those_in_the_end_are_everybodys(
    tmp_path: Path,
) -> None:
    test = VERDICTS.format(one=True, two=True)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "test_it.py").write_text(test)
    inside = ("inside=one or two", "part")
    outside = ("outside=one or two", "--ignore=part")
    modes = ("--import-mode=importlib", "-v")
    done = stages(tmp_path, test, *inside, *outside, "--", *modes)
    shown = [line.partition(" ")[0] for line in done.stdout.splitlines() if "PASSED" in line]
    tests = ("test_it.py::test_one", "test_it.py::test_two")
    assert shown == [*(f"part/{test}" for test in tests), *tests]


def test_each_one_is_shown_whole_and_in_its_turn(tmp_path: Path) -> None:
    test = VERDICTS.format(one=True, two=True)
    done = stages(tmp_path, test, "first=one", "second=two", "--", "-v")
    shown = [
        word
        for line in done.stdout.splitlines()
        for word in ("first", "test_one", "second", "test_two")
        if word in line
    ]
    assert shown == ["first", "test_one", "second", "test_two"]


@pytest.mark.parametrize(
    ("one", "two", "failed"),
    [(False, True, "first"), (True, False, "second"), (False, False, "first, second")],
)
def test_one_that_fails_fails_all_and_is_named(
    tmp_path: Path, *, one: bool, two: bool, failed: str
) -> None:
    done = stages(tmp_path, VERDICTS.format(one=one, two=two), "first=one", "second=two")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == f"Failed: stage {failed}"


def test_a_stage_without_a_test_is_a_failure(tmp_path: Path) -> None:
    done = stages(tmp_path, VERDICTS.format(one=True, two=True), "none=one and two")
    assert done.returncode == 1


@pytest.mark.parametrize("argv", [(), ("one",), ("=one",), ("--", "-q")])
def test_an_odd_command_line_is_told(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith("usage:")
