"""A node's control group, alike in every hierarchy of this machine: v1, hybrid or v2.

All processes of a node, those of its pods too, stand in groups below its own: whoever ends those
has ended the node. Its name is what :mod:`handover_lab.processes.cgroups` looks for when a
sandbox is gone.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from handover_lab.processes import cgroups

NEEDED: Final = frozenset({"cpu", "cpuset", "memory", "pids"})
"""Without these controllers no kubelet runs."""

PATIENCE: Final = 10.0
SHARES: Final = (("cpu.shares", "10240"), ("cpu.weight", "1000"))
"""Of the processors, ten times the usual, by the two names of one knob."""


class GroupError(RuntimeError):
    """This machine's control groups do not serve, or do not let go; the text says why."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """One group per hierarchy, all of one name."""

    name: str
    paths: tuple[Path, ...]

    @classmethod
    def make(cls, sandbox: str, node: str) -> Self:
        """Make the groups of *node*, and in them the one for its programs.

        Raises:
            GroupError: they cannot be made.
        """
        name = f"handover-{sandbox}-{node}"
        tops = cgroups.hierarchies()
        try:
            for top in tops:
                make_branch(top, name, "node", shared=all(map(is_v2, tops)))
        except OSError as error:
            message = f"No control group can be made here, and no kubelet runs without: {error}."
            raise GroupError(message) from error
        return cls(name, tuple(top / name for top in tops))

    @property
    def programs(self) -> tuple[str, ...]:
        """Where the node's own programs stand, beside the pods."""
        return tuple(str(path / "node") for path in self.paths)

    def prefer(self) -> None:
        """Let nobody else's work be taken for this node's, where the kernel offers a knob."""
        for path in self.paths:
            for knob, value in SHARES:
                if (path / knob).exists():
                    with contextlib.suppress(OSError):
                        (path / knob).write_text(value)

    def allow_real_time(self, microseconds: int) -> None:
        """Let the node's own programs use the real-time class, for so long of each second.

        Where the kernel shares that class out (``RT_GROUP_SCHED``) a new group has nothing of it:
        then no program of the node's could be as urgent as on a node without.
        """
        for group in (*self.paths, *map(Path, self.programs)):
            knob = group / "cpu.rt_runtime_us"
            if knob.exists():
                knob.write_text(str(microseconds))

    def take(self, pid: int) -> None:
        """Let process *pid* go on beside the node's own programs."""
        for group in self.programs:
            Path(group, "cgroup.procs").write_text(str(pid))

    def processes(self, only: Iterable[str] = ()) -> frozenset[int]:
        """Return the processes in these groups, by their numbers in our own PID namespace.

        Where *only* has names, just the groups so called count.
        """
        names = frozenset(only)
        found: set[int] = set()
        for path in self.paths:
            for group, _, _ in os.walk(path):
                if not names or Path(group).name in names:
                    found.update(processes_of(Path(group)))
        return frozenset(found)

    def end(self) -> None:
        """Kill all processes in these groups, see them go, and remove the groups.

        Raises:
            GroupError: some do not go.
        """
        deadline = time.monotonic() + PATIENCE
        while alive := self.processes():
            if time.monotonic() > deadline:
                message = f"Processes of {self.name} do not end: {sorted(alive)}."
                raise GroupError(message)
            kill(alive)
        for path in self.paths:
            cgroups.remove(path, deadline)


def processes_of(group: Path) -> frozenset[int]:
    """Return the processes in *group* itself; one that is gone, or goes just now, has none."""
    try:
        return frozenset(map(int, (group / "cgroup.procs").read_text().split()))
    except OSError as error:
        cgroups.raise_unless_gone(error)
        return frozenset()


def make_branch(group: Path, *names: str, shared: bool) -> None:
    """Make a branch of groups in *group*; when *shared*, all controllers go along."""
    for name in names:
        if shared:
            for controller in offered(group):
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
        group /= name
        group.mkdir(exist_ok=True)
        # Empty, as it is new, a v1 cpuset takes no process.
        for file in (group / "cpuset.cpus", group / "cpuset.mems"):
            if file.exists() and not is_v2(group):
                file.write_text((group.parent / file.name).read_text())


def kill(pids: Iterable[int]) -> None:
    """Kill the processes *pids* and wait a little for one to end."""
    with contextlib.ExitStack() as files:
        poll = select.poll()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                # By a descriptor: a number may be another process's by the time of the signal.
                process = os.pidfd_open(pid)
                files.callback(os.close, process)
                signal.pidfd_send_signal(process, signal.SIGKILL)
                poll.register(process, select.POLLIN)
        poll.poll(100)


def missing() -> frozenset[str]:
    """Name the controllers that a kubelet needs and this machine does not offer."""
    return NEEDED.difference(*map(offered, cgroups.hierarchies()))


def offered(top: Path) -> frozenset[str]:
    """Name the controllers of the hierarchy *top*; v1 has them in the name of its directory."""
    if is_v2(top):
        return frozenset((top / "cgroup.controllers").read_text().split())
    return frozenset(top.name.split(","))


def is_v2(group: Path) -> bool:
    """Whether *group* is part of a v2 hierarchy."""
    return (group / "cgroup.controllers").exists()
