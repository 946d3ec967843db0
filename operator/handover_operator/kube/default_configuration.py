"""HandoverConfiguration ``default``: kept as this operator was given it, but for what a person set.

Server-side apply, never by force. A field that somebody else has set stays theirs (condition
Overridden), whichever replica leads; the rest of ours is applied all the same. What has drifted
or was deleted is applied again. A replica that does not lead asks without writing, so that none
is ready with a configuration that the API server refuses: an upgrade stops before old pods go.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from handover_api.names import DEFAULT_CONFIGURATION, ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kube.backoff import FIRST_DELAY
from handover_operator.kube.errors import Absent, Conflict, Refused, Temporary
from handover_operator.observability import metrics
from handover_operator.roles.parse import RawObject
from handover_operator.status.configuration import Application

LAST_DELAY: Final = 60.0
"""Between two attempts that fail, or two answers to somebody who undoes ours; seconds."""

REST: Final = 300.0
"""Seconds after which it is applied once more though no watch has told of a change."""

CONTESTED_WITHIN: Final = 1.0
"""Changes that follow each other faster than this, in seconds, are a quarrel: we slow down."""

_FIELD: Final = re.compile(r"\.spec\.(\w+)")


class Api(Protocol):
    """The API server (client.Cluster)."""

    async def apply_default(self, spec: Mapping[str, object], *, dry: bool) -> RawObject:
        """Apply ``default``, or only ask whether that would do. May raise what Cluster raises."""


class Listener(Protocol):
    """Is told how it went (controller.Controller)."""

    def take_application(self, application: Application) -> None:
        """Take in the newest answer; the object's conditions and an Event tell it."""


class Default:
    """Applies *spec* again and again, while ``run`` runs; None: somebody else makes ``default``."""

    def __init__(self, api: Api, listener: Listener, spec: Mapping[str, object] | None) -> None:
        self._api = api
        self._listener = listener
        self._spec = spec
        self._leads = False
        # Where somebody else makes it nobody waits for it: there may be none, on purpose.
        self._was_there = spec is None
        self._known: tuple[str, int] | None = None
        self._asked = asyncio.Event()
        self._log = structlog.get_logger()
        self.trouble = "" if spec is None else "HandoverConfiguration default is not applied so far"
        metrics.APPLIED.set(spec is None)

    def put(self, kind: Kind, key: ObjectKey, raw: RawObject) -> None:
        """Take in a version of an object (controller.Listener)."""
        if not _is_default(kind, key):
            return
        self._was_there = True
        # Our own write comes back by the watch, too, and asks for nothing.
        if self._known != _version(raw):
            self._known = _version(raw)
            self._asked.set()

    def put_unreadable(self, kind: Kind, key: ObjectKey, uid: str) -> None:
        """Let it be: what was applied last stands (controller.Listener)."""

    def drop(self, kind: Kind, key: ObjectKey) -> None:
        """Take in that an object is gone (controller.Listener)."""
        if _is_default(kind, key):
            self._known = None
            self._asked.set()

    def has_been_there(self) -> bool:
        """Return whether the agents know one; a later deletion is healed, and holds up nobody."""
        return self._was_there

    def lead(self, *, leads: bool) -> None:
        """Apply from now on, or only ask; a new leader applies at once."""
        self._leads = leads
        if leads:
            self._asked.set()

    async def run(self) -> None:
        """Apply until cancelled."""
        if self._spec is None:
            return
        loop = asyncio.get_running_loop()
        pause = FIRST_DELAY
        while True:
            # Before the attempt: what changes while it is under way asks for another one.
            self._asked.clear()
            is_settled = await self._attempt(self._spec)
            attempted = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REST if is_settled else pause):
                    await self._asked.wait()
            passed = loop.time() - attempted
            if is_settled and passed > max(CONTESTED_WITHIN, 2 * pause):
                pause = FIRST_DELAY
            else:
                await asyncio.sleep(max(pause - passed, 0.0))
                pause = min(pause * 2, LAST_DELAY)

    async def _attempt(self, spec: Mapping[str, object]) -> bool:
        """Apply, or ask; return False where that must be tried again."""
        try:
            application = await self._apply(spec)
        except Refused as reason:
            self._count("failed")
            self._take(Application(refusal=str(reason)))
            return False
        except (Temporary, Absent, Conflict) as reason:
            self._count("failed")
            self._note(f"HandoverConfiguration default is not applied: {reason}")
            return False
        self._take(application)
        return True

    async def _apply(self, spec: Mapping[str, object]) -> Application:
        """Apply all fields but those that are somebody else's by now."""
        left, overridden = dict(spec), dict[str, str]()
        while True:
            try:
                raw = await self._api.apply_default(left, dry=not self._leads)
            except Conflict as conflict:
                taken = {
                    found[1]: text
                    for place, text in conflict.causes.items()
                    if (found := _FIELD.match(place)) and found[1] in left
                }
                # Of a conflict that names no field of ours nothing can be left out.
                if not taken:
                    raise
                # Without our saying the field stays as its owner has it. Each round leaves out at
                # least one, so they come to an end.
                self._count("conflict")
                overridden |= taken
                left = {name: value for name, value in left.items() if name not in taken}
            else:
                if self._leads:
                    if self._known != _version(raw):
                        # An apply that finds all as it should be is a look, not a write.
                        self._count("done")
                    self._known, self._was_there = _version(raw), True
                return Application(overridden=overridden)

    def _take(self, application: Application) -> None:
        refusal = application.refusal
        self._note(f"HandoverConfiguration default is refused: {refusal}" if refusal else "")
        metrics.APPLIED.set(not refusal)
        metrics.OVERRIDDEN.set(len(application.overridden))
        # The answer to a question says what would be, and the status tells what is.
        if self._leads:
            self._listener.take_application(application)

    def _note(self, trouble: str) -> None:
        """Say each new reason once."""
        if trouble and trouble != self.trouble:
            self._log.error("default_not_applied", reason=trouble)
        elif self.trouble and not trouble:
            self._log.info("default_applied" if self._leads else "default_would_be_taken")
        self.trouble = trouble

    def _count(self, result: str) -> None:
        if self._leads:
            metrics.WRITES.labels(Kind.CONFIGURATION.value, result).inc()


def _is_default(kind: Kind, key: ObjectKey) -> bool:
    return kind is Kind.CONFIGURATION and key.name == DEFAULT_CONFIGURATION


def _version(raw: RawObject) -> tuple[str, int]:
    """Return what changes with the spec, and with nothing else."""
    return raw["metadata"]["uid"], raw["metadata"].get("generation", 0)
