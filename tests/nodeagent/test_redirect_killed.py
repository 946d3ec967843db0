"""Statement 24: whoever dies, and wherever, a guest that answers is served, and nothing goes round.

Two agents as processes on their nodes, with the real operator and API server. Each is killed by
SIGKILL at every step of a redirect and of its roll-back, while the API is up or away.
"""

import contextlib
from collections.abc import Iterator

import pytest
from tests.nodeagent.agents_net import ELEVATED, NORMAL, TAP, TUNNEL, AgentsNet, Watch, path

from handover_api import names

pytestmark = [pytest.mark.root, pytest.mark.api]

UP_OR_AWAY = pytest.mark.parametrize("is_up", [True, False], ids=["API up", "API away"])
SWITCHING = [
    # The source: before HAVE is followed, when its route is replaced, when conntrack is told.
    ("a", "before word", True),
    ("a", "before word", False),
    ("a", "before redirect", True),
    ("a", "after redirect", True),
    ("a", "after redirect", False),
    ("a", "after table", True),
    # The target: before its route, with it but before HAVE, after HAVE.
    ("b", "before sending", True),
    ("b", "after sending", True),
    ("b", "after sending", False),
    ("b", "after saying", True),
]
ROLLING_BACK = [
    # The source: when its route is back, and when that was said.
    ("a", "after exchange", True),
    ("a", "after exchange", False),
    ("a", "after saying later", True),
    # The target: before it follows, and when it has.
    ("b", "before word", True),
    ("b", "after redirect", True),
    ("b", "after redirect", False),
]
GOING_ON = {"a": "after redirect", "b": "after redirect", "c": "after sending"}
"""Where one of three dies when the guest goes on to c."""


@contextlib.contextmanager
def api(net: AgentsNet, *, is_up: bool) -> Iterator[None]:
    """Let the API be away meanwhile, or not."""
    with contextlib.nullcontext() if is_up else net.api_away():
        yield


def await_return(net: AgentsNet) -> None:
    """See that the guest is served at a again, and the API knows it.

    Until then its word that the target has the guest may come once more: the guest is asked, and
    keeps its route.
    """
    net.until(lambda: net.leads("a") == TAP, "the source serves")
    net.until(lambda: names.PEER_LIVE not in net.annotations("a"), "the API has heard of it")


@pytest.mark.parametrize(("node", "moment", "is_up"), SWITCHING)
def test_statement_24_killed_while_the_redirect_is_made(
    net: AgentsNet, node: str, moment: str, *, is_up: bool
) -> None:
    with Watch(net) as watch:
        with api(net, is_up=is_up):
            death = net.order_death(node, moment)
            net.move("b")
            net.await_death(node, death)
            net.until(lambda: net.leads("b") == TAP, "the target serves")
            watch.served = "b"
        # At the latest by the API's word: a target that starts anew has a key that is not known.
        net.until(lambda: net.leads("a") == TUNNEL, "the source sends on")
        net.await_arrival("b")
        net.end("m", "Succeeded")
        net.until(lambda: net.state("b") == "Base", "it has converged")
        net.site.delete(path("a"))
        net.until(lambda: net.leads("a") == "", "the redirect has ended")
        watch.served = ""
    assert watch.seen == []
    assert net.routes("b")[4] == [(NORMAL, TAP)]


@pytest.mark.parametrize(("node", "moment", "is_up"), ROLLING_BACK)
def test_statement_24_killed_while_it_is_rolled_back(
    net: AgentsNet, node: str, moment: str, *, is_up: bool
) -> None:
    net.redirect()
    with Watch(net) as watch:
        with api(net, is_up=is_up):
            death = net.order_death(node, moment)
            # It failed, and runs at the source again, which says nothing: its agent asks.
            net.place("a")
            net.await_death(node, death)
            net.until(lambda: net.leads("a") == TAP, "the source serves")
        net.until(lambda: net.leads("b") == TUNNEL, "the target sends on")
        await_return(net)
        watch.served = "a"
        net.await_arrival("a")
        net.end("m", "Aborted")
        net.until(lambda: names.ROLE not in net.annotations("b"), "the outcome is told")
        net.await_arrival("a")
        net.site.delete(path("b"))
        net.until(lambda: net.leads("b") == "", "the redirect has ended")
        watch.served = ""
    assert watch.seen == []
    assert net.routes("a")[4] == [(NORMAL, TAP)]


