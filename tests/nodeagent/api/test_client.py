"""Whatever a server, a proxy or a cable does, it becomes one of six exceptions."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.nodeagent.fake_api import FakeApi

from handover_nodeagent.api import client, responses
from handover_nodeagent.api.access import Access, Pem
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.errors import (
    Absent,
    ApiError,
    Conflict,
    Gone,
    Refused,
    Unavailable,
    Unreachable,
)

HTML = "<html><title>404 Not Found</title></html>"
QUERY = {"watch": "1"}


async def read_stream(
    api: ApiServer, *, silence: float = 5.0, longest: float = 5.0
) -> list[tuple[str, Any]]:
    """Return all messages until the server ends the watch."""
    stream = api.stream("/x", QUERY, silence=silence, longest=longest)
    return [message async for message in stream]


@contextlib.asynccontextmanager
async def serving(octets: bytes) -> AsyncIterator[str]:
    """Answer every connection with these octets, whatever it asks; yield the URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(octets)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def outcome(call: Awaitable[object]) -> str:
    """Return the exception's name, or ``answered``."""
    try:
        await call
    except ApiError as error:
        return type(error).__name__
    return "answered"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, Refused),
        (401, Unavailable),
        (403, Refused),
        (404, Absent),
        (408, Unavailable),
        (409, Conflict),
        (410, Gone),
        (415, Refused),
        (422, Refused),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
async def test_a_status_is_sorted_by_what_can_be_done(
    fake_api: FakeApi, fake_client: ApiServer, status: int, expected: type[ApiError]
) -> None:
    fake_api.then(fake_api.status(status, "because"))
    with pytest.raises(ApiError, match=f"{status}: because") as raised:
        await fake_client.get("/x")
    assert type(raised.value) is expected


@pytest.mark.parametrize("status", [200, 201, 302, 403, 404, 409, 410, 502])
@pytest.mark.parametrize("body", [HTML, "", "404 page not found", "[]", "7", "[" * 9999])
async def test_only_a_status_object_is_the_api_servers_word(
    fake_api: FakeApi, fake_client: ApiServer, status: int, body: str
) -> None:
    fake_api.then(fake_api.plain(body, status, "text/html"))
    with pytest.raises(Unavailable) as raised:
        await fake_client.get("/x")
    assert type(raised.value) is Unavailable


async def test_a_redirect_is_not_followed(fake_api: FakeApi, fake_client: ApiServer) -> None:
    fake_api.then(fake_api.plain("", 302, Location="/elsewhere"), fake_api.json({}))
    with pytest.raises(Unavailable, match="302"):
        await fake_client.get("/x")
    assert len(fake_api.requests) == 1


async def test_who_asks_for_patience_is_heard(fake_api: FakeApi, fake_client: ApiServer) -> None:
    busy = {"Retry-After": "3"}
    fake_api.then(fake_api.plain("Too many requests", 429, "text/plain", **busy))
    with pytest.raises(Unavailable) as raised:
        await fake_client.get("/x")
    assert raised.value.retry_after == 3.0


async def test_a_retry_after_that_is_a_date_is_ignored(
    fake_api: FakeApi, fake_client: ApiServer
) -> None:
    date = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    fake_api.then(fake_api.plain("", 503, "text/plain", **date))
    with pytest.raises(Unavailable) as raised:
        await fake_client.get("/x")
    assert raised.value.retry_after == 0.0


async def test_nobody_at_the_port_is_unreachable(unused_tcp_port: int) -> None:
    async with ApiServer(Access(f"http://127.0.0.1:{unused_tcp_port}")) as api:
        with pytest.raises(Unreachable, match="onnect"):
            await api.get("/x")


async def test_a_name_that_nobody_knows_is_unreachable() -> None:
    async with ApiServer(Access("http://nowhere.invalid")) as api:
        with pytest.raises(Unreachable):
            await api.get("/x")


