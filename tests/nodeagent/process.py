"""The agent as a process on a node of its own, with a guest behind it and a control plane."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
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
BEGIN, END = "203.0.113.77", "203.0.113.78"
PATIENCE = 30.0
API = "/apis/handover.dev/v1alpha1"
COLLECTIONS = {
    "WorkloadEndpoint": f"{API}/namespaces/default/workloadendpoints",
    "HandoverConfiguration": f"{API}/handoverconfigurations",
    "LiveMigration": f"{API}/namespaces/default/livemigrations",
}
ENDPOINT = f"{COLLECTIONS['WorkloadEndpoint']}/vm"
DEFAULT = f"{COLLECTIONS['HandoverConfiguration']}/default"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
EVENTS = "/api/v1/namespaces/default/events"
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


class Proxy:
    """A port of the node that leads to the API server while it is open; TLS goes through.

    To an agent it is a server that dies: its connections break, and new ones are refused. One
    that is back at once, where the API server's own start takes seconds.
    """

    def __init__(
        self, node: Namespace, target: int, listen: Callable[[int], socket.socket] | None = None
    ) -> None:
        """Lead from and to places of *node*; or from where *listen*, given a port, listens."""
        self.port = 0
        self._target = target
        self._listen = listen or (lambda port: socket.create_server(("127.0.0.1", port)))
        self._led: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(node,))
        self._thread.start()
        self.open()

    def open(self) -> None:
        """Lead to the API server."""
        self._await(self._open())

    def shut(self) -> None:
        """Break all connections, and refuse new ones."""
        self._await(self._shut())

    def end(self) -> None:
        """Shut it for good."""
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, node: Namespace) -> None:
        enter(node)
        self._loop.run_forever()

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._listen(self.port))
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        self._server.close()
        # All of this loop's, not those that lead alone: another one may just be accepted.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._lead(reader, writer))
        self._led.add(task)
        # Whether it has begun or not when it is cancelled.
        task.add_done_callback(lambda _: writer.transport.abort())
        task.add_done_callback(self._led.discard)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))
        finally:
            far_writer.transport.abort()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write all that is read, and close when that ends."""
    try:
        while octets := await reader.read(1 << 16):
            writer.write(octets)
            await writer.drain()
    except ConnectionError:
        writer.transport.abort()
    finally:
        writer.close()


class Admin:
    """The cluster admin, who keeps one connection to the API server; for one thread."""

    def __init__(self, kubeconfig: Path) -> None:
        found = yaml.safe_load(kubeconfig.read_text())
        cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
        context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        context.load_cert_chain(user["client-certificate"], user["client-key"])
        address = cluster["server"].removeprefix("https://")
        self._connection = http.client.HTTPSConnection(address, context=context, timeout=PATIENCE)

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        """Send one request, and return the answer with its status."""
        sent = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        try:
            self._connection.request(method, path, sent, headers)
            answer = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            # The server ends a connection on which nothing was said for long.
            self._connection.close()
            self._connection.request(method, path, sent, headers)
            answer = self._connection.getresponse()
        text = answer.read().decode()
        # Of a path that is not served the answer is no object.
        return answer.status, json.loads(text) if text.startswith("{") else {"message": text}

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@dataclass
class Site:
    """A node with a tap, the guest behind it, and a control plane that the node can reach."""

    node: Namespace
    guest: Namespace
    plane: ControlPlane
    admin: Admin
    """In the worker, as the API server is reached from the node alone."""
    proxy: Proxy
    """By which the agent reaches the API server."""
    worker: ThreadPoolExecutor

    def call(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Send one request as cluster admin: a kubectl for each look would take a processor."""
        send = partial(self.admin.request, method, path, body, content_type)
        status, answer = self.worker.submit(send).result()
        assert status < 300, answer
        return answer

    def has(self, path: str) -> bool:
        """Tell whether the API server has something at *path*."""
        status, _ = self.worker.submit(self.admin.request, "GET", path).result()
        return status == http.HTTPStatus.OK

    def delete(self, path: str) -> None:
        """Delete an object, and wait until it is gone: of a CRD, with all of its kind."""
        self.call("DELETE", path)
        until(lambda: not self.has(path))

    @property
    def kubeconfig(self) -> Path:
        """The agent's: the cluster admin's by way of the proxy."""
        return self.proxied(self.proxy)

    def proxied(self, proxy: Proxy) -> Path:
        """Return the cluster admin's kubeconfig by way of *proxy*."""
        own = self.plane.kubeconfig
        path = own.with_suffix(f".{proxy.port}")
        if not path.exists():
            url = self.plane.url.replace(f":{self.plane.shape.port}", f":{proxy.port}")
            path.write_text(own.read_text().replace(self.plane.url, url))
        return path

    @contextlib.contextmanager
    def api_away(self) -> Iterator[None]:
        """Let the API server be away for the agent meanwhile."""
        self.proxy.shut()
        try:
            yield
        finally:
            self.proxy.open()

    def install(self) -> None:
        """Install the CRDs, and wait until they are served."""
        for manifest in sorted(CRDS.glob("*.yaml")):
            crd = yaml.safe_load(manifest.read_text())
            path = f"{DEFINITIONS}/{crd['metadata']['name']}{APPLY}"
            self.call("PATCH", path, crd, APPLY_PATCH)
        until(lambda: all(map(self.has, COLLECTIONS.values())))

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
        """Collect what happens to the routes of the VM meanwhile, from the first to the last."""
        told: list[str] = []
        with tempfile.NamedTemporaryFile() as log:
            process = subprocess.Popen(
                self.node.command("ip", "-oneline", "monitor", "route"), stdout=log
            )
            try:
                # Until it hears, nothing may happen; and nothing that it has not heard may be over.
                until(lambda: self._is_heard(BEGIN, Path(log.name)))
                yield told
                until(lambda: self._is_heard(END, Path(log.name)))
            finally:
                process.terminate()
                process.wait()
            lines = Path(log.name).read_text().splitlines()
            told += [line.strip() for line in lines if ADDRESS in line]

    def _is_heard(self, mark: str, log: Path) -> bool:
        """Let a route of nobody's come and go, and tell whether *log* has it."""
        self.node.run(f"ip route add {mark} dev lo && ip route delete {mark} dev lo")
        return mark in log.read_text()


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
            "KUBECONFIG": str(self.site.kubeconfig),
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
