"""The length of time slices, with the running kernel."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from tests.nodeagent.privileges import without_privileges

from handover_nodeagent.kernel import capabilities, scheduling

T = TypeVar("T")


def in_a_thread(call: Callable[[], T]) -> T:
    """Call where nobody else is concerned: slices belong to a thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def shortened() -> tuple[bool, float, float]:
    is_asked = scheduling.shorten()
    with ThreadPoolExecutor(1) as pool:
        return is_asked, scheduling.length(), pool.submit(scheduling.length).result()


def test_this_thread_and_those_that_it_starts_have_short_slices() -> None:
    is_asked, own, inherited = in_a_thread(shortened)
    if not own:
        pytest.skip("this kernel does not tell how long slices are (Linux < 6.12)")
    assert is_asked
    assert own == inherited == scheduling.SHORTEST
    assert scheduling.length() > scheduling.SHORTEST, "only the thread that asked"


def test_its_niceness_stays() -> None:
    def niceness() -> tuple[int, int]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 7)
        scheduling.shorten()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), os.sched_getscheduler(0)

    assert in_a_thread(niceness) == (7, os.SCHED_OTHER)


def test_a_length_that_the_kernel_does_not_take_is_clamped_or_refused() -> None:
    def absurd() -> float:
        scheduling.shorten(10.0)
        return scheduling.length()

    assert in_a_thread(absurd) <= 0.1


def test_an_unknown_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    assert not in_a_thread(scheduling.shorten)
    assert in_a_thread(scheduling.length) == 0.0


def test_a_thread_of_another_class_is_left_alone() -> None:
    # Whoever moved it there knows better.
    def batch() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return scheduling.shorten(), os.sched_getscheduler(0)

    assert in_a_thread(batch) == (False, os.SCHED_BATCH)


def returning() -> tuple[int, int, float]:
    """Go before others and back; return the policies and the length of the slices then."""
    scheduling.precede()
    first = os.sched_getscheduler(0)
    scheduling.recede()
    return first, os.sched_getscheduler(0), scheduling.length()


@pytest.mark.root
def test_a_thread_that_went_before_others_is_of_the_normal_class_again() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: CAP_SYS_NICE")
    if "control group" in in_a_thread(scheduling.precede):
        pytest.skip("this shell's control group has no real-time share (RT_GROUP_SCHED)")
    first, then, length = in_a_thread(returning)
    assert (first, then) == (os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.SCHED_OTHER)
    assert length in {0.0, scheduling.SHORTEST}, "short slices, where the kernel knows them"


def preceding() -> tuple[str, int, int, int, int]:
    """Return what was said, and the policies of this thread and of what it starts."""
    said = scheduling.precede()
    policy, urgency = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    with ThreadPoolExecutor(1) as pool:
        of_thread = pool.submit(os.sched_getscheduler, 0).result()
    with subprocess.Popen(["sleep", "9"]) as program:
        of_program = os.sched_getscheduler(program.pid)
        program.kill()
    return said, policy, urgency, of_thread, of_program


@pytest.mark.root
def test_only_the_thread_that_asks_runs_before_the_normal_class() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: CAP_SYS_NICE")
    turn = in_a_thread(preceding)
    if "control group" in turn[0]:
        pytest.skip("this shell's control group has no real-time share (RT_GROUP_SCHED)")
    said, policy, urgency, of_thread, of_program = turn
    assert said == ""
    assert policy == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    assert urgency == 1, "behind everything of the kernel's own that is real-time"
    assert of_thread == os.SCHED_OTHER
    assert of_program == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "only the thread that asked"


@pytest.mark.root
def test_without_the_privilege_all_stays_and_it_is_said() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: gives privileges away")
    told, policy = without_privileges(lambda: (scheduling.precede(), os.sched_getscheduler(0)))
    assert (told, policy) == ("CAP_SYS_NICE is missing", os.SCHED_OTHER)


def test_with_the_privilege_it_is_the_control_group_that_does_not_let_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(capabilities, "holds", lambda number: number == capabilities.SYS_NICE)
    assert scheduling.precede() == (
        "Operation not permitted; this kernel gives the pod's control group no real-time share"
    )


def yields(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object]) -> int:
    yielded: list[int] = []
    monkeypatch.setattr(os, "sched_yield", lambda: yielded.append(1))

    def give_way() -> None:
        before()
        scheduling.give_way()

    in_a_thread(give_way)
    return len(yielded)


def test_what_is_not_urgent_does_not_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert yields(monkeypatch, lambda: None) == 0


@pytest.mark.root
def test_what_is_urgent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = in_a_thread(scheduling.precede)
    if refused:
        pytest.skip(f"no real-time class here: {refused}")
    assert yields(monkeypatch, scheduling.precede) == 1
