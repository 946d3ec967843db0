"""The agent as a process of its own: a real API server, a real kernel, and what goes wrong."""

import base64
import datetime as dt
import json
import os
import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.nodeagent.process import (
    ADDRESS,
    COLLECTIONS,
    DEFAULT,
    DEFINITIONS,
    ENDPOINT,
    EVENTS,
    MERGE_PATCH,
    PATIENCE,
    Agent,
    Site,
    until,
)

from handover_api import names
from handover_api.peer import Peer, peers_to_annotation
from handover_api.workloadendpoint import Role

pytestmark = [pytest.mark.root, pytest.mark.api]


def test_a_cutover_is_there_for_everybody_to_see(site: Site, agent: Agent) -> None:
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    assert site.routes() == []
    site.announce()
    until(site.is_elevated)
    status = until(lambda: site.status() if site.status().get("lastCutover") else None)
    assert status["state"] == "Live"
    assert status["migrationUID"] == "m1"
    assert status["lastCutover"]["signal"] == "RARP"
    assert status["lastCutover"]["migrationUID"] == "m1"
    assert status["routes"] == [{"address": ADDRESS, "metric": 512, "table": 254, "protocol": 88}]
    page = agent.ask("/metrics")
    assert re.search(r"handover_nodeagent_announcement_to_route_seconds_count 1\.0", page)
    assert 'handover_nodeagent_endpoints{state="Live"} 1.0' in page
    until(lambda: "CutOver" in json.dumps(site.call("GET", EVENTS)))
    assert '"event": "transition"' in agent.log


def test_a_live_vm_keeps_its_route_when_agent_and_api_die(site: Site, agent: Agent) -> None:
    """Guards the restart: without the memory the restarted agent would know no endpoint."""
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    site.announce()
    until(lambda: site.status().get("state") == "Live")
    with site.watching() as told:
        with site.api_away():
            agent.kill()
            agent.start()
            until(lambda: agent.log.count('"event": "endpoint"') == 2, agent)
            until(lambda: agent.log.count('"event": "outage"') >= 1, agent)
            assert site.is_elevated()
        agent.ready()
        until(lambda: site.status().get("state") == "Live")
    assert [line for line in told if line.startswith("Deleted")] == []


def test_an_announcement_counts_while_the_api_is_down(site: Site, agent: Agent) -> None:
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    with site.api_away():
        site.announce()
        until(site.is_elevated)
    status = until(lambda: site.status() if site.status().get("lastCutover") else None)
    assert status["state"] == "Live"
    # It counts what is written a moment after others can read it.
    counts(agent, r'watch_restarts_total{kind="WorkloadEndpoint",reason="[a-z]+"} [1-9]')
    counts(agent, r'reports_total{kind="status",result="written"} [1-9]')


def counts(agent: Agent, pattern: str) -> None:
    """Wait until the agent's metrics have it."""
    until(lambda: re.search(pattern, agent.ask("/metrics")), agent)


def test_a_time_wait_ends_while_the_api_is_down(site: Site, agent: Agent) -> None:
    """And with the agent killed meanwhile, by the deadline of the one before."""
    site.apply("HandoverConfiguration", "default", {"liveMigrationRouteConvergenceTime": "3s"})
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    site.announce()
    until(site.is_elevated)
    site.say("target Succeeded")
    deadline = until(lambda: site.status().get("deadline"))
    with site.api_away():
        agent.kill()
        agent.start()
        until(lambda: any("metric 1024" in line for line in site.routes()), agent)
        assert dt.datetime.now(dt.UTC) >= dt.datetime.fromisoformat(deadline)  # noqa: TID251
    until(lambda: site.status().get("state") == "Base", agent)


def test_a_guest_that_came_while_the_agent_was_dead_is_found(site: Site, agent: Agent) -> None:
    """Guards restart and silence: without the probe nobody would hear of it again."""
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    agent.kill()
    site.guest.run(f"ip link set eth arp on; ip address add {ADDRESS}/32 dev eth")
    agent.start()
    until(site.is_elevated)
    status = until(lambda: site.status() if site.status().get("lastCutover") else None)
    assert status["lastCutover"]["signal"] == "Probe"
    assert re.search(r"probe_to_answer_seconds_count [1-9]", agent.ask("/metrics"))


