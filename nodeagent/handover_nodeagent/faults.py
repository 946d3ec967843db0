"""What nobody expected, kept where it belongs: one endpoint's fault is never another one's.

What raises is counted, logged once with its traceback, told in the endpoint's condition
Programmed, and tried again with patience. The endpoint's routes stay as they are meanwhile.
"""

from collections.abc import Callable
from typing import Final

import structlog

from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.retry import Retries

LONGEST: Final = 256
"""Characters of an exception's own words in a condition; a library may quote a whole object."""
REMEMBERED: Final = 256
"""Faults that are known to the log; the oldest is forgotten, and logged once more if it is met."""

_log: Final = structlog.get_logger()

Work = Callable[[], object]
Attempt = Callable[[ObjectKey, str, Work], bool]
"""``Faults.attempt``, for those who meet one endpoint after the other."""
_Slot = tuple[ObjectKey, str]


class Faults:
    """The unexpected exceptions of all endpoints, each by its endpoint and by what was done."""

    def __init__(self, told: Callable[[ObjectKey], None]) -> None:
        """Call *told* with an endpoint whose trouble is another one now."""
        self._told = told
        self._again: dict[ObjectKey, dict[str, Work]] = {}
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
        if key in self._again:
            self._mend(key, what)
        return True

    def trouble(self, key: ObjectKey) -> str:
        """Say what cannot be done for endpoint *key* now; "" when all can."""
        return "; ".join(self._troubles[key, what] for what in self._again.get(key, ()))

    def has(self, key: ObjectKey, what: str) -> bool:
        """Tell whether *what* of endpoint *key* waits for another attempt."""
        return what in self._again.get(key, ())

    def forget(self, key: ObjectKey) -> None:
        """Attempt nothing more of an endpoint that is gone."""
        slots = [(key, what) for what in self._again.pop(key, ())]
        for slot in slots:
            del self._troubles[slot]
        self._retries.succeeded(slots)

    def close(self) -> None:
        """Attempt nothing again."""
        self._retries.close()

    def _fail(self, key: ObjectKey, what: str, work: Work, error: Exception) -> None:
        note(what, error, endpoint=str(key))
        before = self._troubles.get((key, what))
        self._again.setdefault(key, {})[what] = work
        self._troubles[key, what] = f"{what}: {describe(error)}"
        self._retries.failed([(key, what)])
        if self._troubles[key, what] != before:
            self._told(key)

    def _mend(self, key: ObjectKey, what: str) -> None:
        if self._again[key].pop(what, None) is None:
            return
        if not self._again[key]:
            del self._again[key]
        del self._troubles[key, what]
        self._retries.succeeded([(key, what)])
        self._told(key)

    def _try_again(self, slots: frozenset[_Slot]) -> None:
        for key, what in slots:
            work = self._again.get(key, {}).get(what)
            if work:
                self.attempt(key, what, work)


_known: Final[dict[tuple[str, str], None]] = {}


def note(what: str, error: BaseException, **of: str) -> None:
    """Count an unexpected exception; log it, with its traceback where it is a new one."""
    metrics.FAULTS.labels(what).inc()
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
