"""The agent as a process on a node of its own, with a guest behind it and a control plane."""

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.nodeagent import namespaces

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.network.namespaces import Namespace

CRDS = Path(__file__).parents[2] / "crds"
PROGRAM = Path(sys.executable).with_name("handover-nodeagent")
MAC = "52:54:00:65:00:02"
ADDRESS = "10.65.0.2"
PATIENCE = 20.0
API = "/apis/handover.dev/v1alpha1"
COLLECTIONS = {
    "WorkloadEndpoint": f"{API}/namespaces/default/workloadendpoints",
    "HandoverConfiguration": f"{API}/handoverconfigurations",
}
ENDPOINT = f"{COLLECTIONS['WorkloadEndpoint']}/vm"
# As kubectl does it: what is left out of an object that is applied again goes.
APPLY = "?fieldManager=person&force=true"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
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

    def call(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Send one request as cluster admin: a kubectl for each look would take a processor."""
        return self.worker.submit(
            request, self.plane.kubeconfig, method, path, body, content_type
        ).result()

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
        self.call("PATCH", f"{COLLECTIONS[kind]}/{name}{APPLY}", document, APPLY_PATCH)

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
        annotations = {f"handover.dev/{key}": value or None for key, value in values.items()}
        self.call("PATCH", ENDPOINT, {"metadata": {"annotations": annotations}}, MERGE_PATCH)

    def status(self) -> dict[str, Any]:
        """Return what the agent reports."""
        return self.call("GET", ENDPOINT).get("status") or {}

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
    with Path(f"/proc/{namespace.holder.pid}/ns/net").open("rb") as file:
        namespaces.enter(file.fileno())


def request(
    kubeconfig: Path, method: str, path: str, body: object, content_type: str
) -> dict[str, Any]:
    """Send one request with the certificate that a kubeconfig names, and return the answer."""
    found = yaml.safe_load(kubeconfig.read_text())
    cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    context.load_cert_chain(user["client-certificate"], user["client-key"])
    address = cluster["server"].removeprefix("https://")
    connection = http.client.HTTPSConnection(address, context=context, timeout=PATIENCE)
    with contextlib.closing(connection):
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": content_type})
        answer = connection.getresponse()
        text = answer.read().decode()
    assert answer.status < 300, text
    result: dict[str, Any] = json.loads(text)
    return result
