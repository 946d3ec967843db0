"""One node for measurements: real API server, real agent process, guests that are veth pairs.

Runs in a sandbox, whose network namespace is the node. The guests of all endpoints live in one
namespace of their own, and only send what they are told to.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes_asyncio import client, config

from handover_api import names
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.network.namespaces import WITH_US, Namespace

CRDS: Final = Path(__file__).parents[3] / "crds"
SOURCE: Final = Path(__file__).parents[2] / "bench" / "bench.c"
NODE: Final = "node-a"
NAMESPACE: Final = "default"
PORT: Final = 8081
PATIENCE: Final = 120.0
RTMGRP_IPV4_ROUTE: Final = 0x40
RTM_NEWROUTE: Final = 24
HEADER: Final = struct.Struct("=IHHII")
MERGE_PATCH: Final = "application/merge-patch+json"


class BenchError(RuntimeError):
    """A measurement could not be made; the text says which."""


@dataclass(frozen=True, slots=True)
class Guest:
    """One endpoint's guest, by its number."""

    number: int
    prefix: str = "tap"

    @property
    def tap(self) -> str:
        """The node's end."""
        return f"{self.prefix}{self.number}"

    @property
    def eth(self) -> str:
        """The guest's end."""
        return f"e{self.prefix}{self.number}"

    @property
    def mac(self) -> str:
        """Its MAC."""
        return f"52:54:00:65:{self.number >> 8:02x}:{self.number & 255:02x}"

    @property
    def address(self) -> IPv4Address:
        """Its address; those of other prefixes are others."""
        first = 65 if self.prefix == "tap" else 67
        return IPv4Address(f"10.{first}.{self.number >> 8}.{self.number & 255}")

    @property
    def rarp(self) -> bytes:
        """What QEMU sends for it."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        body = bytes.fromhex("0001080006040003") + mac + bytes(4) + mac + bytes(4)
        return b"\xff" * 6 + mac + bytes.fromhex("8035") + body + bytes(18)

    @property
    def endpoint(self) -> dict[str, Any]:
        """Its WorkloadEndpoint."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": "WorkloadEndpoint",
            "metadata": {"name": f"vm-{self.number}"},
            "spec": {
                "node": NODE,
                "workload": f"vm-{self.number}",
                "interface": self.tap,
                "mac": self.mac,
                "ips": [str(self.address)],
            },
        }


class Observer:
    """Sends a guest's frame and sees, from outside of the agent, when the kernel has its route."""

    def __init__(self, guests: Namespace) -> None:
        """Open both sockets: one where the guests are, one here."""
        with ThreadPoolExecutor(1, initializer=enter, initargs=(guests.holder.pid,)) as thread:
            make = lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # noqa: E731
            self._sender = thread.submit(make).result()
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._kernel.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
        self._kernel.bind((0, RTMGRP_IPV4_ROUTE))
        self._kernel.settimeout(3)

    def time(self, *guests: Guest) -> list[float]:
        """Announce all *guests* at once; return after how many µs each one's route was there."""
        self._drain()
        with preferred():
            return self._time(guests)

    def _time(self, guests: tuple[Guest, ...]) -> list[float]:
        awaited = {guest.address.packed: index for index, guest in enumerate(guests)}
        times = [0.0] * len(guests)
        frames = [(guest.rarp, (guest.eth, 0)) for guest in guests]
        send = self._sender.sendto
        began = time.perf_counter_ns()
        for frame, place in frames:
            send(frame, place)
        while awaited:
            try:
                heard = self._kernel.recv(65536)
            except TimeoutError:
                lost = ", ".join(guests[index].tap for index in awaited.values())
                message = f"no route within 3 s of the announcement on {lost}"
                raise BenchError(message) from None
            now = time.perf_counter_ns()
            if HEADER.unpack_from(heard)[1] != RTM_NEWROUTE:
                continue
            for address in [address for address in awaited if address in heard]:
                times[awaited.pop(address)] = (now - began) / 1000
        return times

    def announce(self, guest: Guest) -> None:
        """Send the guest's frame, and look at nothing."""
        self._sender.sendto(guest.rarp, (guest.eth, 0))

    def _drain(self) -> None:
        self._kernel.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while self._kernel.recv(65536):
                pass
        self._kernel.settimeout(3)

    def close(self) -> None:
        """Close both."""
        self._sender.close()
        self._kernel.close()


@contextlib.contextmanager
def preferred() -> Iterator[None]:
    """Let the caller not wait for a processor meanwhile: what it measures waits for one."""
    before = os.sched_getscheduler(0)
    with contextlib.suppress(PermissionError):  # then it waits like everybody
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


