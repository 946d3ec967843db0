"""A short life of a node with everything that may happen to it; `make soak` is the long one."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.root, pytest.mark.api]


def test_nothing_is_left_of_a_short_and_busy_life() -> None:
    python = [sys.executable, "-m"]
    soak = [*python, "handover_lab.testing.soak", "--seconds", "10", "--endpoints", "20"]
    command = [*python, "handover_lab.sandbox", "--", *soak]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "leaves" in done.stdout
