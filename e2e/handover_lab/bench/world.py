"""What `make bench-operator` measures with: a quick client, an observer, agents that report.

The observer watches as the operator does, so that what it sees first and last of a migration is
what the operator took for it, the API server's part included.
"""

import asyncio
import contextlib
import json
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes_asyncio import client, config

from handover_api import names

ROOT: Final = Path(__file__).parents[3]
PATIENCE: Final = 300.0
AT_ONCE: Final = 16
KINDS: Final = {
    "LiveMigration": names.LIVE_MIGRATIONS,
    "WorkloadEndpoint": names.WORKLOAD_ENDPOINTS,
}
WHEN: Final = "2026-11-24T12:00:00Z"
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
            if answer.status >= 300:
                message = f"{query}: {answer.status}: {(await answer.text())[:300]}"
                raise BenchError(message)
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
        ready = {kind: asyncio.Event() for kind in KINDS}
        tasks = [asyncio.create_task(self._keep_noting(kind, ready[kind])) for kind in KINDS]
        try:
            for told in ready.values():
                await told.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something was seen."""
        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(is_so)
        except TimeoutError:
            message = f"never seen: {what}"
            raise BenchError(message) from None

    async def _keep_noting(self, kind: str, told: asyncio.Event) -> None:
        """Note what a watch tells; a kind that is new may not be ready for one."""
        while not told.is_set():
            with contextlib.suppress(BenchError):
                await self._note(kind, told)
            await asyncio.sleep(0.1)

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


class Pulse:
    """A timer beside what is timed: by how much it is late is the machine's part of it."""

    PERIOD: Final = 0.01

    def __init__(self) -> None:
        self.late_ms: list[float] = []

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat meanwhile."""
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()

    async def _beat(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(self.PERIOD)
            self.late_ms.append((time.perf_counter() - began - self.PERIOD) * 1000)


def report(state: str, uid: str, address: str) -> dict[str, Any]:
    """Compose what an agent reports."""
    route = {"address": address, "metric": 1024, "table": 254, "protocol": 88}
    listening = {
        "type": "Listening",
        "status": "True" if state == "Target" else "False",
        "reason": "Listening" if state == "Target" else "NotNeeded",
        "message": "",
        "lastTransitionTime": WHEN,
    }
    status: dict[str, Any] = {
        "state": state,
        "migrationUID": uid,
        "routes": [route] if state in {"Base", "Live", "TimeWait"} else [],
        "conditions": [listening],
    }
    if state == "Live":
        status["lastCutover"] = {
            "signal": "RARP",
            "announcementToRouteMicroseconds": 210,
            "time": "2026-11-24T12:00:00.000123Z",
            "migrationUID": uid,
        }
    return {"status": status}