def test_a_removed_crd_takes_no_route_of_a_guest_that_answers(site: Site, agent: Agent) -> None:
    """Guards a running VM: the routes outlive their objects, which go with the CRD."""
    site.endpoint()
    site.guest.run(f"ip link set eth arp on; ip address add {ADDRESS}/32 dev eth")
    agent.start().ready()
    until(site.routes)
    with site.watching() as told:
        site.delete(f"{DEFINITIONS}/workloadendpoints.handover.dev")
        until(lambda: '"reason": "OrphanRoute"' in agent.log or "outage" in agent.log, agent)
        site.install()
        site.endpoint()
        until(lambda: site.status().get("state") == "Base", agent)
        assert site.routes() != []
    assert [line for line in told if "Deleted" in line] == []


def test_sigterm_waits_for_a_guest_that_may_come_any_moment(site: Site, agent: Agent) -> None:
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    assert agent.process is not None
    agent.process.terminate()
    until(lambda: '"event": "serving_on"' in agent.log)
    site.announce()
    until(site.is_elevated)
    assert agent.process.wait(PATIENCE) == 0
    assert site.is_elevated()
    assert site.status()["state"] == "Live"


def test_configuration_is_followed_while_the_agent_runs(site: Site, agent: Agent) -> None:
    site.endpoint()
    agent.start().ready()
    until(lambda: any("metric 1024" in line for line in site.routes()))
    site.apply("HandoverConfiguration", "default", {"ipv4NormalRoutePriority": 2048})
    until(lambda: [line for line in site.routes() if "metric 2048" in line] == site.routes() != [])
    generation = 'configuration_generation{name="default"} '
    assert generation in agent.ask("/metrics")
    site.apply("HandoverConfiguration", "node.node-a", {"mode": "paused"})
    until(lambda: site.condition("Programmed") == ("False", "NotActive"))
    site.delete(f"{COLLECTIONS['HandoverConfiguration']}/node.node-a")
    until(lambda: site.condition("Programmed") == ("True", "Programmed"))


def test_a_paused_namespace_is_left_alone_until_default_says_otherwise(
    site: Site, agent: Agent
) -> None:
    """Also by the next agent, without an API server, and while there is no default."""

    def pause(*namespaces: str) -> None:
        site.apply("HandoverConfiguration", "default", {})
        status = {"status": {"pausedNamespaces": namespaces}}
        site.call("PATCH", f"{DEFAULT}/status", status, MERGE_PATCH)

    site.endpoint()
    agent.start().ready()
    until(lambda: site.condition("Programmed") == ("True", "Programmed"))
    pause("default")
    until(lambda: site.condition("Programmed") == ("False", "NotActive"))
    agent.kill()
    with site.api_away():
        agent.start()
        until(lambda: agent.log.count('"event": "endpoint"') == 2, agent)
        site.node.run("ip route flush proto 88")
    agent.ready()
    site.delete(DEFAULT)
    site.say("source")
    until(lambda: site.condition("Programmed") == ("False", "NotActive"))
    assert site.routes() == []
    pause("elsewhere")
    until(lambda: site.condition("Programmed") == ("True", "Programmed"))
    assert site.routes() != []


def test_a_configuration_that_this_node_cannot_follow_changes_nothing(
    site: Site, agent: Agent
) -> None:
    """Guards settings of a node: the API server accepts it, as it knows no node's environment."""
    agent.environment["HANDOVER_IPV4_ELEVATED_ROUTE_PRIORITY"] = "900"
    site.apply("HandoverConfiguration", "default", {"ipv4NormalRoutePriority": 2048})
    site.endpoint()
    agent.start().ready()
    until(lambda: any("metric 2048" in line for line in site.routes()))
    with site.watching() as told:
        site.apply("HandoverConfiguration", "default", {"ipv4NormalRoutePriority": 800})
        until(lambda: site.condition("Configured") == ("False", "Invalid"))
        (said,) = (c for c in site.status()["conditions"] if c["type"] == "Configured")
        assert "ipv4ElevatedRoutePriority" in said["message"]
        assert "handover_nodeagent_configuration_valid 0.0" in agent.ask("/metrics")
        # The last good one stays for the next agent, too.
        agent.kill()
        agent.start().ready()
        until(lambda: "handover_nodeagent_configuration_valid 0.0" in agent.ask("/metrics"))
    assert told == []
    site.apply("HandoverConfiguration", "default", {"ipv4NormalRoutePriority": 4096})
    until(lambda: site.condition("Configured") == ("True", "Accepted"))
    until(lambda: [line for line in site.routes() if "metric 4096" in line] == site.routes() != [])


