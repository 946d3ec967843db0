"""Whatever an API server answers is an object, a page, messages, or an error of ours."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.api import responses
from handover_nodeagent.api.errors import (
    Absent,
    ApiError,
    Conflict,
    Gone,
    Refused,
    Unavailable,
    Unreachable,
)
from handover_nodeagent.api.responses import Message, Messages, Page

HTML = b"<html>404 Not Found</html>"


def status(code: int, message: str = "because") -> bytes:
    return json.dumps({"kind": "Status", "code": code, "message": message}).encode()


@pytest.mark.parametrize(
    "content",
    [b"", HTML, b"[]", b"7", b"\xff", pytest.param(b"[" * 100_000, id="nested")],
)
def test_what_is_no_object_is_unavailable_and_shows_its_beginning(content: bytes) -> None:
    with pytest.raises(Unavailable) as raised:
        responses.parse(content)
    assert str(raised.value).startswith("not an object of an API server: ")
    assert len(str(raised.value)) < 2 * responses.EXCERPT


@given(st.binary())
def test_whatever_octets_are_an_object_or_an_error_of_ours(octets: bytes) -> None:
    for read in (responses.parse, responses.message):
        try:
            read(octets)
        except ApiError:
            continue


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"metadata": {"resourceVersion": "3"}, "items": [{"a": 1}]}, Page([{"a": 1}], "3")),
        ({"metadata": {"resourceVersion": "3", "continue": ""}, "items": None}, Page([], "3")),
        ({"metadata": {"continue": "next"}}, Page([], "", "next")),
    ],
)
def test_a_page_leads_to_the_next_one(answer: dict[str, Any], expected: Page) -> None:
    assert responses.page(answer, "/x") == expected


@pytest.mark.parametrize(
    "answer", [{"items": []}, {"metadata": [], "items": []}, {"metadata": {}, "items": {"a": 1}}]
)
def test_what_is_no_list_is_unavailable(answer: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="/x: the answer is no list"):
        responses.page(answer, "/x")


@given(st.data())
def test_messages_are_whole_however_they_are_cut(data: st.DataObject) -> None:
    sent = [("ADDED", {"metadata": {"name": "ä\n"}}), ("BOOKMARK", {}), ("DELETED", {"b": 2})]
    lines = [json.dumps({"type": kind, "object": raw}).encode() for kind, raw in sent]
    rest = b"\n" + b"\n\n".join(lines) + b"\n"
    messages, read = Messages(), list[Message]()
    while rest:
        length = data.draw(st.integers(1, len(rest)))
        read += messages.take(rest[:length])
        rest = rest[length:]
    messages.end()
    assert read == sent


def test_a_message_that_is_cut_is_no_end() -> None:
    messages = Messages()
    assert list(messages.take(b'{"type":"ADDED","object":{}}\n{"ty')) == [("ADDED", {})]
    with pytest.raises(Unreachable, match="cut in the middle"):
        messages.end()


def test_a_message_without_end_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "LONGEST_MESSAGE", 10)
    messages = Messages()
    assert list(messages.take(b"x" * 10)) == []
    with pytest.raises(Unavailable, match="has no end"):
        list(messages.take(b"x"))


@pytest.mark.parametrize("line", [b'{"type": 1, "object": {}}', b'{"type": "ADDED"}', b"{}"])
def test_a_line_that_is_no_message_is_unavailable(line: bytes) -> None:
    with pytest.raises(Unavailable, match="not a message of a watch"):
        responses.message(line)


def test_a_message_that_tells_of_an_error_is_raised() -> None:
    line = json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}).encode()
    with pytest.raises(Gone, match="410: too old"):
        responses.message(line)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (401, Unavailable),
        (403, Refused),
        (404, Absent),
        (408, Unavailable),
        (409, Conflict),
        (410, Gone),
        (422, Refused),
        (429, Unavailable),
        (500, Unavailable),
    ],
)
def test_a_failure_is_sorted_by_what_can_be_done(code: int, expected: type[ApiError]) -> None:
    assert type(responses.failure(code, "", status(code))) is expected


def test_a_page_of_a_proxy_is_not_the_api_servers_word() -> None:
    found = responses.failure(404, "", HTML)
    assert (type(found), str(found)) == (Unavailable, f"404: {HTML.decode()!r}")


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ("", 0.0),
        ("1e300", 0.0),
        ("nan", 0.0),
        ("-5", 0.0),
        ("86400", 60.0),
        ("0.5", 0.5),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
    ],
)
def test_nobody_is_asked_to_wait_for_ever(asked: str, granted: float) -> None:
    assert responses.failure(503, asked, HTML).retry_after == granted
    assert responses.failure(429, asked, status(429)).retry_after == granted