async def test_a_slow_server_is_unreachable(fake_api: FakeApi, impatient_client: ApiServer) -> None:
    fake_api.then(fake_api.silence)
    with pytest.raises(Unreachable):
        await impatient_client.get("/x")


@pytest.mark.parametrize("ending", ["cut", "stay"])
async def test_half_an_answer_is_unreachable(
    fake_api: FakeApi, impatient_client: ApiServer, ending: str
) -> None:
    fake_api.then(fake_api.stream(b'{"kind": ', ending=ending))
    with pytest.raises(Unreachable):
        await impatient_client.get("/x")


async def test_a_server_without_tls_is_unreachable(fake_api: FakeApi) -> None:
    fake_api.then(fake_api.json({}))
    async with ApiServer(Access(fake_api.url.replace("http:", "https:"))) as api:
        with pytest.raises(Unreachable):
            await api.get("/x")


async def test_a_missing_certificate_is_unreachable_until_it_is_there(tmp_path: Path) -> None:
    async with ApiServer(Access("https://127.0.0.1:1", authority=Pem(tmp_path / "ca"))) as api:
        with pytest.raises(Unreachable, match="No such file"):
            await api.get("/x")


async def test_a_token_is_read_again_when_its_file_changes(
    fake_api: FakeApi, tmp_path: Path
) -> None:
    fake_api.then(fake_api.json({}))
    file = tmp_path / "token"
    file.write_text("old\n")
    async with ApiServer(Access(fake_api.url, token_file=file)) as api:
        await api.get("/x")
        fresh = tmp_path / "fresh"
        fresh.write_text("new\n")
        fresh.replace(file)
        await api.get("/x")
    sent = [request.headers["Authorization"] for request in fake_api.requests]
    assert sent == ["Bearer old", "Bearer new"]


async def test_a_refused_token_is_read_again_at_once(fake_api: FakeApi, tmp_path: Path) -> None:
    """A file may change without looking changed: same size, same time."""
    file = tmp_path / "token"
    file.write_text("old")
    before = file.stat()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers["Authorization"] == "Bearer new":
            return web.json_response({"fine": True})
        with file.open("r+") as opened:
            opened.write("new")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        return web.json_response({"kind": "Status", "code": 401}, status=401)

    fake_api.then(answer)
    async with ApiServer(Access(fake_api.url, token_file=file)) as api:
        assert await api.get("/x") == {"fine": True}
    assert len(fake_api.requests) == 2


async def test_a_token_that_stays_refused_is_tried_twice_only(
    fake_api: FakeApi, fake_client: ApiServer
) -> None:
    fake_api.then(fake_api.status(401, "Unauthorized"))
    with pytest.raises(Unavailable, match="401: Unauthorized"):
        await fake_client.get("/x")
    assert len(fake_api.requests) == 2


async def test_a_token_that_cannot_be_sent_is_unreachable(fake_api: FakeApi) -> None:
    async with ApiServer(Access(fake_api.url, token="a\nb")) as api:
        with pytest.raises(Unreachable):
            await api.get("/x")


async def test_a_list_comes_in_pages(fake_api: FakeApi, fake_client: ApiServer) -> None:
    fake_api.then(fake_api.list({"a": 1}, more="next"), fake_api.list({"b": 2}))
    pages = [page async for page in fake_client.pages("/x", {"fieldSelector": "spec.node=n"})]
    assert [page.items for page in pages] == [[{"a": 1}], [{"b": 2}]]
    assert pages[-1].version == "10"
    selected = {"fieldSelector": "spec.node=n", "limit": "100"}
    assert fake_api.queries == [selected, {**selected, "continue": "next"}]


async def test_a_list_may_expire_between_its_pages(
    fake_api: FakeApi, fake_client: ApiServer
) -> None:
    fake_api.then(fake_api.list(more="next"), fake_api.status(410))
    with pytest.raises(Gone):
        _ = [page async for page in fake_client.pages("/x")]


