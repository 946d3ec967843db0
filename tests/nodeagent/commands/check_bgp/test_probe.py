"""Whatever ends the command, nothing of the probe is left; what is another's is not touched."""

import signal
import subprocess
import sys
import time

import pytest
from tests.nodeagent.node import Node
from tests.nodeagent.privileges import without_privileges

from handover_api.configuration import Settings
from handover_nodeagent.commands.check_bgp import levels, probe
from handover_nodeagent.commands.check_bgp.probe import ProbeError

pytestmark = pytest.mark.root

LEVELS = levels.of(Settings())
HOLD = """
import sys, time
from handover_api.configuration import Settings
from handover_nodeagent.commands.check_bgp import levels, probe
with probe.placed("handover-probe", 88, 254) as placed:
    placed.add(levels.of(Settings()))
    print("placed", flush=True)
    time.sleep(60)
"""


def left(node: Node) -> str:
    """Return what there is of the probe on the node."""
    links = [line for line in node.lines("ip -oneline link show") if "probe" in line]
    routes = node.lines("ip route show proto 88") + node.lines("ip -6 route show proto 88")
    return "\n".join([*links, *routes])


def hold() -> subprocess.Popen[str]:
    """Start a program that holds the probe, and wait until it does."""
    program = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "placed\n"
    program.stdout.close()
    return program


def test_the_routes_are_as_the_agents_own_and_are_replaced_in_place(node: Node) -> None:
    with probe.placed("handover-probe", 88, 254) as placed:
        assert placed.add(LEVELS) == LEVELS
        first = node.lines("ip route show proto 88"), node.lines("ip -6 route show proto 88")
        placed.replace(LEVELS)
        second = node.lines("ip route show proto 88"), node.lines("ip -6 route show proto 88")
        assert placed.remaining(LEVELS) == LEVELS
        addresses = node.run("ip -oneline address show dev handover-probe")

    assert first == (
        [
            "192.0.2.88 dev handover-probe scope link metric 512",
            "192.0.2.89 dev handover-probe scope link metric 1024",
        ],
        [
            "2001:db8::88 dev handover-probe metric 512 pref medium",
            "2001:db8::89 dev handover-probe metric 1024 pref medium",
        ],
    )
    assert [[one.replace("probe1", "probe") for one in family] for family in second] == list(first)
    # A speaker that tells of connected networks has nothing to tell.
    assert addresses == ""
    assert left(node) == ""


def test_an_error_leaves_nothing(node: Node) -> None:
    message = "odd"

    def fail() -> None:
        with probe.placed("handover-probe", 88, 254) as placed:
            placed.add(LEVELS)
            raise ValueError(message)

    with pytest.raises(ValueError, match=message):
        fail()
    assert left(node) == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(node: Node, number: signal.Signals) -> None:
    program = hold()
    assert left(node)
    program.send_signal(number)

    assert program.wait(20) == 128 + number
    assert left(node) == ""


def test_a_second_signal_cuts_the_removal_short_nowhere(node: Node) -> None:
    program = hold()
    for _ in range(20):
        program.send_signal(signal.SIGTERM)
        time.sleep(0.001)

    # Once all is removed, the default is in force again.
    assert program.wait(20) in {128 + signal.SIGTERM, -signal.SIGTERM}
    assert left(node) == ""


def test_what_a_kill_left_goes_with_the_next_run(node: Node) -> None:
    program = hold()
    program.kill()
    program.wait()
    assert "handover-probe1" in left(node)

    with probe.placed("handover-probe", 88, 254) as placed:
        assert placed.add(LEVELS) == LEVELS

    assert left(node) == ""


@pytest.mark.parametrize("name", ["handover-probe", "handover-probe1"])
def test_an_interface_of_somebody_elses_stays(node: Node, name: str) -> None:
    node.run(f"ip link add {name} type veth peer name theirs")

    with (
        pytest.raises(ProbeError, match=f"{name} is there already, and not this command's"),
        probe.placed("handover-probe", 88, 254),
    ):
        pass

    assert name in left(node)


def test_two_at_once_are_one_too_many(node: Node) -> None:
    program = hold()
    try:
        with (
            pytest.raises(ProbeError, match="another check-bgp runs here"),
            probe.placed("handover-probe", 88, 254),
        ):
            pass
        assert left(node)
    finally:
        program.terminate()
        program.wait()


def test_a_route_that_somebody_removes_is_missed(node: Node) -> None:
    with probe.placed("handover-probe", 88, 254) as placed:
        placed.add(LEVELS)
        node.run("ip route delete 192.0.2.89 metric 1024")
        assert set(LEVELS) - set(placed.remaining(LEVELS)) == {LEVELS[1]}


def test_a_node_without_ipv6_has_two_routes(node: Node) -> None:
    for interface in ("all", "default"):
        with open(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6", "w") as file:  # noqa: PTH123
            file.write("1")

    with probe.placed("handover-probe", 88, 254) as placed:
        assert placed.add(LEVELS) == LEVELS[:2]

    assert left(node) == ""


def test_without_privileges_it_is_said_why(node: Node) -> None:
    def refused() -> str:
        argv = [sys.executable, "-c", HOLD]
        return subprocess.run(argv, check=False, capture_output=True, text=True).stderr

    assert "ProbeError: the kernel refuses: " in without_privileges(refused)
    assert left(node) == ""
