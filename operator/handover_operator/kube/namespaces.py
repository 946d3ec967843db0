"""Which namespaces hold a person's brake (``names.PAUSED``); of the others nothing is kept.

A watch of our own, of metadata alone: Kopf would keep things for every one of ten thousand, and
end all its watches where this one is refused.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from handover_api import configuration, wording
from handover_operator.kinds import Plain
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Refused, Unavailable
from handover_operator.roles import parse
from handover_operator.roles.parse import RawObject

SILENCE: Final = 70.0
"""Seconds without a word, where a bookmark comes each minute, after which a watch is dead."""

PAUSE: Final = 1.0
"""Seconds between a watch that ended and the next."""

WITHOUT_RIGHT: Final = 60.0
"""Seconds until namespaces are asked for once more where that is refused."""


class Namespaces:
    """Calls *told* with those that are paused, whenever that may have changed.

    It is called only once all are known: what nobody may read is neither paused nor released.
    """

    def __init__(self, cluster: Cluster, told: Callable[[frozenset[str]], None]) -> None:
        self._cluster = cluster
        self._told = told
        self._paused = frozenset[str]()
        self._said = ""
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Follow until cancelled; whatever it meets concerns nothing else."""
        while True:
            pause = PAUSE
            try:
                await self._follow(await self._list())
            except Refused as reason:
                self._complain(f"{reason}; so the brake on a namespace is not seen")
                pause = WITHOUT_RIGHT
            except Exception as error:  # noqa: BLE001  the root of a task that all others outlive
                self._complain(str(error) or type(error).__name__)
            await asyncio.sleep(pause)

    async def _list(self) -> str:
        """Look at all namespaces; return the version from which on to watch them."""
        paused: set[str] = set()
        version = 0
        async for page, version in self._cluster.headers(Plain.NAMESPACE):  # noqa: B007  the last counts
            paused.update(parse.key(raw).name for raw in page if _is_paused(raw))
        self._tell(frozenset(paused))
        return str(version)

    async def _follow(self, version: str) -> None:
        """Watch until that fails; what was missed then only a new list tells."""
        while True:
            changes = self._cluster.changes(Plain.NAMESPACE, version, SILENCE)
            async with contextlib.aclosing(changes):
                async for kind, raw in changes:
                    if kind == "ERROR":
                        message = str(raw.get("message"))
                        raise Unavailable(message)
                    version, self._said = raw["metadata"]["resourceVersion"], ""
                    if kind != "BOOKMARK":
                        self._take(kind, raw)
            await asyncio.sleep(PAUSE)

    def _take(self, kind: str, raw: RawObject) -> None:
        one = {parse.key(raw).name}
        is_paused = kind != "DELETED" and _is_paused(raw)
        self._tell(self._paused | one if is_paused else self._paused - one)

    def _tell(self, paused: frozenset[str]) -> None:
        if paused != self._paused:
            named = wording.enumerate_few(sorted(paused), len(paused)) or "none any more"
            self._log.warning("namespaces_paused", paused=named)
        self._paused = paused
        self._told(paused)

    def _complain(self, reason: str) -> None:
        """Say each new reason once, until a watch works again."""
        if reason != self._said:
            self._said = reason
            self._log.warning("namespaces_not_followed", reason=reason)


def _is_paused(raw: RawObject) -> bool:
    return configuration.is_braked(raw["metadata"].get("annotations") or {})
