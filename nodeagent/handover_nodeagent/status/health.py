"""Liveness, readiness and metrics over HTTP, in a thread with a loop of its own.

Nothing that somebody does to this server reaches the loop that moves routes: neither idle nor slow
connections, nor their descriptors. It answers one GET per connection and closes it.
"""

import asyncio
import collections
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from handover_nodeagent import faults
from handover_nodeagent.status import http_messages
from handover_nodeagent.status.http_messages import Answer

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MOST: Final = 64
"""Connections of all listeners; the oldest is closed for one more, so that none can be kept out."""
ACCEPTED: Final = 16
"""Connections that are accepted in one turn of the loop: so far below ``MOST`` that who asks at
once is answered, two turns later, before it could be the oldest."""
BACKLOG: Final = 1024
"""Connections that the kernel keeps until then: one more would have to come again a second later,
and who is behind a crowd must not."""
TIMEOUT: Final = 5.0
"""Seconds for a whole connection, header and answer included."""
FRESH: Final = 1.0
"""Seconds for which a page of metrics is answered again, instead of made anew."""

Check = Callable[[], str]
"""Returns what is wrong, in one sentence; empty when all is well."""


Page = Callable[[], Answer]


class Place(NamedTuple):
    """Where some pages are served."""

    address: str
    port: int
    pages: Mapping[str, Page]


def pages(*, unhealthy: Check, unready: Check) -> dict[str, Page]:
    """Return what the kubelet asks for."""
    return {
        "/healthz": lambda: http_messages.probed(unhealthy()),
        "/readyz": lambda: http_messages.probed(unready()),
    }


class Metrics:
    """A page that is made once in ``FRESH`` seconds, however often it is read."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._made: Answer | None = None
        self._made_at = 0.0

    def __call__(self) -> Answer:
        """Return the page."""
        now = time.monotonic()
        if self._made is None or now - self._made_at >= FRESH:
            self._made = Answer(self._render(), content_type=CONTENT_TYPE)
            self._made_at = now
        return self._made


class Server:
    """Serves from its making on, until ``close``."""

    def __init__(self, places: Iterable[Place]) -> None:
        """Take the places at once. Raises OSError when one cannot be had."""
        # In the order of arrival.
        self._connections: collections.OrderedDict[asyncio.Transport, None]
        self._connections = collections.OrderedDict()
        self._sockets: list[tuple[socket.socket, Mapping[str, Page]]] = []
        self._servers: list[asyncio.Server] = []
        try:
            for place in places:
                self._sockets.append((_listen(place.address, place.port), place.pages))
        except OSError:
            self._close_sockets()
            raise
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_note)
        # A daemon: nothing here may hold up the process's end.
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    @property
    def ports(self) -> tuple[int, ...]:
        """The port of each place."""
        return tuple(sock.getsockname()[1] for sock, _ in self._sockets)

    def close(self) -> None:
        """Answer nobody any more."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(TIMEOUT)
        self._close_sockets()

    def admit(self, transport: asyncio.Transport) -> None:
        """Count a connection in; the oldest one goes where there are too many."""
        self._connections[transport] = None
        if len(self._connections) > MOST:
            oldest, _ = self._connections.popitem(last=False)
            oldest.abort()

    def release(self, transport: asyncio.Transport) -> None:
        """Count a connection out."""
        self._connections.pop(transport, None)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for sock, served in self._sockets:
            made = functools.partial(_Connection, self, served)
            server = self._loop.create_server(made, sock=sock, backlog=ACCEPTED)
            self._servers.append(self._loop.run_until_complete(server))
            # create_server's backlog is both how many are accepted in a turn and listen(2)'s; only
            # the first was meant.
            sock.listen(BACKLOG)
        self._loop.run_forever()
        self._loop.close()

    def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for transport in self._connections:
            transport.abort()
        # What was aborted is told so in the next turn.
        self._loop.call_soon(self._loop.call_soon, self._loop.stop)

    def _close_sockets(self) -> None:
        for sock, _ in self._sockets:
            sock.close()


class _Connection(asyncio.Protocol):
    """One question and its answer."""

    def __init__(self, server: Server, served: Mapping[str, Page]) -> None:
        self._server = server
        self._pages = served
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.admit(transport)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(TIMEOUT, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the form
        self._deadline.cancel()
        self._server.release(self._transport)

    def data_received(self, octets: bytes) -> None:
        if self._transport.is_closing():
            return
        self._head += octets
        asked = http_messages.read(self._head)
        if isinstance(asked, Answer):
            self._send(asked)
        elif asked:
            page = self._pages.get(asked.path)
            answer = _made(page) if page else Answer(b"", HTTPStatus.NOT_FOUND)
            self._send(answer, is_head=asked.is_head)

    def _send(self, answer: Answer, *, is_head: bool = False) -> None:
        self._transport.write(http_messages.encode(answer, is_head=is_head))
        self._transport.close()


def _made(page: Page) -> Answer:
    try:
        return page()
    except Exception as error:  # noqa: BLE001  the root of a page
        faults.note("page", error)
        return Answer(b"", HTTPStatus.INTERNAL_SERVER_ERROR)


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is all addresses of both families.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _note(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    known = error if isinstance(error, BaseException) else RuntimeError(str(context["message"]))
    faults.note("health", known)