@pytest.mark.parametrize(
    "body", [{"items": []}, {"metadata": [], "items": []}, {"metadata": {}, "items": {"a": 1}}]
)
async def test_an_answer_that_is_no_list_is_unavailable(
    fake_api: FakeApi, fake_client: ApiServer, body: object
) -> None:
    fake_api.then(fake_api.json(body))
    with pytest.raises(Unavailable, match="no list"):
        _ = [page async for page in fake_client.pages("/x")]


async def test_an_empty_list_may_be_null(fake_api: FakeApi, fake_client: ApiServer) -> None:
    fake_api.then(fake_api.json({"metadata": {"resourceVersion": "3"}, "items": None}))
    assert [page async for page in fake_client.pages("/x")] == [([], "3", "")]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_messages_are_whole_however_they_are_cut_into_packets(
    fake_api: FakeApi, fake_client: ApiServer, size: int
) -> None:
    sent = [("ADDED", {"metadata": {"name": "ä\n"}}), ("BOOKMARK", {})]
    text = b"\n".join(json.dumps({"type": kind, "object": raw}).encode() for kind, raw in sent)
    text = b"\n" + text + b"\n"
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    fake_api.then(fake_api.stream(*parts))
    assert await read_stream(fake_client) == sent


@pytest.mark.parametrize("ending", ["cut", "end"])
async def test_a_watch_cut_in_the_middle_of_a_message_is_unreachable(
    fake_api: FakeApi, fake_client: ApiServer, ending: str
) -> None:
    fake_api.then(fake_api.stream(b'{"type":"ADDED","object":{}}\n{"type":"MODI', ending=ending))
    stream = fake_client.stream("/x", QUERY, silence=5.0, longest=5.0)
    assert await anext(stream) == ("ADDED", {})
    with pytest.raises(Unreachable):
        await anext(stream)


@pytest.mark.parametrize(
    ("code", "expected"), [(410, Gone), (403, Refused), (500, Unavailable), (504, Unavailable)]
)
async def test_an_error_message_of_a_watch_is_raised(
    fake_api: FakeApi, fake_client: ApiServer, code: int, expected: type[ApiError]
) -> None:
    status = {"kind": "Status", "code": code, "message": "too old"}
    fake_api.then(fake_api.watch(("ERROR", status)))
    with pytest.raises(expected, match="too old"):
        await read_stream(fake_client)


@pytest.mark.parametrize("status", [{}, {"code": "410"}, {"code": None, "message": 7}])
async def test_an_error_message_may_say_nothing(
    fake_api: FakeApi, fake_client: ApiServer, status: dict[str, object]
) -> None:
    fake_api.then(fake_api.watch(("ERROR", status)))
    with pytest.raises(Unavailable):
        await read_stream(fake_client)


@pytest.mark.parametrize("line", [HTML, "[]", '{"type": 1, "object": {}}', '{"type": "ADDED"}'])
async def test_a_line_that_is_no_message_is_unavailable(
    fake_api: FakeApi, fake_client: ApiServer, line: str
) -> None:
    fake_api.then(fake_api.stream(f"{line}\n".encode()))
    with pytest.raises(Unavailable) as raised:
        await read_stream(fake_client)
    assert type(raised.value) is Unavailable


async def test_a_message_without_end_does_not_fill_the_memory(
    fake_api: FakeApi, fake_client: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "LONGEST_MESSAGE", 1000)
    fake_api.then(fake_api.stream(b"x" * 1001, ending="stay"))
    with pytest.raises(Unavailable, match="no end"):
        await read_stream(fake_client)


async def test_a_silent_watch_is_unreachable(fake_api: FakeApi, fake_client: ApiServer) -> None:
    fake_api.then(fake_api.watch(("BOOKMARK", {})))
    with pytest.raises(Unreachable):
        await read_stream(fake_client, silence=0.1, longest=600.0)


