"""What the operator's bench talks to the API server with: no more work than HTTP and JSON are.

What the client costs is in every figure, so it is less than the lab's own (cluster/rest.py).
"""

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes_asyncio import client, config

from handover_api import names

PATIENCE: Final = 300.0
AT_ONCE: Final = 16
KINDS: Final = {
    "LiveMigration": names.LIVE_MIGRATIONS,
    "WorkloadEndpoint": names.WORKLOAD_ENDPOINTS,
}
MERGE_PATCH: Final = "application/merge-patch+json"
# aiohttp refuses lines longer than twice this; an object with all its managed fields is one line.
LONGEST_LINE: Final = 2**22

Key = tuple[str, str, str]
"""Kind, namespace and name."""


class BenchError(RuntimeError):
    """Something that is measured did not happen; the text says what."""


class Client:
    """The API server, as quick as one connection pool is."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator["Client"]:
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
        """Send one request; to create what exists already is fine, another conflict is not."""
        headers = {"Content-Type": content_type}
        sent = None if body is None else json.dumps(body)
        async with self._session.request(method, path, data=sent, headers=headers) as answer:
            text = await answer.text()
            exists = method == "POST" and answer.status == 409
            if answer.status >= 300 and not exists:
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
                await self._insist_on(body)
                done += 1
                if done % 200 == 0:
                    say(done)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def _insist_on(self, body: Mapping[str, Any]) -> None:
        """Create an object, again where an API server that just began cannot judge it yet.

        Where it lacks time to read a policy's parameters it refuses what comes: nothing is timed
        while a cluster is filled.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self.create(body)
            except BenchError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(1)

    async def patch(self, key: Key, patch: object, subresource: str = "") -> dict[str, Any]:
        """Merge a patch into an object; return what came of it."""
        kind, namespace, name = key
        path = f"{collection(kind, namespace)}/{name}{subresource}"
        return await self.call("PATCH", path, patch, MERGE_PATCH)

    async def watch(self, kind: str, is_complete: asyncio.Event) -> AsyncIterator[tuple[str, Any]]:
        """Yield types and objects from now on; none is missed once *is_complete* is set."""
        path = collection(kind)
        version = (await self.call("GET", f"{path}?limit=1"))["metadata"]["resourceVersion"]
        query = f"{path}?watch=1&resourceVersion={version}"
        async with self._session.get(query, read_bufsize=LONGEST_LINE) as answer:
            if answer.status >= 300:
                message = f"{query}: {answer.status}: {(await answer.text())[:300]}"
                raise BenchError(message)
            is_complete.set()
            async for line in answer.content:
                event = json.loads(line)
                yield event["type"], event["object"]


def collection(kind: str, namespace: str = "") -> str:
    """Return the path of all objects of a kind, or of those in one namespace."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{names.API_VERSION}{scope}/{KINDS[kind]}"
