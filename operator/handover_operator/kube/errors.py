"""What may come of a request, sorted by what the caller can do about it. Pure.

Foreign exceptions and HTTP statuses are turned into these in ``client`` and nowhere else.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

# Another attempt may change these answers: 401 by a rotated token, 429 by waiting. 0 is what
# kubernetes-asyncio has for no answer at all.
_TRANSIENT: Final = frozenset({0, HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS})
_UNPREPARED: Final = "failed to configure policy"
"""In a 422 where the API server does not know yet the kind by which one of our
ValidatingAdmissionPolicies goes, for half a minute: no word about the object."""


class Temporary(Exception):  # noqa: N818  a situation with a way on, not an error
    """The work could not be done now; the message says why.

    ``retry_after``: seconds before which nobody should try again.
    """

    def __init__(self, message: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Denied(Temporary):
    """The answer was no, and is the same until somebody mends the cause: noted, asked seldom."""


class Outdated(Temporary):
    """The work was based on what is no more: tried again at once, later if that goes on."""


class Unavailable(Temporary):
    """The API server cannot be reached, or asks for patience."""


class Unprepared(Unavailable):
    """The API server has just begun, and does not know all yet that it needs for its answer."""


class Expired(Unavailable):
    """The API server remembers no more what was asked for: only a list from the start can help."""


class NotLeading(Temporary):
    """Another replica writes, or will soon."""


class Refused(Denied):
    """The API server says no; it may say yes when somebody has mended the reason."""


class Conflict(Exception):  # noqa: N818  an expected situation
    """The object has changed since we looked; of an apply: ``causes``, by field, who owns it."""

    def __init__(self, message: str = "", causes: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.causes = causes or {}


class Absent(Exception):  # noqa: N818  an expected situation
    """The object, or its whole kind, is not there."""


class Unserved(Absent):
    """The whole kind is not there, which tells nothing of any object."""


class Unconfigured(Exception):  # noqa: N818  tells a person what to do
    """There is neither a service account nor a kubeconfig."""


def from_response(status: int, text: str, retry_after: float = 0.0) -> Exception:
    """Sort an answer by its HTTP status; *text* is its body, a Status as a rule."""
    try:
        found = json.loads(text)
        message = found.get("message", text)
        details = found.get("details") or {}
    except (ValueError, AttributeError):
        # A proxy before the API server answers in prose.
        message, details = text, {}
    if status == HTTPStatus.NOT_FOUND:
        # Of an object that is missing the API server tells the name, of a path it does not.
        return Absent(message) if details.get("name") else Unserved(message)
    if status == HTTPStatus.CONFLICT:
        causes = details.get("causes") or ()
        return Conflict(
            message, {each.get("field", ""): each.get("message", "") for each in causes}
        )
    if status == HTTPStatus.GONE:
        return Expired(f"{status}: {message}")
    if _UNPREPARED in message:
        return Unprepared(f"{status}: {message}")
    if status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(f"{status}: {message}", retry_after)
    return Refused(f"{status}: {message}")