async def test_a_watch_that_the_server_does_not_end_is_unreachable(
    fake_api: FakeApi, fake_client: ApiServer
) -> None:
    async def chatter(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    fake_api.then(chatter)
    with pytest.raises(Unreachable):
        await read_stream(fake_client, silence=5.0, longest=0.2)


async def test_a_watch_that_is_refused_says_why(fake_api: FakeApi, fake_client: ApiServer) -> None:
    fake_api.then(fake_api.status(410, "too old resource version"))
    with pytest.raises(Gone, match="too old resource version"):
        await read_stream(fake_client)


async def test_a_cancelled_watch_is_cancelled(fake_api: FakeApi, fake_client: ApiServer) -> None:
    fake_api.then(fake_api.watch(("BOOKMARK", {})))
    stream = fake_client.stream("/x", QUERY, silence=5.0, longest=5.0)
    async with contextlib.aclosing(stream):
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_patch_says_what_it_is_and_whose(fake_api: FakeApi, fake_client: ApiServer) -> None:
    fake_api.then(fake_api.json({"done": True}))
    assert await fake_client.patch("/x/status", [{"op": "test"}]) == {"done": True}
    request = fake_api.requests[0]
    assert (request.method, request.path) == ("PATCH", "/x/status")
    assert request.headers["Content-Type"] == "application/json-patch+json"
    assert request.headers["Authorization"] == "Bearer t"
    assert dict(request.query) == {"fieldManager": "handover-nodeagent"}
    assert fake_api.bodies == [b'[{"op": "test"}]']


def test_a_dead_server_is_noticed_within_half_a_minute() -> None:
    """A node that loses its power sends no RST: only the kernel's own questions find that out."""
    made = client._watched_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ()))
    with made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count, unacknowledged = (
            made.getsockopt(socket.IPPROTO_TCP, option)
            for option in (
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
                socket.TCP_KEEPCNT,
                socket.TCP_USER_TIMEOUT,
            )
        )
    assert idle + interval * count <= 30
    assert unacknowledged <= 30_000


GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda body: b"HTTP/1.1 200 OK\r\n" + body),
    st.binary(max_size=200).map(lambda body: b"HTTP/1.1 200 OK\r\n\r\n" + body),
    st.binary(max_size=99).map(
        lambda body: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    ),
    st.binary(max_size=99).map(
        lambda body: (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n" + body
        )
    ),
    st.binary(max_size=99).map(lambda body: b"HTTP/1.1 401 \r\nContent-Length: 9\r\n\r\n" + body),
)


@settings(
    max_examples=settings().max_examples * 3 // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(octets=GARBAGE)
def test_no_garbage_whatsoever_escapes_as_something_else(octets: bytes) -> None:
    async def run() -> None:
        async with serving(octets) as url, ApiServer(Access(url), timeout=2.0) as api:
            for call in (api.get("/x"), read_stream(api), api.patch("/x", [])):
                await outcome(call)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("asked", "granted"),
    [("1e300", 0.0), ("inf", 0.0), ("nan", 0.0), ("-5", 0.0), ("86400", 60.0), ("0.5", 0.5)],
)
async def test_nobody_is_asked_to_wait_for_ever(
    fake_api: FakeApi, fake_client: ApiServer, asked: str, granted: float
) -> None:
    fake_api.then(fake_api.plain("", 503, "text/plain", **{"Retry-After": asked}))
    with pytest.raises(Unavailable) as raised:
        await fake_client.get("/api")
    assert raised.value.retry_after == granted


async def test_an_answer_without_an_end_is_not_kept(
    fake_api: FakeApi, fake_client: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LONGEST_ANSWER", 100)
    fake_api.then(fake_api.list({"metadata": {"name": "x" * 200}}))
    with pytest.raises(Unavailable, match="the answer is longer than"):
        await fake_client.get("/api")
