"""Tests of the lab get a second try, which is told; no other test does."""

import json
from pathlib import Path
from typing import Final

import pytest

from handover_lab.testing import second_try

MARKERS: Final = "markers =\n    lab\n    cluster\n    four_nodes\n    root\n"

FAILS_ONCE: Final = """
    import pathlib

    import pytest

    def first_time(name):
        path = pathlib.Path(name)
        is_first = not path.exists()
        path.touch()
        return is_first
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Make an empty project whose tests may know that they run a second time."""
    pytester.makeini(f"[pytest]\n{MARKERS}")
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run its tests with the plugin."""
    return project.runpytest_inprocess("-p", second_try.__name__, "-p", "no:asyncio", *options)


def record(project: pytest.Pytester) -> list[dict[str, object]]:
    """Return what the run has written."""
    found: list[dict[str, object]] = json.loads(path_of_record(project).read_text())
    return found


def path_of_record(project: pytest.Pytester) -> Path:
    """Return where a run writes it."""
    return project.path / "build" / "flaky.json"


def write(project: pytest.Pytester, body: str) -> None:
    """Write the project's one module of tests."""
    project.makepyfile(FAILS_ONCE + body)


@pytest.mark.parametrize("marker", second_try.MARKERS)
def test_a_test_that_fails_once_passes_and_is_named(project: pytest.Pytester, marker: str) -> None:
    write(
        project,
        f"""
    @pytest.mark.{marker}
    def test_it():
        assert not first_time("it"), "too slow"
    """,
    )
    result = run(project)
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "=* passed at the second try =*",
            "*s  test_a_test_that_fails_once_passes_and_is_named.py::test_it",
            "*AssertionError: too slow",
        ]
    )
    (found,) = record(project)
    assert found["test"] == "test_a_test_that_fails_once_passes_and_is_named.py::test_it"
    assert found["error"] == "AssertionError: too slow"
    assert isinstance(found["seconds"], float)


def test_a_test_that_fails_twice_has_failed_and_shows_both(project: pytest.Pytester) -> None:
    write(
        project,
        """
    @pytest.mark.lab
    def test_it():
        assert False, "first" if first_time("it") else "second"
    """,
    )
    result = run(project)
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: second", "*how the first try failed*"])
    result.stdout.fnmatch_lines(["*AssertionError: first*"])
    result.stdout.no_fnmatch_line("*passed at the second try*")
    assert record(project) == []


@pytest.mark.parametrize("marker", ["", "@pytest.mark.root"])
def test_no_other_test_runs_twice(project: pytest.Pytester, marker: str) -> None:
    write(
        project,
        f"""
    {marker}
    def test_it():
        assert not first_time("it")
    """,
    )
    run(project).assert_outcomes(failed=1)
    assert not path_of_record(project).exists()


def test_a_test_that_passes_runs_once_and_leaves_an_empty_record(
    project: pytest.Pytester,
) -> None:
    write(
        project,
        """
    @pytest.mark.lab
    def test_it():
        assert first_time("it")
    """,
    )
    run(project).assert_outcomes(passed=1)
    assert record(project) == []


def test_a_run_replaces_in_the_record_what_it_has_run_itself(project: pytest.Pytester) -> None:
    write(project, "\n    @pytest.mark.lab\n    def test_it():\n        pass\n")
    before = [{"test": f"{name}.py::test_it", "error": "", "seconds": 1.0} for name in "ab"]
    path_of_record(project).parent.mkdir()
    path_of_record(project).write_text(json.dumps(before))
    (project.path / "a.py").write_text(next(project.path.glob("test_*.py")).read_text())

    run(project, "a.py").assert_outcomes(passed=1)

    assert record(project) == before[1:]


def test_fixtures_are_set_up_afresh_but_what_the_session_shares(project: pytest.Pytester) -> None:
    write(
        project,
        """
    def told(scope):
        with open("fixtures", "a") as file:
            file.write(f"+{scope} ")
        yield object()
        with open("fixtures", "a") as file:
            file.write(f"-{scope} ")

    @pytest.fixture(scope="session")
    def shared():
        yield from told("session")

    @pytest.fixture(scope="module")
    def of_module(shared):
        yield from told("module")

    @pytest.fixture
    def own(of_module):
        yield from told("function")

    @pytest.mark.lab
    def test_it(own):
        assert not first_time("it")

    @pytest.mark.lab
    def test_next(own):
        pass
    """,
    )
    run(project).assert_outcomes(passed=2)
    first = "+session +module +function -function -module"
    second = "+module +function -function"
    following = "+function -function -module -session"
    told = (project.path / "fixtures").read_text().split()
    assert told == [*first.split(), *second.split(), *following.split()]


def test_a_session_fixture_that_fails_is_set_up_once_more_and_no_third_time(
    project: pytest.Pytester,
) -> None:
    write(
        project,
        """
    @pytest.fixture(scope="session")
    def shared():
        with open("fixtures", "a") as file:
            file.write("+")
        raise RuntimeError("no cluster")

    @pytest.mark.cluster
    @pytest.mark.parametrize("number", range(4))
    def test_it(shared, number):
        pass
    """,
    )
    run(project).assert_outcomes(errors=4)
    assert (project.path / "fixtures").read_text() == "++"


def test_a_session_fixture_that_fails_once_serves_all_tests(project: pytest.Pytester) -> None:
    write(
        project,
        """
    @pytest.fixture(scope="session")
    def shared():
        if first_time("cluster"):
            raise RuntimeError("no cluster")

    @pytest.mark.cluster
    @pytest.mark.parametrize("number", range(4))
    def test_it(shared, number):
        pass
    """,
    )
    run(project).assert_outcomes(passed=4)
    (found,) = record(project)
    assert found["error"] == "RuntimeError: no cluster"


def test_a_failing_teardown_gets_a_second_try(project: pytest.Pytester) -> None:
    write(
        project,
        """
    @pytest.fixture
    def own():
        yield
        assert not first_time("teardown")

    @pytest.mark.lab
    def test_it(own):
        pass
    """,
    )
    run(project).assert_outcomes(passed=1)
    assert len(record(project)) == 1


def test_a_skip_after_a_failure_is_no_pass(project: pytest.Pytester) -> None:
    write(
        project,
        """
    @pytest.mark.lab
    def test_it():
        if not first_time("it"):
            pytest.skip("not today")
        assert False
    """,
    )
    run(project).assert_outcomes(failed=1)
    assert record(project) == []


def test_each_try_has_all_of_its_time(project: pytest.Pytester) -> None:
    write(
        project,
        """
    import time

    @pytest.mark.lab
    @pytest.mark.timeout(1)
    def test_it():
        time.sleep(0.7)
        assert not first_time("it")
    """,
    )
    run(project).assert_outcomes(passed=1)
    assert len(record(project)) == 1


def test_the_first_failure_does_not_end_a_run_that_stops_at_one(project: pytest.Pytester) -> None:
    write(
        project,
        """
    @pytest.mark.lab
    def test_it():
        assert not first_time("it")

    @pytest.mark.lab
    def test_next():
        pass
    """,
    )
    run(project, "--exitfirst").assert_outcomes(passed=2)
