"""Exceptions that nobody expected, kept where they belong: one endpoint's are no other one's.

What raises is counted, logged once with its traceback, shown by the endpoint's condition
Programmed, and tried again (``retry``). The endpoint's routes stay as they are meanwhile.
A failure that somebody does expect is a value, and no business of this room.
"""

from collections.abc import Callable
from typing import Final

import structlog

from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.retry.timers import Retries

LONGEST: Final = 256
"""Characters of an exception's own words in a condition; a library may quote a whole object."""
REMEMBERED: Final = 256
"""Exceptions that are known to the log; the oldest is forgotten, and logged again if it is met."""

_log: Final = structlog.get_logger()

Work = Callable[[], object]
Attempt = Callable[[ObjectKey, str, Work], bool]
"""``Faults.attempt``, for those who meet one endpoint after the other."""
_Slot = tuple[ObjectKey, str]
"""An endpoint and what is done for it."""


class Faults:
    """The unexpected exceptions of all endpoints, each by its endpoint and by what was done."""

    def __init__(
        self, changed: Callable[[ObjectKey], None] | None = None, *, noun: str = "endpoint"
    ) -> None:
        """Call *changed* with an endpoint whose trouble is another one now.

        *noun*: what the log calls the objects, where they are not endpoints.
        """
        self._changed = changed
        self._noun = noun
        self._works: dict[ObjectKey, dict[str, Work]] = {}
        self._troubles: dict[_Slot, str] = {}
        self._retries = Retries[_Slot](self._try_again)

    def attempt(self, key: ObjectKey, what: str, work: Work) -> bool:
        """Do *work* of endpoint *key*; tell whether it raised nothing.

        What raised is done again until it succeeds, *what* of that endpoint is attempted anew, or
        the endpoint is forgotten: so *work* asks for itself whether it is still wanted.
        """
        try:
            work()
        except Exception as error:  # noqa: BLE001  the root of whatever is done for an endpoint
            self._fail(key, what, work, error)
            return False
        # The way of nearly every call: nothing of this endpoint has failed.
        if key in self._works:
            self._clear(key, what)
        return True

    def trouble(self, key: ObjectKey) -> str:
        """Say what cannot be done for endpoint *key* now; "" when all can."""
        return "; ".join(self._troubles[key, what] for what in self._works.get(key, ()))

    def has(self, key: ObjectKey, what: str) -> bool:
        """Tell whether *what* of endpoint *key* waits for another attempt."""
        return what in self._works.get(key, ())

    def forget(self, key: ObjectKey) -> None:
        """Attempt nothing more of an endpoint that is gone."""
        slots = [(key, what) for what in self._works.pop(key, ())]
        for slot in slots:
            del self._troubles[slot]
        self._retries.succeeded(slots)

    def close(self) -> None:
        """Attempt nothing again."""
        self._retries.close()

    def _fail(self, key: ObjectKey, what: str, work: Work, error: Exception) -> None:
        note(what, error, **{self._noun: str(key)})
        before = self._troubles.get((key, what))
        self._works.setdefault(key, {})[what] = work
        self._troubles[key, what] = f"{what}: {describe(error)}"
        self._retries.failed([(key, what)])
        if self._changed and self._troubles[key, what] != before:
            self._changed(key)

    def _clear(self, key: ObjectKey, what: str) -> None:
        if self._works[key].pop(what, None) is None:
            return
        if not self._works[key]:
            del self._works[key]
        del self._troubles[key, what]
        self._retries.succeeded([(key, what)])
        if self._changed:
            self._changed(key)

    def _try_again(self, slots: frozenset[_Slot]) -> None:
        for key, what in slots:
            # What was due with it may have had the endpoint forgotten.
            work = self._works.get(key, {}).get(what)
            if work:
                self.attempt(key, what, work)


# A dict for its order; of the process, for what is noted has no common owner.
_known: Final[dict[tuple[str, str], None]] = {}


def note(what: str, error: BaseException, **of: str) -> None:
    """Count an unexpected exception; log it, with its traceback where it is a new one."""
    metrics.FAULTS.labels(what).inc()
    # Of an exception that comes back each time the first traceback tells all.
    sign = (f"{what} {sorted(of.items())}", describe(error))
    if sign in _known:
        return
    _known[sign] = None
    if len(_known) > REMEMBERED:
        del _known[next(iter(_known))]
    _log.error("unexpected", what=what, **of, exc_info=error)


def describe(error: BaseException) -> str:
    """Return an exception in a few words."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