def test_a_priority_that_changes_while_the_agent_is_dead_leaves_a_guest_its_route(
    site: Site, agent: Agent
) -> None:
    """Guards: what the kernel has is read by what the last agent went by, and then moved."""
    site.apply("HandoverConfiguration", "default", {"ipv4ElevatedRoutePriority": 450})
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    site.announce()
    until(lambda: site.status().get("state") == "Live")
    agent.kill()
    site.apply("HandoverConfiguration", "default", {"ipv4ElevatedRoutePriority": 400})
    with site.watching() as told:
        agent.start().ready()
        until(lambda: [line for line in site.routes() if "metric 400" in line] == site.routes())
    assert ["Deleted" in line for line in told] == [False, True]
    # Killed before it was remembered as Live it may be asked once more.
    until(lambda: site.status()["state"] == "Live")
    assert '"after": "Asking"' not in agent.log


def test_a_node_that_changes_its_address_is_reached_there(site: Site, agent: Agent) -> None:
    """Status.agent is what the other side's agent and firewall go by."""

    def node_is_at(*addresses: str) -> None:
        shown = [{"type": "InternalIP", "address": address} for address in addresses]
        status = {"status": {"addresses": shown}}
        site.call("PATCH", "/api/v1/nodes/node-a/status", status, MERGE_PATCH)

    def reached_at() -> list[str]:
        found: list[str] = site.status().get("agent", {}).get("addresses", [])
        return found

    site.node.run("ip address add 192.0.2.1/32 dev lo")
    site.call("POST", "/api/v1/nodes", {"metadata": {"name": "node-a"}})
    agent.environment["HANDOVER_NODE_ADDRESSES"] = "192.0.2.1"
    try:
        site.endpoint()
        site.say("source")
        agent.start().ready()
        until(lambda: reached_at() == ["192.0.2.1"], agent)
        # The API may know of it before the kernel has it.
        node_is_at("192.0.2.7")
        until(lambda: '"event": "node_moved"' in agent.log, agent)
        site.node.run("ip address add 192.0.2.7/32 dev lo; ip address delete 192.0.2.1/32 dev lo")
        until(lambda: reached_at() == ["192.0.2.7"], agent)
        sockets = site.node.run("ss -Huln sport = :7473")
        assert "192.0.2.7:7473" in sockets
        assert "192.0.2.1:7473" not in sockets
    finally:
        site.call("DELETE", "/api/v1/nodes/node-a")
        site.node.run("ip address flush dev lo scope global")


def test_without_privileges_it_says_so_and_lives(site: Site, agent: Agent) -> None:
    site.endpoint()
    site.say("target")
    agent.prefix = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--")
    agent.start().ready()
    assert "CAP_NET_ADMIN is missing" in agent.log
    assert "CAP_NET_RAW is missing" in agent.log
    until(lambda: site.condition("Listening") == ("False", "CannotListen"))


def test_what_still_can_work_does(site: Site, agent: Agent) -> None:
    """Without CAP_NET_RAW nobody is heard; routes and guard are as they should be."""
    site.endpoint()
    agent.prefix = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", "--")
    agent.start().ready()
    assert "CAP_NET_ADMIN is missing" not in agent.log
    assert "CAP_NET_RAW is missing" in agent.log
    until(lambda: any("metric 1024" in line for line in site.routes()))
    until(lambda: f"saddr ip {ADDRESS}" in site.node.run("nft list ruleset arp"))
    assert site.condition("Programmed") == ("True", "Programmed")
    # A guest that nobody can ask, and that has routes, counts as there.
    site.say("target")
    until(site.is_elevated)
    site.say("target Succeeded")
    until(lambda: site.status().get("state") == "TimeWait")


def test_a_person_on_the_node_can_ask_it(site: Site, agent: Agent) -> None:
    site.endpoint()
    site.say("target")
    missing = agent.command("status")
    assert missing.returncode == 1
    assert "no agent runs on this node" in missing.stderr
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    site.announce()
    until(site.is_elevated)
    shown = until(lambda: text if "RARP" in (text := agent.command("status").stdout) else "")
    assert "node node-a" in shown
    assert "default/vm" in shown
    assert f"{ADDRESS} metric 512" in shown
    answer = json.loads(agent.command("status", "-o", "json").stdout)
    assert answer["endpoints"][0]["status"]["state"] == "Live"


