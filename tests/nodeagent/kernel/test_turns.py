"""The length of turns, with the running kernel."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from handover_nodeagent.kernel import turns

T = TypeVar("T")


def in_a_thread(call: Callable[[], T]) -> T:
    """Call where nobody else is concerned: turns belong to a thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def shortened() -> tuple[bool, float, float]:
    is_asked = turns.shorten()
    with ThreadPoolExecutor(1) as pool:
        return is_asked, turns.length(), pool.submit(turns.length).result()


def test_this_thread_and_those_that_it_starts_have_short_turns() -> None:
    is_asked, own, inherited = in_a_thread(shortened)
    if not own:
        pytest.skip("this kernel does not tell how long turns are (Linux < 6.12)")
    assert is_asked
    assert own == inherited == turns.SHORTEST
    assert turns.length() > turns.SHORTEST, "only the thread that asked"


def test_its_niceness_stays() -> None:
    def niceness() -> tuple[int, int]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 7)
        turns.shorten()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), os.sched_getscheduler(0)

    assert in_a_thread(niceness) == (7, os.SCHED_OTHER)


def test_a_length_that_the_kernel_does_not_take_is_clamped_or_refused() -> None:
    def absurd() -> float:
        turns.shorten(10.0)
        return turns.length()

    assert in_a_thread(absurd) <= 0.1


def test_an_unknown_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    assert not in_a_thread(turns.shorten)
    assert in_a_thread(turns.length) == 0.0


def test_a_thread_of_another_class_is_left_alone() -> None:
    # Whoever moved it there knows better.
    def batch() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return turns.shorten(), os.sched_getscheduler(0)

    assert in_a_thread(batch) == (False, os.SCHED_BATCH)
