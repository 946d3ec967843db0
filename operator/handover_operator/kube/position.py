"""Where a watch stands: from which version it goes on, and what its last end was. Pure."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from handover_operator.kube import backoff
from handover_operator.kube.errors import Denied, Expired, Temporary, Unavailable
from handover_operator.roles.parse import RawObject

BOOKMARK: Final = "BOOKMARK"
DELETED: Final = "DELETED"
ERROR: Final = "ERROR"


@dataclass(frozen=True, slots=True)
class Outage:
    """Why a watch ended, and for how many seconds at least nobody should ask again.

    ``is_news``: it has not ended for the same reason before, and what was missed is not simply made
    good by a list.
    """

    is_news: bool
    retry_after: float


@dataclass(slots=True)
class Position:
    """The version of the last thing that was told; empty where only a list can help.

    ``lists``: how many were complete so far.
    """

    version: str = ""
    lists: int = 0
    _failures: int = 0
    _reason: str = ""

    def note_list(self, number: int) -> None:
        """Take in that a list of this version was complete."""
        self.version = str(number)
        self.lists += 1

    def note_change(self, change: str, raw: RawObject) -> None:
        """Take in a message of a watch. Raises Expired or Temporary where it is the watch's end."""
        # A watch has begun with status 200 and cannot take that back: a 410 comes as an event.
        if change == ERROR:
            message = f"{raw.get('code')}: {raw.get('message')}"
            raise Expired(message) if raw.get("code") == HTTPStatus.GONE else Temporary(message)
        # A bookmark's, too: it is what keeps a quiet watch from growing too old.
        self.version = raw["metadata"]["resourceVersion"]
        self._failures, self._reason = 0, ""

    def note_end(self, reason: Exception) -> Outage:
        """Take in that a list or a watch has ended by an exception."""
        is_expired = isinstance(reason, Expired)
        # A line that broke says nothing against the version; whatever else it was, a list helps.
        if not isinstance(reason, Unavailable) or is_expired:
            self.version = ""
        text = str(reason) or type(reason).__name__
        is_news = text != self._reason and not is_expired
        if is_news:
            self._reason = text
        self._failures += 1
        return Outage(is_news, self._retry_after(reason))

    def _retry_after(self, reason: Exception) -> float:
        """Return the seconds that this reason asks for: who was refused asks seldom."""
        if isinstance(reason, Denied):
            return backoff.delay(self._failures)
        return reason.retry_after if isinstance(reason, Temporary) else 0.0
