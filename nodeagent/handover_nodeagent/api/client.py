"""The API server as the agent needs it; foreign exceptions are turned into ours here.

Whatever a server, a proxy or a cable does, a call ends in an answer or in an ``ApiError``. What is
sent is bounded in time, and what comes is bounded in length. What it means says ``responses``.
"""

import contextlib
import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Self

import aiohttp

from handover_api import names
from handover_nodeagent.api import credentials, responses
from handover_nodeagent.api.access import Access
from handover_nodeagent.api.credentials import TokenFile
from handover_nodeagent.api.errors import RawObject, Unavailable, Unreachable
from handover_nodeagent.api.responses import Page

JSON_PATCH: Final = "application/json-patch+json"
"""RFC 6902."""
PAGE: Final = 100
"""Objects of one page of a list; more would be in memory at once, beside what is kept of them."""
TIMEOUT: Final = 30.0
"""Seconds for a whole call; a slow server is as good as none."""
CONNECT_TIMEOUT: Final = 10.0
"""Seconds until a connection stands, also for a watch, whose whole call may last for minutes."""
LONGEST_ANSWER: Final = 256 << 20
"""A page of objects that etcd takes, each as large as it may be."""


class _Request(NamedTuple):
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes | None = None
    content_type: str = "application/json"


class ApiServer:
    """Reads and writes objects by path; every call may raise an ApiError and nothing else."""

    def __init__(self, access: Access, *, timeout: float = TIMEOUT, page: int = PAGE) -> None:
        """Make it on the running loop; nothing is sent yet."""
        self._access = access
        self._page = page
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)
        self._token_file = TokenFile(access.token_file) if access.token_file else None
        self._tls: ssl.SSLContext | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=_watched_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> RawObject:
        """Read one object, or one page of a collection."""
        return await self._call(_Request("GET", path, query or {}))

    async def pages(
        self, path: str, query: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Page]:
        """Yield a whole collection; Gone when it took so long that it must be begun again."""
        token = ""
        while True:
            more = {"limit": str(self._page), **({"continue": token} if token else {})}
            answer = await self.get(path, {**(query or {}), **more})
            page = responses.page(answer, path)
            yield page
            token = page.token
            if not token:
                return

    async def stream(
        self, path: str, query: Mapping[str, str], *, silence: float, longest: float
    ) -> AsyncGenerator[tuple[str, RawObject]]:
        """Yield type and object of each message of a watch until the server ends it.

        A message of type ERROR is raised. Unreachable when *silence* seconds bring nothing, or all
        takes *longest*. Who stops earlier closes the generator (``contextlib.aclosing``).
        """
        timeout = aiohttp.ClientTimeout(
            total=longest, sock_connect=CONNECT_TIMEOUT, sock_read=silence
        )
        with _translated():
            async with self._answer(_Request("GET", path, query), timeout) as answer:
                messages = responses.Messages()
                async for chunk in answer.content.iter_any():
                    for message in messages.take(chunk):
                        yield message
                messages.end()

    async def patch(self, path: str, operations: Sequence[RawObject]) -> RawObject:
        """Change an object (RFC 6902), all or nothing; Refused when a ``test`` of it fails."""
        return await self._write("PATCH", path, operations, JSON_PATCH)

    async def create(self, path: str, body: RawObject) -> RawObject:
        """Add an object to a collection; Conflict when there is one of that name."""
        return await self._write("POST", path, body, "application/json")

    async def _write(self, method: str, path: str, body: object, content_type: str) -> RawObject:
        query = {"fieldManager": names.NODEAGENT_FIELD_MANAGER}
        encoded = json.dumps(body).encode()
        return await self._call(_Request(method, path, query, encoded, content_type))

    async def _call(self, request: _Request) -> RawObject:
        with _translated():
            async with self._answer(request, self._timeout) as answer:
                return responses.parse(await _content(answer))

    @contextlib.asynccontextmanager
    async def _answer(
        self, request: _Request, limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; after a 401 once more, with credentials read anew. Raises an ApiError."""
        is_second = False
        while True:
            async with self._send(request, limits) as answer:
                if answer.status == HTTPStatus.UNAUTHORIZED and not is_second:
                    self._forget_credentials()
                    is_second = True
                    continue
                if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    asked = answer.headers.get("Retry-After", "")
                    raise responses.failure(answer.status, asked, await _content(answer))
                yield answer
                return

    @contextlib.asynccontextmanager
    async def _send(
        self, request: _Request, limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": "application/json", **self._authorization()}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        if self._tls is None and self._access.url.startswith("https:"):
            self._tls = credentials.tls(self._access)
        try:
            async with self._session.request(
                request.method,
                f"{self._access.url}{request.path}",
                params=request.query,
                data=request.body,
                headers=headers,
                timeout=limits,
                # An API server sends no redirects, and a proxy's leads to none.
                allow_redirects=False,
                ssl=self._tls or True,
                server_hostname=self._access.server_name,
            ) as answer:
                yield answer
        except ssl.SSLError:
            # Certificates are replaced in their files; the next attempt reads them.
            self._tls = None
            raise

    def _authorization(self) -> Mapping[str, str]:
        token = self._token_file.read() if self._token_file else self._access.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _forget_credentials(self) -> None:
        self._tls = None
        if self._token_file:
            self._token_file.forget()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn whatever aiohttp, TLS and sockets raise into Unreachable.

    ValueError: what is sent or received cannot be written as HTTP, a token with a line end say.
    """
    try:
        yield
    except (
        aiohttp.ClientError,
        aiohttp.http.HttpProcessingError,
        OSError,
        EOFError,
        ValueError,
    ) as error:
        # Some exceptions of aiohttp and asyncio have no text of their own.
        raise Unreachable(str(error) or type(error).__name__) from error


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    """Read an answer to its end. Raises Unavailable for one that has none."""
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > LONGEST_ANSWER:
            message = f"the answer is longer than {LONGEST_ANSWER >> 20} MiB"
            raise Unavailable(message)
    return bytes(content)


def _watched_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket that notices within half a minute that the other side is dead, not idle."""
    made = socket.socket(*address[:3])
    # An idle connection is asked after 15 s, three times 5 s apart (tcp(7)).
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    # Keepalives rest while something is sent and not acknowledged; then this counts, in ms.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return made
