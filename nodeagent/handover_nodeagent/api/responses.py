"""PURE: what an API server's answer says: an object, a page, messages of a watch, or an error.

What cannot be understood is an ``ApiError`` too, with the beginning of what came.
"""

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from handover_nodeagent.api import errors
from handover_nodeagent.api.errors import ApiError, RawObject, Unavailable, Unreachable

LONGEST_MESSAGE: Final = 16 << 20
"""Of a watch; etcd takes no object above 1.5 MiB."""
LONGEST_RETRY_AFTER: Final = 60.0
"""Seconds for which a server may ask to be left alone; a proxy's mistake must not be obeyed."""
EXCERPT: Final = 120
"""Octets of an answer that nobody understands, in what is said of it."""
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
"""A Retry-After that is a number. The other form, a date, comes from no API server (RFC 9110)."""

Message = tuple[str, RawObject]
"""Type and object of one message of a watch."""


class Page(NamedTuple):
    """A part of a list; ``version`` is the whole list's, ``token`` leads to the next part.

    The last part has no token.
    """

    items: list[RawObject]
    version: str
    token: str = ""


class Messages:
    """Takes the octets of a watch apart, in whatever pieces they come: one JSON object a line.

    aiohttp's own readline would raise where its buffer ends.
    """

    def __init__(self) -> None:
        self._rest = b""

    def take(self, octets: bytes) -> Iterator[Message]:
        """Yield the messages that are complete now. Raises an ApiError: what ERROR says, say."""
        *lines, self._rest = (self._rest + octets).split(b"\n")
        for line in lines:
            if line.strip():
                yield message(line)
        if len(self._rest) > LONGEST_MESSAGE:
            complaint = "a message of the watch has no end"
            raise Unavailable(complaint)

    def end(self) -> None:
        """Raise Unreachable for an end in the middle of a message; else it is no error."""
        if self._rest.strip():
            complaint = "the watch was cut in the middle of a message"
            raise Unreachable(complaint)


def parse(content: bytes) -> RawObject:
    """Return the object that an answer is. Raises Unavailable."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        # The second for brackets within brackets without end.
        parsed = None
    if not isinstance(parsed, dict):
        complaint = f"not an object of an API server: {_excerpt(content)}"
        raise Unavailable(complaint)
    return parsed


def page(answer: RawObject, path: str) -> Page:
    """Return the part of a list that an answer is. Raises Unavailable."""
    metadata, items = answer.get("metadata"), answer.get("items") or []
    if not isinstance(metadata, dict) or not isinstance(items, list):
        complaint = f"{path}: the answer is no list"
        raise Unavailable(complaint)
    # Its absence, and an empty one, end the list.
    token = metadata.get("continue") or ""
    return Page(items, str(metadata.get("resourceVersion", "")), token)


def message(line: bytes) -> Message:
    """Return one message of a watch. Raises an ApiError, also what one of type ERROR says."""
    parsed = parse(line)
    kind, found = parsed.get("type"), parsed.get("object")
    if not isinstance(kind, str) or not isinstance(found, dict):
        complaint = f"not a message of a watch: {_excerpt(line)}"
        raise Unavailable(complaint)
    if kind == "ERROR":
        raise errors.from_status(found)
    return kind, found


def failure(status: int, asked: str, content: bytes) -> ApiError:
    """Return what a failed answer says, by what the caller can do about it.

    *asked* is its Retry-After, "" where it has none.
    """
    retry_after = min(float(asked), LONGEST_RETRY_AFTER) if _SECONDS.fullmatch(asked) else 0.0
    try:
        said = parse(content)
    except Unavailable:
        said = {}
    # Whatever its number: a proxy's page is not the API server's word.
    if said.get("kind") != "Status":
        return Unavailable(f"{status}: {_excerpt(content)}", retry_after)
    return errors.from_status(said, status, retry_after)


def _excerpt(content: bytes) -> str:
    return repr(content[:EXCERPT].decode(errors="replace"))
