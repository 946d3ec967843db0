"""What `make bench-operator` measures with: a quick client, an observer, and the real operator.

The observer watches as the operator does, so that what it sees first and last of a migration is
what the operator took for it, the API server's part included.
"""

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from kubernetes_asyncio import client, config

from handover_api import names
from handover_lab import controlplane

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 300.0
AT_ONCE: Final = 16
KINDS: Final = {
    "LiveMigration": names.LIVE_MIGRATIONS,
    "WorkloadEndpoint": names.WORKLOAD_ENDPOINTS,
}
MERGE_PATCH: Final = "application/merge-patch+json"

Key = tuple[str, str, str]
"""Kind, namespace and name."""


class BenchError(RuntimeError):
    """Something that is measured did not happen; the text says what."""


class Api:
    """The API server, as quick as one connection pool is."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator["Api"]:
        """Connect as the kubeconfig says."""
        found = client.Configuration()
        await config.load_kube_config(config_file=str(kubeconfig), client_configuration=found)
        context = ssl.create_default_context(cafile=found.ssl_ca_cert)
        context.load_cert_chain(found.cert_file or "", found.key_file)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(
            found.host, connector=connector, timeout=timeout
        ) as session:
            yield cls(session)

    async def call(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Send one request; an object that exists already is fine."""
        headers = {"Content-Type": content_type}
        sent = None if body is None else json.dumps(body)
        async with self._session.request(method, path, data=sent, headers=headers) as answer:
            text = await answer.text()
            if answer.status >= 300 and answer.status != 409:
                message = f"{method} {path}: {answer.status}: {text[:300]}"
                raise BenchError(message)
            found: dict[str, Any] = json.loads(text)
            return found

    async def create(self, body: Mapping[str, Any], path: str = "") -> None:
        """Create an object; *path* of its collection, when it is none of ours."""
        path = path or collection(body["kind"], body["metadata"]["namespace"])
        await self.call("POST", path, body)

    async def create_all(
        self, bodies: Iterable[Mapping[str, Any]], say: Callable[[int], None]
    ) -> None:
        """Create many objects at once; *say* is told how many there are."""
        left = iter(bodies)
        done = 0

        async def work() -> None:
            nonlocal done
            for body in left:
                await self.create(body)
                done += 1
                if done % 200 == 0:
                    say(done)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def patch(self, key: Key, patch: object, subresource: str = "") -> None:
        """Merge a patch into an object."""
        kind, namespace, name = key
        path = f"{collection(kind, namespace)}/{name}{subresource}"
        await self.call("PATCH", path, patch, MERGE_PATCH)

    async def watch(self, kind: str, told: asyncio.Event) -> AsyncIterator[tuple[str, Any]]:
        """Yield types and objects from now on; *told* is set when none is missed any more."""
        path = collection(kind)
        version = (await self.call("GET", f"{path}?limit=1"))["metadata"]["resourceVersion"]
        query = f"{path}?watch=1&resourceVersion={version}"
        async with self._session.get(query, read_bufsize=2**22) as answer:
            told.set()
            async for line in answer.content:
                event = json.loads(line)
                yield event["type"], event["object"]


def collection(kind: str, namespace: str = "") -> str:
    """Return the path of all objects of a kind, or of those in one namespace."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{names.API_VERSION}{scope}/{KINDS[kind]}"


class Observer:
    """Notes when objects came, and how often which part of them was written."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.born: dict[Key, float] = {}
        self.given: dict[Key, float] = {}
        self.phases: dict[Key, str] = {}
        self.writes: dict[Key, int] = defaultdict(int)
        self.statuses: dict[Key, int] = defaultdict(int)
        self._last: dict[Key, tuple[str, str]] = {}
        self._news = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch both kinds."""
        ready = [asyncio.Event() for _ in KINDS]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._note(kind, told))
                for kind, told in zip(KINDS, ready, strict=True)
            ]
            for told in ready:
                await told.wait()
            yield
            for task in tasks:
                task.cancel()

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something was seen."""
        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(is_so)
        except TimeoutError:
            message = f"never seen: {what}"
            raise BenchError(message) from None

    async def _note(self, kind: str, told: asyncio.Event) -> None:
        async for change, raw in self._api.watch(kind, told):
            now = time.perf_counter()
            metadata = raw["metadata"]
            key = (kind, metadata["namespace"], metadata["name"])
            said = metadata.get("annotations", {})
            rest = json.dumps([raw["spec"], said], sort_keys=True)
            status = json.dumps(raw.get("status", {}), sort_keys=True)
            # Of what was made before the watch began, nothing was told: its first write counts.
            before = self._last.get(key, ("", ""))
            self._last[key] = rest, status
            if change == "ADDED":
                self.born[key] = now
            elif change == "MODIFIED":
                self.writes[key] += before[0] != rest
                self.statuses[key] += before[1] != status
            if names.ROLE in said:
                self.given.setdefault(key, now)
            if kind == "LiveMigration":
                self.phases[key] = raw.get("status", {}).get("phase", "")
            async with self._news:
                self._news.notify_all()


class Operator:
    """The real process."""

    def __init__(self, kubeconfig: Path, log: Path, **env: str) -> None:
        port = controlplane.free_port("127.0.0.1")
        self._url = f"http://127.0.0.1:{port}"
        self._log = log
        self._env = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(kubeconfig),
            "HANDOVER_PORT": str(port),
            "HANDOVER_LISTEN_ADDRESS": "127.0.0.1",
            "HANDOVER_LOG_LEVEL": "warning",
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> float:
        """Start it; return the seconds until it was ready."""
        began = time.perf_counter()
        process = self._process = self._launch()
        while await self._get("/readyz") is None:
            if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                message = f"the operator is not ready, see {self._log}"
                raise BenchError(message)
            await asyncio.sleep(0.02)
        return time.perf_counter() - began

    def _launch(self) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("handover-operator")
        with self._log.open("ab") as log:
            return subprocess.Popen([program, "run"], env=self._env, stderr=log)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    async def until_idle(self) -> None:
        """Wait until nothing is left to write and its CPU rests."""
        deadline = time.perf_counter() + PATIENCE
        quiet = 0
        while quiet < 3:
            before = self.cpu_seconds
            await asyncio.sleep(0.3)
            spent = self.cpu_seconds - before
            is_idle = spent < 0.02 and not await self.metric("handover_operator_queue_length")
            quiet = quiet + 1 if is_idle else 0
            if time.perf_counter() > deadline:
                message = "the operator does not come to rest"
                raise BenchError(message)

    @property
    def cpu_seconds(self) -> float:
        """What all of its threads have used so far."""
        tasks = Path(f"/proc/{self._pid}/task")
        return (
            sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        )

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over the labels that are not named."""
        text = await self._get("/metrics") or ""
        values = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)
        return sum(map(float, values))

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _get(self, path: str) -> str | None:
        try:
            async with aiohttp.ClientSession() as session, session.get(self._url + path) as answer:
                return await answer.text() if answer.ok else None
        except aiohttp.ClientError:
            return None


async def until(read: Callable[[], Awaitable[T]], is_so: Callable[[T], bool], what: str) -> T:
    """Ask until the answer is the wanted one."""
    deadline = time.perf_counter() + PATIENCE
    while not is_so(found := await read()):
        if time.perf_counter() > deadline:
            message = f"never seen: {what}; the last was {found}"
            raise BenchError(message)
        await asyncio.sleep(0.02)
    return found
