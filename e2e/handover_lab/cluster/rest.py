"""Requests to an API server, for those who act in a cluster."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from kubernetes_asyncio import client, config

MERGE: Final = "application/merge-patch+json"

ABSENT: Final = frozenset({404, 429, 503})

Object = dict[str, Any]


class ApiError(RuntimeError):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Requests to an API server."""

    def __init__(self, http: client.ApiClient) -> None:
        self._http = http

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator[Self]:
        """Connect with a kubeconfig."""
        configuration = client.Configuration()
        await config.load_kube_config(
            config_file=str(kubeconfig), client_configuration=configuration
        )
        try:
            async with client.ApiClient(configuration) as http:
                yield cls(http)
        finally:
            # A request that was cancelled while it connected closes its socket some turns later.
            await asyncio.sleep(0.01)

    async def call(
        self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None
    ) -> Object:
        """Send a request; a PATCH is a merge patch. Raises ApiError."""
        kind = MERGE if method == "PATCH" else "application/json"
        answer = await self._http.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": kind},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
        )
        async with answer:
            text = await answer.read()
        if answer.status >= 300:
            raise ApiError(answer.status, text.decode(errors="replace"))
        found: Object = json.loads(text)
        return found

    async def watch(self, path: str) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield what there is, and every change from now on: its type and the object."""
        found = await self.call("GET", path)
        for each in found["items"]:
            yield "ADDED", each
        query = {"watch": "1", "resourceVersion": found["metadata"]["resourceVersion"]}
        answer = await self._http.call_api(
            path,
            "GET",
            query_params=list(query.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
            _preload_content=False,
        )
        async with answer:
            async for line in answer.content:
                event = json.loads(line)
                yield event["type"], event["object"]

    async def exists(self, path: str) -> bool:
        """Return whether there is something; a kind that is being prepared is not there yet."""
        try:
            await self.call("GET", path)
        except ApiError as error:
            if error.status not in ABSENT:
                raise
            return False
        return True
