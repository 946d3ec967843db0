"""Which namespaces hold a person's brake (``names.PAUSED``); of the others nothing is kept.

A watch of our own, of metadata alone: Kopf would keep things for every one of ten thousand, and
end all its watches where this one is refused.
"""

from collections.abc import Callable, Mapping

import structlog

from handover_api import configuration, wording
from handover_api.names import ObjectKey
from handover_operator.kinds import Plain
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Refused
from handover_operator.kube.watch import Watch
from handover_operator.roles import parse
from handover_operator.roles.parse import RawObject


class Namespaces:
    """Calls *listener* with those that are paused, whenever that may have changed (watch.Sink).

    It is called only once all are known: what nobody may read is neither paused nor released.
    """

    def __init__(self, cluster: Cluster, listener: Callable[[frozenset[str]], None]) -> None:
        self._watch = Watch(cluster, Plain.NAMESPACE, self)
        self._listener = listener
        self._paused = frozenset[str]()
        self._reported = frozenset[str]()
        self._is_complete = False
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Follow until cancelled; whatever it meets concerns nothing else."""
        await self._watch.run()

    def observe(self, _: Plain, raw: RawObject) -> None:
        """Take in one version of a namespace."""
        one = {parse.key(raw).name}
        self._change(self._paused | one if _is_paused(raw) else self._paused - one)

    def end(self, _: Plain, raw: RawObject) -> None:
        """Take in that a namespace is gone."""
        self._change(self._paused - {parse.key(raw).name})

    def retain(self, _: Plain, existing: Mapping[ObjectKey, str], version: int) -> None:  # noqa: ARG002  watch.Sink
        """Take in that all namespaces were listed."""
        # One that was deleted while nobody watched.
        self._paused &= {key.name for key in existing}
        self._is_complete = True
        # Also where none is paused: until then the listener only knows that nobody can tell.
        self._tell()

    def miss(self, _: Plain, reason: Exception) -> None:
        """Say why a brake may not be seen."""
        # What was seen before stays so: a brake is not released because nobody can look.
        text = str(reason) or type(reason).__name__
        if isinstance(reason, Refused):
            text = f"{text}; so the brake on a namespace is not seen"
        self._log.warning("namespaces_not_followed", reason=text)

    def _change(self, paused: frozenset[str]) -> None:
        if paused != self._paused:
            self._paused = paused
            if self._is_complete:
                self._tell()

    def _tell(self) -> None:
        if self._paused != self._reported:
            self._reported = self._paused
            named = wording.name_few(self._paused)
            self._log.warning("namespaces_paused", paused=named or "none any more")
        self._listener(self._paused)


def _is_paused(raw: RawObject) -> bool:
    return configuration.is_braked(raw["metadata"].get("annotations") or {})