def test_a_person_sees_where_a_guest_that_has_moved_is_led_to(site: Site, agent: Agent) -> None:
    target = Peer(
        uid="m1",
        endpoint="vm-b",
        node="node-b",
        role=Role.TARGET,
        public_key=base64.b64encode(bytes(32)).decode(),
        addresses=(ip_address("192.0.2.2"),),
        port=7473,
    )
    site.node.run("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up")
    site.node.run("ip address add 192.0.2.1/24 dev up0")
    agent.environment["HANDOVER_NODE_ADDRESSES"] = "192.0.2.1"
    try:
        site.endpoint()
        site.say("source")
        agent.start().ready()
        until(lambda: site.condition("Redirectable") == ("False", "NoPeer"), agent)
        said = {names.PEER: peers_to_annotation([target]), names.PEER_LIVE: "m1"}
        site.call("PATCH", ENDPOINT, {"metadata": {"annotations": said}}, MERGE_PATCH)
        until(lambda: site.status().get("state") == "Redirected", agent)
        led = f"{ADDRESS} metric 1024 to node-b by tunnel to 192.0.2.2"
        assert led in agent.command("status").stdout
        # What is left of it is no endpoint's any more.
        site.delete(ENDPOINT)
        until(lambda: "No endpoint is on this node" in agent.command("status").stdout, agent)
        rows = [line.split() for line in agent.command("status").stdout.splitlines()]
        assert [ADDRESS, "1026", "-", "tunnel", "to", "192.0.2.2"] in rows
    finally:
        agent.stop()
        site.node.run("ip link delete up0; ip link delete handover0; ip route flush proto 89")


def test_a_node_can_be_checked_beside_a_running_agent(site: Site, agent: Agent) -> None:
    site.endpoint()
    agent.start().ready()
    until(site.routes)
    done = agent.command("check", "-o", "json")
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert found["API rights"]["verdict"] == "ok"
    assert found["state directory"]["verdict"] == "ok"
    assert found["gateway MAC"]["message"].startswith("ee:ee:ee:ee:ee:ee")


def test_a_port_that_is_taken_is_named(site: Site, agent: Agent, tmp_path: Path) -> None:
    agent.start().ready()
    (tmp_path / "second").mkdir()
    second = Agent(site, tmp_path / "second").start()
    assert second.process is not None
    assert second.process.wait(PATIENCE) == 1
    assert "HANDOVER_PORT" in second.log


def test_a_device_without_a_mac_ends_no_life_of_the_agent(site: Site, agent: Agent) -> None:
    """Also not the next one, which remembers the endpoint."""
    site.node.run("ip tuntap add tun9 mode tun")
    site.node.run("ip link set tun9 up")
    site.endpoint(interface="tun9")
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Programmed") == ("False", "InterfaceRefused"), agent)
    agent.kill()
    agent.start().ready()
    assert agent.ask("/healthz") == "ok\n"
    assert '"event": "unexpected"' not in agent.log


def policies(agent: Agent) -> tuple[int, set[int]]:
    """Return the scheduling policy of the loop's thread, and those of all others."""
    assert agent.process is not None
    first = agent.process.pid
    threads = {int(task.name) for task in Path(f"/proc/{first}/task").iterdir()}
    return os.sched_getscheduler(first), {
        os.sched_getscheduler(thread) for thread in threads - {first}
    }


def test_with_a_high_priority_only_the_loop_runs_before_others_while_a_guest_is_awaited(
    site: Site, agent: Agent
) -> None:
    agent.environment["HANDOVER_PROCESSOR_PRIORITY"] = "high"
    agent.start().ready()
    if "real-time share" in agent.log:
        pytest.skip("this shell's control group has no real-time share (RT_GROUP_SCHED)")
    assert policies(agent) == (os.SCHED_OTHER, {os.SCHED_OTHER})
    site.endpoint(awaitRole=True)
    site.say("target")
    until(lambda: site.status().get("state") == "Target", agent)
    assert policies(agent) == (os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, {os.SCHED_OTHER})
    site.announce()
    until(lambda: site.status().get("state") == "Live", agent)
    assert policies(agent) == (os.SCHED_OTHER, {os.SCHED_OTHER})


def test_a_high_priority_without_the_privilege_is_said_and_nothing_else(agent: Agent) -> None:
    agent.environment["HANDOVER_PROCESSOR_PRIORITY"] = "high"
    agent.prefix = ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice")
    agent.start().ready()
    assert policies(agent) == (os.SCHED_OTHER, {os.SCHED_OTHER})
    assert "HANDOVER_PROCESSOR_PRIORITY=high: CAP_SYS_NICE is missing" in agent.log
