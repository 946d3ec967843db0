"""A pytest plugin: a test of the lab that fails is run once more, and the run says so.

Emulated guests and whole clusters share a few cores with whatever else runs here, so a bar of
milliseconds is missed now and then. A test that passes at its second try has passed, but is named
in a closing table and in build/flaky.json. Only tests with a marker of the lab are ever run twice.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pytest

# The public hook of this name is all or nothing: it reports what it ran at once.
from _pytest.runner import runtestprotocol

MARKERS: Final = ("cluster", "lab", "four_nodes")
TABLE: Final = "passed at the second try"
FIRST_FAILURE: Final = "how the first try failed"


@dataclass(frozen=True, slots=True)
class FirstFailure:
    """How the first try of a test ended that passed at its second."""

    test: str
    error: str
    """What its traceback ends with: the exception, up to the end of the line."""
    seconds: float
    """How long it took, fixtures included."""


class SecondTry:
    """The plugin of one run; what it finds is written to the file *record*."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._found: list[FirstFailure] = []
        self._ran: set[str] = set()
        self._repeated: pytest.Item | None = None
        self._repeated_reports: Sequence[pytest.TestReport] = ()
        self._setup_error: BaseException | None = None
        self._given_up: list[BaseException] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Run a test of the lab, again if it fails; any other test is pytest's own affair."""
        if not any(item.get_closest_marker(marker) for marker in MARKERS):
            return None
        self._ran.add(item.nodeid)
        if item is self._repeated:
            self._repeated_reports = runtestprotocol(item, log=False, nextitem=nextitem)
            return True
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._run(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """Remember why a set-up failed: pytest raises the error of a fixture again and again."""
        if call.when == "setup":
            self._setup_error = call.excinfo.value if call.excinfo else None

    def pytest_sessionfinish(self) -> None:
        """Write the record, in which nothing of an earlier run of the same tests is left."""
        if self._ran:
            self._record.parent.mkdir(exist_ok=True)
            found = [*self._of_others(), *(asdict(failure) for failure in self._found)]
            self._record.write_text(json.dumps(found, indent=2) + "\n")

    def _of_others(self) -> list[dict[str, Any]]:
        """Return what runs of other tests have recorded: the lab's tests run in two parts."""
        try:
            known: list[dict[str, Any]] = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return []
        return [each for each in known if each["test"] not in self._ran]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the tests that passed at the second try, each with its first failure."""
        if self._found:
            terminalreporter.write_sep("=", TABLE, yellow=True)
        for failure in self._found:
            terminalreporter.write_line(f"{failure.seconds:7.1f}s  {failure.test}", yellow=True)
            terminalreporter.write_line(f"          {failure.error}")

    def _run(self, item: pytest.Item, nextitem: pytest.Item | None) -> Sequence[pytest.TestReport]:
        """Run *item* once or twice, and return the reports that count."""
        first = runtestprotocol(item, log=False, nextitem=nextitem)
        failures = [report for report in first if report.failed]
        if not failures or self._is_given_up():
            return first
        first += tear_down(item, everything=self._setup_error is not None)
        # By way of the hook, so that other plugins see a test of its own: pytest-timeout gives it
        # all of its time again.
        self._repeated = item
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        self._repeated = None
        second = self._repeated_reports
        if all(report.passed for report in second):
            seconds = sum(report.duration for report in first)
            failure = FirstFailure(item.nodeid, last_line(failures[0]), round(seconds, 1))
            self._found.append(failure)
            return second
        if self._setup_error is not None:
            self._given_up.append(self._setup_error)
        failed_again = [report for report in second if report.failed]
        for report in failed_again[:1]:
            report.sections.append((FIRST_FAILURE, failures[0].longreprtext))
        # One that was skipped at its second try has not passed.
        return second if failed_again else first

    def _is_given_up(self) -> bool:
        """Whether a fixture is at fault that two tests in a row could not set up.

        A cluster that does not start takes minutes to say so. It is not tried again for each of
        the tests that need it.
        """
        return any(self._setup_error is error for error in self._given_up)


def tear_down(item: pytest.Item, *, everything: bool) -> list[pytest.TestReport]:
    """Tear down what the first try has left for the tests after it, and return what failed then.

    Fixtures of a module or a class are set up afresh for the second try, and those of the session
    only where *everything* is asked for: where one of them may be the very failure. A cluster that
    stands is kept, for a new one takes a minute.
    """
    # The hook for it is for once: pytest's log capture, for one, puts its things away with it.
    state = item.session._setupstate  # noqa: SLF001
    # A session is a node, the first in every test's chain: pytest keeps what belongs to it.
    keep: Any = None if everything else item.session
    call = pytest.CallInfo.from_call(lambda: state.teardown_exact(keep), when="teardown")
    return [pytest.TestReport.from_item_and_call(item, call)] if call.excinfo else []


def last_line(report: pytest.TestReport) -> str:
    """Return the line with which the traceback of a failure ends."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text: str = crash.message if crash else report.longreprtext
    return text.strip().partition("\n")[0]


def pytest_configure(config: pytest.Config) -> None:
    """Take part in this run."""
    config.pluginmanager.register(SecondTry(config.rootpath / "build" / "flaky.json"))
