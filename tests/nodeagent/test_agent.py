"""The agent as a process of its own: a real API server, a real kernel, and what goes wrong."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from handover_lab import tools
from handover_lab.controlplane import ControlPlane
from handover_lab.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.api]

CRDS = Path(__file__).parents[2] / "crds"
PROGRAM = Path(sys.executable).with_name("handover-nodeagent")
MAC = "52:54:00:65:00:02"
ADDRESS = "10.65.0.2"
PATIENCE = 20.0
ANNOUNCE = """
import socket
frame = bytes.fromhex("ffffffffffff525400650002" "8035000108000604" "0003"
    "52540065000200000000" "52540065000200000000") + bytes(18)
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as guest:
    guest.bind(("eth", 0))
    guest.send(frame)
"""


def until(is_so: Callable[[], Any], agent: "Agent | None" = None) -> Any:
    """Wait until something is so, and return it; fail with the agent's log when it never is."""
    deadline = time.monotonic() + PATIENCE
    while not (found := is_so()):
        if time.monotonic() > deadline:
            pytest.fail(f"never seen; {agent.log[-4000:] if agent else 'no agent'}")
        time.sleep(0.02)
    return found


@dataclass
class Site:
    """A node with a tap, the guest behind it, and a control plane that the node can reach."""

    node: Namespace
    guest: Namespace
    plane: ControlPlane
    kubectl: Path
    worker: ThreadPoolExecutor

    def inside(self, work: Callable[[], Any]) -> Any:
        """Do *work* in a thread that lives in the node's network namespace."""
        return self.worker.submit(work).result()

    def run(self, *argv: str, text: str = "") -> str:
        """Run kubectl as cluster admin."""
        command = self.node.command(
            str(self.kubectl), "--kubeconfig", str(self.plane.kubeconfig), *argv
        )
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> None:
        """Install the CRDs, and wait until they are served."""
        for manifest in sorted(CRDS.glob("*.yaml")):
            self.run("apply", "--server-side", "-f", str(manifest))
        self.run("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        until(lambda: "handoverconfigurations" in self.run("api-resources", "-o", "name"))

    def apply(self, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> None:
        """Apply one object."""
        document = {
            "apiVersion": "handover.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, **metadata},
            "spec": spec,
        }
        self.run("apply", "-f", "-", text=json.dumps(document))

    def endpoint(self, **spec: Any) -> None:
        """Apply the endpoint of the VM on this node."""
        defaults = {"node": "node-a", "workload": "vm", "interface": "tap0", "mac": MAC}
        self.apply("WorkloadEndpoint", "vm", defaults | {"ips": [ADDRESS]} | spec)

    def say(self, said: str, uid: str = "m1") -> None:
        """Annotate the endpoint as the operator would: "target", "target Succeeded" or ""."""
        role, _, outcome = said.partition(" ")
        values = {
            "role": role if not outcome else "",
            "migration-uid": uid,
            "outcome": outcome,
            "ended-role": role if outcome else "",
        }
        words = [f"handover.dev/{k}={v}" if v else f"handover.dev/{k}-" for k, v in values.items()]
        self.run("annotate", "--overwrite", "wep", "vm", *words)

    def status(self) -> dict[str, Any]:
        """Return what the agent reports."""
        found: dict[str, Any] = json.loads(self.run("get", "wep", "vm", "-o", "json"))
        return found.get("status") or {}

    def condition(self, kind: str) -> tuple[str, str] | None:
        """Return status and reason of a condition."""
        for condition in self.status().get("conditions", []):
            if condition["type"] == kind:
                return condition["status"], condition["reason"]
        return None

    def announce(self) -> None:
        """Let the guest send a RARP."""
        subprocess.run(self.guest.command(sys.executable, "-c", ANNOUNCE), check=True)

    def routes(self) -> list[str]:
        """Return the routes to the VM."""
        return [
            line.strip()
            for line in self.node.run("ip route show table main").splitlines()
            if line.startswith(ADDRESS)
        ]

    def is_elevated(self) -> bool:
        """Tell whether the VM's only route is an elevated one of ours."""
        return [line for line in self.routes() if "metric 512" in line] == self.routes() != []

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Collect what happens to the routes of the VM meanwhile."""
        told: list[str] = []
        process = subprocess.Popen(
            self.node.command("ip", "-oneline", "monitor", "route"),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield told
        finally:
            process.terminate()
            assert process.stdout is not None
            with process:
                told += [line.strip() for line in process.stdout if ADDRESS in line]


@dataclass
class Agent:
    """One agent process after the other, with one state directory."""

    site: Site
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What all of them have logged."""
        return (self.directory / "log").read_text()

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(self.site.plane.kubeconfig),
            "HANDOVER_NODE_NAME": "node-a",
            "HANDOVER_STATE_DIRECTORY": str(self.directory / "state"),
            **self.environment,
        }

    def start(self) -> "Agent":
        """Start one; it may not be ready yet."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.site.node.command(*self.prefix, str(PROGRAM), "run"),
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        return self

    def ready(self) -> "Agent":
        """Wait until it is ready."""
        until(lambda: self.ask("/readyz") == "ok\n", self)
        return self

    def ask(self, path: str) -> str:
        """Read one of its pages; "" while nobody answers."""
        curl = self.site.node.command("curl", "-s", f"http://127.0.0.1:8081{path}")
        return subprocess.run(curl, capture_output=True, text=True, check=False).stdout

    def command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run another of its commands beside it, as a person on the node does."""
        return subprocess.run(
            self.site.node.command(*self.prefix, str(PROGRAM), *argv),
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def kill(self) -> None:
        """End it as nobody can prepare for."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it, however it stands."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
            self.process.wait()


def enter(namespace: Namespace) -> None:
    """Move the calling thread into *namespace*."""
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{namespace.holder.pid}/ns/net").open("rb") as file:
        assert libc.setns(file.fileno(), 0x40000000) == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Make the namespaces, and start the control plane in the node's."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    try:
        kubectl = tools.locate("kubectl")
    except tools.ToolsError as error:
        pytest.skip(str(error))
    node, guest = Namespace.make("node"), Namespace.make("guest")
    node.run(
        f"ip link add tap0 address ee:ee:ee:ee:ee:ee type veth peer name eth netns "
        f"{guest.holder.pid}; ip link set tap0 up"
    )
    guest.run(f"ip link set eth address {MAC} up")
    # One thread, which lives as long as the processes that it starts.
    worker = ThreadPoolExecutor(1, initializer=enter, initargs=(node,))
    directory = tmp_path_factory.mktemp("plane")
    plane = worker.submit(lambda: ControlPlane.start(directory)).result()
    it = Site(node, guest, plane, kubectl, worker)
    it.install()
    yield it
    worker.submit(plane.stop).result()
    worker.shutdown()
    node.end()
    guest.end()


@pytest.fixture
def agent(site: Site, tmp_path: Path) -> Iterator[Agent]:
    """Prepare an agent for an endpoint that nothing is left of afterwards."""
    site.guest.run("ip link set eth arp off; ip address flush dev eth")
    it = Agent(site, tmp_path)
    yield it
    it.stop()
    site.run("delete", "--ignore-not-found", "wep,handoverconfigurations", "--all")
    site.node.run("ip route flush proto 88; nft flush ruleset")


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
    until(lambda: "CutOver" in site.run("get", "events"))
    assert '"event": "transition"' in agent.log


def test_a_live_vm_keeps_its_route_when_agent_and_api_die(site: Site, agent: Agent) -> None:
    """Guards design 9.1: without the memory the restarted agent would know no endpoint."""
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    site.announce()
    until(lambda: site.status().get("state") == "Live")
    with site.watching() as told:
        site.inside(site.plane.stop_api)
        agent.kill()
        agent.start()
        until(lambda: agent.log.count('"event": "endpoint"') == 2, agent)
        until(lambda: agent.log.count('"event": "outage"') >= 1, agent)
        assert site.is_elevated()
        site.inside(site.plane.start_api)
        agent.ready()
        until(lambda: site.status().get("state") == "Live")
    assert [line for line in told if line.startswith("Deleted")] == []


def test_an_announcement_counts_while_the_api_is_down(site: Site, agent: Agent) -> None:
    site.endpoint()
    site.say("target")
    agent.start().ready()
    until(lambda: site.condition("Listening") == ("True", "Listening"))
    site.inside(site.plane.stop_api)
    site.announce()
    until(site.is_elevated)
    site.inside(site.plane.start_api)
    status = until(lambda: site.status() if site.status().get("lastCutover") else None)
    assert status["state"] == "Live"
    page = agent.ask("/metrics")
    assert re.search(r'watch_restarts_total{kind="WorkloadEndpoint",reason="[a-z]+"} [1-9]', page)
    assert re.search(r'reports_total{kind="status",result="written"} [1-9]', page)


def test_a_guest_that_came_while_the_agent_was_dead_is_found(site: Site, agent: Agent) -> None:
    """Guards design 9.1 and 9.5: without the probe nobody would hear of it again."""
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
    """Guards design 9.17: the routes outlive their objects, which go with the CRD."""
    site.endpoint()
    site.guest.run(f"ip link set eth arp on; ip address add {ADDRESS}/32 dev eth")
    agent.start().ready()
    until(site.routes)
    with site.watching() as told:
        site.run("delete", "crd", "workloadendpoints.handover.dev")
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
    site.run("delete", "handoverconfiguration", "node.node-a")
    until(lambda: site.condition("Programmed") == ("True", "Programmed"))


def test_a_configuration_that_this_node_cannot_follow_changes_nothing(
    site: Site, agent: Agent
) -> None:
    """Guards design 9.11: the API server accepts it, as it knows no node's environment."""
    agent.environment["HANDOVER_IPV4_ELEVATED_ROUTE_PRIORITY"] = "900"
    site.endpoint()
    agent.start().ready()
    until(lambda: any("metric 1024" in line for line in site.routes()))
    with site.watching() as told:
        site.apply("HandoverConfiguration", "default", {"ipv4NormalRoutePriority": 800})
        until(lambda: site.condition("Configured") == ("False", "Invalid"))
        (said,) = (c for c in site.status()["conditions"] if c["type"] == "Configured")
        assert "ipv4ElevatedRoutePriority" in said["message"]
        assert "handover_nodeagent_configuration_valid 0.0" in agent.ask("/metrics")
    assert told == []
    site.apply("HandoverConfiguration", "default", {"ipv4NormalRoutePriority": 2048})
    until(lambda: site.condition("Configured") == ("True", "Accepted"))
    until(lambda: [line for line in site.routes() if "metric 2048" in line] == site.routes() != [])


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
