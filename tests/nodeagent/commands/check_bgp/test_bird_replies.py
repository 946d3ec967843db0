"""What BIRD says is read from recordings of real ones, of both major versions."""

from pathlib import Path

import pytest

from handover_nodeagent.commands.check_bgp import bird_replies
from handover_nodeagent.commands.check_bgp.bird_replies import BirdRoute, Channel, Reply

RECORDED = Path(__file__).with_name("recorded")
each_version = pytest.mark.parametrize("version", ["2.0.12", "3.1.8"])


def recorded(version: str, what: str) -> str:
    """Return what a BIRD of this version said, without the codes of its protocol."""
    return (RECORDED / f"bird-{version}-{what}.txt").read_text()


def test_a_reply_is_read_without_its_codes() -> None:
    lines = ["1007-Table master4:", " 192.0.2.88/32", "\tdev vm", "1008-\tType: inherit", "0000 "]

    assert [Reply.is_last(line) for line in lines] == [False, False, False, False, True]
    reply = Reply.of([lines[0], lines[1], *lines[3:]])
    assert reply == Reply(0, "Table master4:\n192.0.2.88/32\n\tType: inherit\n")
    assert Reply.of(["8001 Network not found"]) == Reply(8001, "Network not found")


@pytest.mark.parametrize(
    ("greeting", "expected"),
    [
        ("BIRD 2.0.12 ready.", (2, "2.0.12")),
        ("BIRD 3.1.8 ready.", (3, "3.1.8")),
        ("BIRD v1.6.8 ready.", (1, "1.6.8")),
        ("hello", (0, "hello")),
    ],
)
def test_the_release_is_read_from_the_greeting(greeting: str, expected: tuple[int, str]) -> None:
    assert bird_replies.release(greeting) == expected


@each_version
def test_protocols_are_read_with_their_channels(version: str) -> None:
    found = bird_replies.protocols(recorded(version, "protocols"))

    assert {"kernel4", "kernel6", "to_router_4", "to_router_6"} <= set(found)
    kernel, session = found["kernel4"], found["to_router_6"]
    assert (kernel.kind, kernel.is_up, set(kernel.channels)) == ("Kernel", True, {"ipv4"})
    expected = Channel("master4", 10, "from_kernel", "to_kernel", received=3, filtered=1)
    assert kernel.channels["ipv4"] == expected
    assert (session.kind, session.is_up, session.is_internal) == ("BGP", True, True)
    assert session.channels["ipv6"].preference == 100
    assert session.channels["ipv6"].output_filter == "to_mesh"


def test_a_session_that_is_down_or_external_is_told() -> None:
    (one,) = bird_replies.protocols(
        "away BGP        ---        start  12:00:00.000  Connect       Socket: refused\n"
        "  BGP state:          Connect\n"
        "    Neighbor address: 192.0.2.1\n"
        "    Neighbor AS:      64513\n"
        "    Local AS:         64512\n"
        "  Channel ipv4\n"
        "    State:          DOWN\n"
        "    Table:          master4\n"
        "  Channel flow4\n"
        "    State:          DOWN\n"
    ).values()

    assert (one.is_up, one.is_internal, one.state) == (False, False, "Connect")
    assert one.channels == {"ipv4": Channel("master4")}


@each_version
def test_a_route_is_read(version: str) -> None:
    learned = bird_replies.route(Reply(0, recorded(version, "route")))
    exported = bird_replies.route(Reply(0, recorded(version, "exported")))

    assert learned == BirdRoute("kernel4", 150, 1024, None)
    assert exported == BirdRoute("kernel4", 200, 512, 2147483135)


def test_of_several_routes_the_best_counts() -> None:
    text = (
        "Table master4:\n"
        "192.0.2.88/32        unicast [kernel4 19:39:30.176] * (150)\n"
        "\tdev vm\n"
        "\tKernel.metric: 1024\n"
        "                     unicast [to_b 19:39:30.176] (100) [i]\n"
        "\tvia 172.30.0.12 on eth0\n"
        "\tKernel.metric: 7\n"
    )

    assert bird_replies.route(Reply(0, text)) == BirdRoute("kernel4", 150, 1024, None)


@pytest.mark.parametrize("text", ["Network not found", "", "Table master4:\n"])
def test_no_route_is_none(text: str) -> None:
    assert bird_replies.route(Reply(8001, text)) is None
