"""The agent's time slices on a processor: how long they are, and before whose they come.

A task of the normal class may ask for short ones (sched_setattr(2), since Linux 6.12; what is
older ignores it). It buys no time, only an earlier start: on a busy node an agent with short
slices runs soon after a frame has woken it, where others first end theirs of 3 ms. No privilege is
needed.

A control group that has used more than its share waits all the same. Only the real-time class does
not, and that needs a privilege.
"""

import os
from typing import Final

from handover_nodeagent.kernel import capabilities, syscalls

SHORTEST: Final = 0.0001
"""Seconds; the kernel takes nothing shorter, and nothing longer than 0.1 s."""


def shorten(seconds: float = SHORTEST) -> bool:
    """Ask for slices of *seconds* for this thread and those that it starts; False if refused."""
    now = syscalls.sched_getattr()
    # Only in the normal class is the runtime the length of a slice.
    if now is None or now.policy != os.SCHED_OTHER:
        return False
    return syscalls.sched_setattr(now._replace(runtime=round(seconds * 1e9)))


def precede() -> str:
    """Let this thread run before all of the normal class; return why it may not, or "".

    Threads and programs that it starts are of the normal class: what they do is in no hurry, and
    must not keep a processor from the node.
    """
    lowest = os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO))
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, lowest)
    except OSError as error:
        if not capabilities.holds(capabilities.SYS_NICE):
            return "CAP_SYS_NICE is missing"
        # EPERM in spite of it: the group of version 1 has no time of that class (RT_GROUP_SCHED).
        return f"{error.strerror}; this kernel gives the pod's control group no real-time share"
    return ""


def recede() -> None:
    """Let this thread be of the normal class again, with short slices."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    shorten()


def give_way() -> None:
    """Let whoever is as urgent, and waits for this processor, run first; without such, go on.

    In the normal class nothing is done: there others' slices last for milliseconds.
    """
    if os.sched_getscheduler(0) & os.SCHED_FIFO:
        os.sched_yield()


def length() -> float:
    """Return how long this thread's slices are, in seconds; 0 where the kernel does not say."""
    now = syscalls.sched_getattr()
    return now.runtime / 1e9 if now else 0.0