@dataclass
class Agent:
    """The real agent as a process."""

    kubeconfig: Path
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    state: Path | None = None
    """Where all of them remember; None: each begins anew."""
    environment: dict[str, str] = field(default_factory=dict)
    """Settings besides those that it must have."""
    prefix: tuple[str, ...] = ()
    """What its command begins with."""

    def start(self) -> None:
        """Start one."""
        state = self.state or self.directory / f"state-{time.monotonic_ns()}"
        environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(self.kubeconfig),
            "HANDOVER_NODE_NAME": NODE,
            "HANDOVER_PORT": str(PORT),
            "HANDOVER_STATE_DIRECTORY": str(state),
            **self.environment,
        }
        program = Path(sys.executable).with_name("handover-nodeagent")
        with (self.directory / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*WITH_US, *self.prefix, str(program), "run"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> None:
        """Wait until /readyz says ok."""
        deadline = time.monotonic() + PATIENCE
        while not await self._asks():
            if time.monotonic() > deadline or (self.process and self.process.poll() is not None):
                log = (self.directory / "agent.log").read_text()[-800:]
                message = f"the agent is not ready: {log}"
                raise BenchError(message)
            await asyncio.sleep(0.02)

    async def _asks(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        except OSError:
            return False
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return b" 200 " in answer[:16]

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """What all of its threads have used of a processor."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task")
        spent = (int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())
        return sum(spent) / 1e9

    def stop(self) -> None:
        """End it; a second time changes nothing."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Bed:
    """Everything that a measurement stands on."""

    directory: Path
    plane: ControlPlane
    guests: Namespace
    program: Path
    api: client.CustomObjectsApi
    observer: Observer
    agent: Agent
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def connect(self, guests: Iterable[Guest]) -> None:
        """Make a veth pair for each guest, up and silent."""
        here, there = [], []
        for guest in guests:
            here.append(
                f"link add {guest.tap} type veth peer name {guest.eth} netns "
                f"{self.guests.holder.pid}\nlink set {guest.tap} up"
            )
            there.append(f"link set {guest.eth} address {guest.mac} arp off up")
        batch(["ip"], here)
        batch(self.guests.command("ip"), there)

    async def create(self, guests: Iterable[Guest]) -> None:
        """Create their endpoints."""
        gate = asyncio.Semaphore(16)

        async def one(guest: Guest) -> None:
            async with gate:
                await self.api.create_namespaced_custom_object(*collection(), guest.endpoint)

        await asyncio.gather(*map(one, guests))

    async def targets(self, guests: Iterable[Guest], uid: str) -> None:
        """Make all of them targets of another migration, and wait until they are listened to."""
        annotations = {names.ROLE: "target", names.MIGRATION_UID: uid}
        patch = {"metadata": {"annotations": annotations}}
        wanted = {f"vm-{guest.number}" for guest in guests}
        gate = asyncio.Semaphore(16)

        async def one(name: str) -> None:
            async with gate:
                await self.api.patch_namespaced_custom_object(  # type: ignore[call-arg]
                    *collection(), name, patch, _content_type=MERGE_PATCH
                )

        await asyncio.gather(*map(one, wanted))
        deadline = time.monotonic() + PATIENCE
        while not await self._all_listen(wanted, uid):
            if time.monotonic() > deadline:
                message = f"not all of {len(wanted)} endpoints became Target"
                raise BenchError(message)
            await asyncio.sleep(0.05)

    async def _all_listen(self, wanted: set[str], uid: str) -> bool:
        found = await self.api.list_namespaced_custom_object(*collection())
        listening = {
            item["metadata"]["name"]
            for item in found["items"]
            if (status := item.get("status") or {}).get("state") == "Target"
            and status.get("migrationUID") == uid
            and any(
                (condition["type"], condition["status"]) == ("Listening", "True")
                for condition in status["conditions"]
            )
        }
        return wanted <= listening

    def run(self, *argv: str, inside: bool = False) -> subprocess.Popen[bytes]:
        """Start a helper that :meth:`end` ends; *inside*: where the guests are."""
        command = self.guests.command(*argv) if inside else [*WITH_US, *argv]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.helpers.append(process)
        return process

    def end(self) -> None:
        """End all helpers."""
        for process in self.helpers:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self.helpers.clear()


@contextlib.asynccontextmanager
async def bed(directory: Path) -> AsyncIterator[Bed]:
    """Make a bed in an empty *directory*, and take it apart."""
    plane = ControlPlane.start(directory / "plane")
    guests = Namespace.make("guests")
    program = directory / "bench"
    await asyncio.to_thread(compile_program, program)
    configuration = client.Configuration()
    await config.load_kube_config(str(plane.kubeconfig), client_configuration=configuration)
    observer = Observer(guests)
    agent = Agent(plane.kubeconfig, directory)
    async with client.ApiClient(configuration) as connection:
        api = client.CustomObjectsApi(connection)
        it = Bed(directory, plane, guests, program, api, observer, agent)
        try:
            await install(connection)
            yield it
        finally:
            it.end()
            agent.stop()
            observer.close()
            guests.end()
            plane.stop()


def compile_program(path: Path) -> None:
    """Compile the yardsticks."""
    subprocess.run(["gcc", "-O2", "-o", str(path), str(SOURCE)], check=True)


async def install(connection: client.ApiClient) -> None:
    """Install the CRDs, and wait until they are served."""
    extensions = client.ApiextensionsV1Api(connection)
    for path in sorted(CRDS.glob("*.yaml")):
        await extensions.create_custom_resource_definition(yaml.safe_load(path.read_text()))
    api = client.CustomObjectsApi(connection)
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(client.ApiException):
            await api.list_namespaced_custom_object(*collection())
            return
        if time.monotonic() > deadline:
            message = "the CRDs are not served"
            raise BenchError(message)
        await asyncio.sleep(0.05)


def collection() -> tuple[str, str, str, str]:
    """Return where the endpoints are."""
    return names.GROUP, names.VERSION, NAMESPACE, names.WORKLOAD_ENDPOINTS


def batch(ip: list[str], lines: list[str]) -> None:
    """Run many ip commands at once."""
    text = "\n".join(lines) + "\n"
    subprocess.run([*ip, "-batch", "-"], input=text, text=True, check=True)


def enter(pid: int) -> None:
    """Move the calling thread into the network namespace of *pid*."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open("rb") as file:
        if libc.setns(file.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
