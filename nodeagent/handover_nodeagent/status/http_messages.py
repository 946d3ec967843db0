"""PURE: the little of HTTP/1.1 that probes and scrapes need: one GET, one answer, and the end."""

from http import HTTPStatus
from typing import Final, NamedTuple

LONGEST_HEAD: Final = 8 * 1024
"""Octets of a request before its empty line; what comes then is not read."""


class Answer(NamedTuple):
    """What a page says."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """Which page is asked for; *is_head*: without its body."""

    path: str
    is_head: bool = False


def read(octets: bytes) -> Request | Answer | None:
    """Return what is asked, None as long as more has to come, and an answer where it is no use."""
    # Where the head ends the answer begins: what a GET may bring besides is of no interest.
    if b"\r\n\r\n" not in octets and b"\n\n" not in octets:
        is_too_long = len(octets) > LONGEST_HEAD
        return Answer(b"", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) if is_too_long else None
    # Any octets are Latin-1: a path that is no text is one that nobody has.
    method, _, rest = octets.partition(b"\n")[0].decode("latin-1").partition(" ")
    if method not in {"GET", "HEAD"}:
        return Answer(b"", HTTPStatus.METHOD_NOT_ALLOWED)
    return Request(rest.partition(" ")[0].partition("?")[0], method == "HEAD")


def encode(answer: Answer, *, is_head: bool = False) -> bytes:
    """Return the octets of an answer after which the connection is closed."""
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else answer.body)


def probed(trouble: str) -> Answer:
    """Answer the kubelet's probe: all is well, or what is wrong."""
    if trouble:
        # To the kubelet every status from 400 on is a failed probe.
        return Answer(f"{trouble}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE)
    return Answer(b"ok\n")
