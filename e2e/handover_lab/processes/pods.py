"""Control groups with the share of the processors that pods get for their cpu requests.

The kernel divides the processors between groups first, and then inside of each: whoever measures on
a busy node measures little where agent and neighbors stand in one group.
"""

import os
from pathlib import Path
from typing import Final

import yaml

from handover_lab.cluster import nodegroup
from handover_lab.cluster.nodegroup import GroupError
from handover_lab.docs.chart import CHART
from handover_lab.processes import cgroups
from handover_lab.sandbox import sandbox

SHARES_PER_CPU: Final = 1024
REAL_TIME: Final = "400000"
"""Of each second, in µs: where the kernel shares out the real-time class, a new group has nothing,
and nobody in it may use that class. All groups together have 950,000.
"""
ELSEWHERE: Final = 10_000
"""The request of what a node does not have: a control plane, and who measures."""


def chart_request() -> int:
    """Return the cpu request of the chart's agent, in thousandths of a processor."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    return millicores(values["nodeagent"]["resources"]["requests"]["cpu"])


def millicores(quantity: str) -> int:
    """Read a cpu quantity as Kubernetes writes it: 50m or 0.5."""
    return int(quantity[:-1]) if quantity.endswith("m") else round(float(quantity) * 1000)


def shares(request: int) -> int:
    """Return what the kubelet writes for a request: the knob of version 1."""
    return max(2, request * SHARES_PER_CPU // 1000)


def weight(request: int) -> int:
    """Return the same for version 2, as container runtimes convert it."""
    return 1 + (shares(request) - 2) * 9999 // 262142


def make(name: str, request: int, *, is_real_time: bool = False) -> Path:
    """Make the group of one pod; it goes with the sandbox that we are in.

    Where *is_real_time* its processes may ask for that class.

    Raises:
        GroupError: this machine has no control group for processors.
    """
    # On a hybrid machine the controller is in a hierarchy of version 1, and in no other.
    tops = [top for top in cgroups.hierarchies() if "cpu" in nodegroup.offered(top)]
    if not tops:
        message = "No control group here shares the processors out."
        raise GroupError(message)
    top = tops[0]
    nodegroup.make_branch(top, f"handover-{sandbox.current()}-{name}", shared=nodegroup.is_v2(top))
    group = top / f"handover-{sandbox.current()}-{name}"
    knobs = {"cpu.shares": str(shares(request)), "cpu.weight": str(weight(request))}
    if is_real_time:
        knobs["cpu.rt_runtime_us"] = REAL_TIME
    for knob, value in knobs.items():
        if (group / knob).exists():
            (group / knob).write_text(value)
    return group


def stand_aside() -> None:
    """Go on, with all that is started from now on, as if on another node: wait for nobody."""
    group = make("elsewhere", ELSEWHERE, is_real_time=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))


def neighbors(request: int = 1000) -> list[Path]:
    """Make a group for each processor, so that requests take all of them, as on a full node."""
    return [make(f"neighbor-{number}", request) for number in range(os.cpu_count() or 1)]


def inside(group: Path) -> tuple[str, ...]:
    """Compose what a command must begin with to run in *group*."""
    return ("sh", "-ec", 'echo $$ > "$1"; shift; exec "$@"', "sh", str(group / "cgroup.procs"))
