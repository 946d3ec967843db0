"""A stand-in for the API server: it can do what the real one (`api_server`) never does."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class FakeApi:
    """Answers each request with the next of ``answers``; the last one stays."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.url = ""

    def then(self, *answers: Answer) -> "FakeApi":
        """Queue answers."""
        self.answers.extend(answers)
        return self

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        self.requests.append(request)
        self.bodies.append(await request.read())
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    @property
    def queries(self) -> list[Mapping[str, str]]:
        """The queries of all requests."""
        return [request.query for request in self.requests]

    @staticmethod
    def plain(
        body: str | bytes, status: int = 200, kind: str = "application/json", **headers: str
    ) -> Answer:
        """Answer with a body."""

        async def answer(_: web.BaseRequest) -> web.Response:
            content = body.encode() if isinstance(body, str) else body
            return web.Response(
                body=content, status=status, headers={"Content-Type": kind, **headers}
            )

        return answer

    @classmethod
    def json(cls, body: object, status: int = 200) -> Answer:
        """Answer with JSON."""
        return cls.plain(json.dumps(body), status)

    @classmethod
    def status(cls, code: int, message: str = "no") -> Answer:
        """Answer with a Status, as an API server fails."""
        return cls.json({"kind": "Status", "code": code, "message": message}, code)

    @classmethod
    def list(cls, *items: Mapping[str, Any], version: int = 10, more: str = "") -> Answer:
        """Answer with a page of a list."""
        metadata = {"resourceVersion": str(version), "continue": more}
        return cls.json({"metadata": metadata, "items": list(items)})

    @staticmethod
    def stream(*parts: bytes, ending: str = "end") -> Answer:
        """Answer with parts of a watch, then ``end`` it, ``cut`` the cable or ``stay`` silent."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            for part in parts:
                await response.write(part)
            if ending == "cut" and request.transport is not None:
                request.transport.abort()
            elif ending == "stay":
                await asyncio.Event().wait()
            return response

        return answer

    @classmethod
    def watch(cls, *messages: tuple[str, Mapping[str, Any]], ending: str = "stay") -> Answer:
        """Answer with messages of a watch."""
        parts = (json.dumps({"type": kind, "object": raw}).encode() for kind, raw in messages)
        return cls.stream(*(part + b"\n" for part in parts), ending=ending)

    @staticmethod
    async def silence(_: web.BaseRequest) -> web.StreamResponse:
        """Never answer."""
        await asyncio.Event().wait()
        raise AssertionError


class Runs(Protocol):
    """Works until it is cancelled."""

    async def run(self) -> None:
        """Work."""


@contextlib.asynccontextmanager
async def running(thing: Runs) -> AsyncIterator[None]:
    """Let it work, and cancel it in the end."""
    task = asyncio.create_task(thing.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
