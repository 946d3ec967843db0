"""PURE: how a call to the API server may end but well, sorted by what the caller can do about it.

Only a Status object counts as the API server's word: an HTML page that says 404 is no deletion.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

RawObject = Mapping[str, Any]
"""An object as the API server writes it."""


class ApiError(Exception):
    """The API server did not do what it was asked for."""

    retry_after = 0.0
    """For how many seconds the server asks to be left alone."""

    @property
    def reason(self) -> str:
        """The kind of error in one word, for counters."""
        return type(self).__name__.lower()


class Unavailable(ApiError):  # noqa: N818  an expected situation, as the next five
    """It cannot, or asks to be left alone for a while: try again."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(Unavailable):
    """There was no answer, or not all of it."""


class Gone(ApiError):  # noqa: N818
    """That version is too old (410): list again."""


class Absent(ApiError):  # noqa: N818
    """The object, or its whole kind, is not there (404)."""


class Conflict(ApiError):  # noqa: N818
    """The object is another one, has changed, or exists already (409)."""


class Refused(ApiError):  # noqa: N818
    """It says no (403, 422 ...); it may say yes when somebody has mended the reason."""


def from_status(status: RawObject, code: int = 0, retry_after: float = 0.0) -> ApiError:
    """Return what a Status object says; *code* counts where the object has none."""
    code = status["code"] if isinstance(status.get("code"), int) else code
    message = f"{code}: {status.get('message') or status.get('reason') or 'no reason given'}"
    match code:
        case HTTPStatus.GONE:
            return Gone(message)
        case HTTPStatus.NOT_FOUND:
            return Absent(message)
        case HTTPStatus.CONFLICT:
            return Conflict(message)
        # A token that was replaced a moment ago, a proxy's timeout and a server that is busy: of
        # all that is called the client's fault these pass by themselves.
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.TOO_MANY_REQUESTS:
            return Unavailable(message, retry_after)
        case _ if HTTPStatus.BAD_REQUEST <= code < HTTPStatus.INTERNAL_SERVER_ERROR:
            return Refused(message)
    return Unavailable(message, retry_after)
