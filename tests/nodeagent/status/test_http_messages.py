"""What asks is understood or refused, whatever it sends, and what is answered is HTTP."""

import http.client
import socket
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.status import http_messages
from handover_nodeagent.status.http_messages import LONGEST_HEAD, Answer, Request


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", Request("/healthz")),
        (b"GET /readyz?verbose=1 HTTP/1.1\r\n\r\nand more", Request("/readyz")),
        (b"HEAD /metrics HTTP/1.0\n\n", Request("/metrics", is_head=True)),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", Request("/\xff\xfe")),
        (b"", None),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", None),
        (b"x" * LONGEST_HEAD, None),
    ],
    ids=["probe", "query", "head", "no text", "not begun", "not ended", "long"],
)
def test_a_question_is_its_path(octets: bytes, expected: Request | None) -> None:
    assert http_messages.read(octets) == expected


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\n\r\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"\r\n\r\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"GET\r\n\r\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"\x16\x03\x01\n\n", HTTPStatus.METHOD_NOT_ALLOWED),
        (b"x" * (LONGEST_HEAD + 1), HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    ],
    ids=["another method", "empty", "no path", "TLS", "too long"],
)
def test_what_is_no_use_is_refused(octets: bytes, status: HTTPStatus) -> None:
    assert http_messages.read(octets) == Answer(b"", status)


@given(st.binary(max_size=200))
def test_no_octets_whatever_are_more_than_a_question_or_a_refusal(octets: bytes) -> None:
    found = http_messages.read(octets + b"\n\n")
    assert found is not None
    assert isinstance(found, Request) or found.status is HTTPStatus.METHOD_NOT_ALLOWED


@given(st.binary(max_size=100), st.sampled_from([HTTPStatus.OK, HTTPStatus.NOT_FOUND]))
def test_another_reader_of_http_understands_the_answer(body: bytes, status: HTTPStatus) -> None:
    for method in ("GET", "HEAD"):
        octets = http_messages.encode(Answer(body, status), is_head=method == "HEAD")
        here, there = socket.socketpair()
        with here, there:
            there.sendall(octets)
            there.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(here, method=method)
            answer.begin()
            assert (answer.status, answer.reason) == (status, status.phrase)
            assert answer.headers["Content-Length"] == str(len(body))
            assert answer.headers["Connection"] == "close"
            assert answer.read() == (b"" if method == "HEAD" else body)


def test_what_is_wrong_is_a_failed_probe() -> None:
    assert http_messages.probed("") == Answer(b"ok\n")
    failed = http_messages.probed("the loop stood still")
    assert failed == Answer(b"the loop stood still\n", HTTPStatus.SERVICE_UNAVAILABLE)