@UP_OR_AWAY
def test_statement_24_killed_in_each_state_that_lasts(net: AgentsNet, *, is_up: bool) -> None:
    net.redirect()
    net.until(lambda: net.exceptions("a"), "the firewall makes an exception")
    with Watch(net) as watch:
        watch.served = "b"
        with api(net, is_up=is_up):
            for node, device in (("a", TUNNEL), ("b", TAP)):
                net.restart_agent(node)
                assert net.leads(node) == device
                net.await_arrival("b")
        net.end("m", "Succeeded")
        net.until(lambda: net.state("b") == "TimeWait", "the source has left, and the target knows")
        with api(net, is_up=is_up):
            for node in "ba":
                net.restart_agent(node)
                net.await_arrival("b")
        net.until(lambda: net.state("b") == "Base", "it has converged")
        # By a metric that nobody exports, now that it has left.
        assert all(metric not in {NORMAL, ELEVATED} for metric, _ in net.routes("a")[4])
        net.agents["a"].kill()
        net.site.delete(path("a"))
        net.agents["a"].start()
        net.until(lambda: net.leads("a") == "", "the redirect has ended")
        watch.served = ""
    assert watch.seen == []


def test_statement_24_the_targets_node_dies_after_the_redirect(net: AgentsNet) -> None:
    net.redirect()
    with Watch(net) as watch:
        net.run("r", "ip link set tob down")
        net.place()
        net.restart_agent("a")
        assert net.leads("a") == TUNNEL
        # Who restarts the VM where it was is served there at once, whatever the API believes.
        net.place("a")
        net.until(lambda: net.leads("a") == TAP, "the source serves")
        await_return(net)
        watch.served = "a"
        assert net.arrives("a") == "a"
        # And the dead node believes it when it is back.
        net.run("r", "ip link set tob up")
        net.until(lambda: net.leads("b") == TUNNEL, "the target sends on")
        net.await_arrival("a")
        net.end("m", "Aborted")
        net.site.delete(path("b"))
        net.until(lambda: net.leads("b") == "", "the redirect has ended")
        watch.served = ""
    assert watch.seen == []


def test_statement_24_agents_that_cannot_reach_each_other_hear_it_from_the_api(
    net: AgentsNet,
) -> None:
    with net.blocked("ab", "udp dport 7473"), Watch(net) as watch:
        net.move("b")
        net.until(lambda: net.leads("b") == TAP, "the target serves")
        watch.served = "b"
        net.until(lambda: net.leads("a") == TUNNEL, "the API repairs")
        net.await_arrival("b")
        # And back again.
        watch.served = ""
        net.place("a")
        await_return(net)
        watch.served = "a"
        net.until(lambda: net.leads("b") == TUNNEL, "the API repairs")
        net.await_arrival("a")
        watch.served = ""
    assert watch.seen == []


@pytest.mark.parametrize("killed", ["", *GOING_ON])
def test_statement_24_a_guest_that_goes_on_to_a_third_node_at_once(
    net: AgentsNet, killed: str
) -> None:
    net.redirect()
    net.end("m", "Succeeded")
    net.endpoint("c", awaitRole=True)
    net.migrate("n", "b", "c")
    net.until(lambda: net.state("c") == "Target", "the next target listens")
    net.until_redirectable("c")
    with Watch(net) as watch:
        death = net.order_death(killed, GOING_ON[killed]) if killed else 0
        net.move("c")
        if killed:
            net.await_death(killed, death)
        net.until(lambda: net.leads("c") == TAP, "the next target serves")
        watch.served = "c"
        for via in "abc":
            net.until(lambda: net.arrives(via) == "c", f"it arrives by {via}")  # noqa: B023  at once
        net.end("n", "Succeeded")
        for name in "ab":
            net.site.delete(path(name))
            net.until(lambda: net.leads(name) == "", "the redirect has ended")  # noqa: B023  at once
        watch.served = ""
    assert watch.seen == []


def test_statement_24_both_say_that_they_have_it(net: AgentsNet) -> None:
    """Two run of one guest, which must not be, but nothing goes round between them."""
    net.redirect()
    with Watch(net) as watch:
        before = returns(net)
        # The source's kernel answers as well, and each hears of the other.
        net.place("a", "b")
        net.until(lambda: returns(net) > before, "the source serves")
        for _ in range(10):
            for via in "ab":
                assert net.arrives(via) in {"a", "b"}
        # Bounded: each of them believes the other once, and asks its own guest from then on.
        assert returns(net) <= before + 2
        # Whatever they have settled on, the one that is left is the one that is served.
        net.place("b")
        net.announce("b")
        net.end("m", "Succeeded")
        net.until(lambda: net.leads("b") == TAP, "the target serves")
        watch.served = "b"
        net.until(lambda: net.arrives("b") == "b", "it arrives")
        watch.served = ""
    assert watch.seen == []


def returns(net: AgentsNet) -> int:
    """Count how often an agent has found a guest that another one had."""
    logs = (net.agents[node].log.read_text() for node in "ab")
    return sum(log.count('"input": "Announced", "before": "Redirected"') for log in logs)
