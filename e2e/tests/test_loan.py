"""A terminal is lent and comes back, whoever of the two ends first."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BORROWER = """
import signal, sys
from handover_lab.loan import Loan
loan = Loan.take()
print("hello from the other one", flush=True)
print("noise", file=sys.stderr, flush=True)
{then}
"""
LENDER = """
import sys
from pathlib import Path
from handover_lab import loan
returned = loan.lend((sys.executable, "-c", sys.argv[1]), Path(sys.argv[2]))
print(returned.status, returned.pid or "")
"""


def lender(then: str, log: Path) -> subprocess.Popen[str]:
    """Start a program that lends its standard output to one that does *then*."""
    argv = (sys.executable, "-c", LENDER, BORROWER.format(then=then), str(log))
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def is_alive(pid: int) -> bool:
    """Whether the process still runs."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_the_other_one_speaks_through_our_terminal_alone(tmp_path: Path) -> None:
    said, _ = lender("sys.exit(7)", tmp_path / "log").communicate(timeout=20)

    assert said == "hello from the other one\n7 \n"
    assert (tmp_path / "log").read_text() == "noise\n"


def test_a_terminal_that_was_given_back_is_free_while_the_other_one_lives(tmp_path: Path) -> None:
    # The end of the output is only read when nobody holds the pipe any more.
    said, _ = lender("loan.give_back(3); signal.pause()", tmp_path / "log").communicate(timeout=20)

    status, pid = said.splitlines()[1].split()
    assert status == "3"
    assert is_alive(int(pid))
    os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_wish_to_end_is_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    then = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); print('ready', flush=True)"
    process = lender(f"{then}; signal.pause()", tmp_path / "log")
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        pass

    process.send_signal(number)

    assert process.communicate(timeout=20)[0] == "9 \n"


def test_the_other_one_ends_with_an_owner_that_was_killed(tmp_path: Path) -> None:
    then = "import os; print(os.getpid(), flush=True); signal.pause()"
    process = lender(then, tmp_path / "log")
    assert process.stdout is not None
    process.stdout.readline()
    pid = int(process.stdout.readline())

    process.kill()

    process.communicate(timeout=20)
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
