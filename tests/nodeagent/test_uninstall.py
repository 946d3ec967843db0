"""The uninstall that asks for it: parked routes back, ours and the guard out, and nothing after."""

import signal
from typing import Any

import pytest
from tests.nodeagent.process import ADDRESS, DEFAULT, MERGE_PATCH, Agent, Site, until

from handover_nodeagent.uninstall import Requests

FOREIGN = f"{ADDRESS} dev tap0 scope link"


def request(value: str) -> dict[str, Any]:
    """Compose the metadata of HandoverConfiguration ``default``."""
    return {"annotations": {"handover.dev/uninstall": value}}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([{}], [False]),
        ([{}, request("a")], [False, True]),
        ([request("a"), request("a"), request("b")], [False, False, True]),
        ([{}, request("a"), request("a")], [False, True, True]),
        ([request("a"), {}], [False, False]),
    ],
    ids=["none", "asked", "an old one, then asked", "seen again", "an old one goes"],
)
def test_only_what_changes_while_we_run_asks_us(
    seen: list[dict[str, Any]], expected: list[bool]
) -> None:
    requests = Requests()

    assert [requests.is_new(metadata) for metadata in seen] == expected


def configure(site: Site, on_uninstall: str, **metadata: Any) -> None:
    """Write HandoverConfiguration ``default``."""
    site.apply("HandoverConfiguration", "default", {"onUninstall": on_uninstall}, **metadata)


def ask(site: Site, value: str = "now") -> None:
    """Ask for the uninstall, as the chart's hook does."""
    site.call("PATCH", DEFAULT, {"metadata": request(value)}, MERGE_PATCH)


def tables(site: Site) -> str:
    """Return the ARP guard."""
    return site.node.run("nft list ruleset")


def serve(site: Site, agent: Agent) -> None:
    """Have a VM whose CNI has made a route, which is parked while ours stands."""
    site.node.run(f"ip route flush table 5254 || true; ip route replace {FOREIGN}")
    site.endpoint()
    agent.start().ready()
    until(lambda: [route for route in site.routes() if "metric 1024" in route] == site.routes())
    until(lambda: "10.65.0.2" in tables(site))
    assert ADDRESS in site.node.run("ip route show table 5254")


@pytest.mark.root
@pytest.mark.api
def test_a_node_is_handed_back_and_the_vm_is_never_without_a_route(
    site: Site, agent: Agent
) -> None:
    configure(site, "handBack")
    serve(site, agent)

    with site.watching() as told:
        ask(site)
        until(lambda: '"event": "handed_back"' in agent.log, agent)
        until(lambda: not site.status().get("routes"), agent)

    assert site.routes() == [FOREIGN]
    assert "handover" not in tables(site)
    assert site.node.run("ip route show table 5254") == ""
    # The foreign one came before ours went.
    assert told[0].startswith(ADDRESS)
    assert told[-1].startswith("Deleted")
    # Nothing comes again, whatever happens.
    site.node.run(f"ip link set tap0 down; ip link set tap0 up; ip route replace {FOREIGN}")
    site.say("target")
    assert "handed back" in agent.ask("/readyz")
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(10) == 0
    assert site.routes() == [FOREIGN]


@pytest.mark.root
@pytest.mark.api
def test_a_target_that_waits_does_not_draw_what_its_guest_should_get(
    site: Site, agent: Agent
) -> None:
    configure(site, "handBack")
    site.node.run(f"ip route flush table 5254 || true; ip route replace {FOREIGN}")
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.routes() == [])

    ask(site)
    until(lambda: '"event": "handed_back"' in agent.log, agent)

    assert site.routes() == []
    # It waits for nobody any more.
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(10) == 0


@pytest.mark.root
@pytest.mark.api
def test_an_agent_that_is_to_keep_keeps_and_an_old_request_asks_nobody(
    site: Site, agent: Agent
) -> None:
    configure(site, "keep")
    serve(site, agent)
    before = site.routes()

    ask(site)
    # What comes after it tells that the agent has seen it.
    site.apply("HandoverConfiguration", "default", {"onUninstall": "keep", "targetTimeout": "9m"})
    until(lambda: '"targetTimeout": "9m"' in agent.log, agent)
    assert site.routes() == before
    agent.kill()
    configure(site, "handBack", annotations={"handover.dev/uninstall": "now"})
    agent.start().ready()

    assert site.routes() == before
    assert '"event": "handed_back"' not in agent.log
