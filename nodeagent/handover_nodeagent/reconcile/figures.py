"""What else is measured of a cutover, as the answers of other nodes come in.

They may come before the machine has stepped and its cutover was recorded, or seconds later: each
makes the figures anew, of the cutover as it was recorded and of all answers so far.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover
from handover_nodeagent.peers.sink import Acknowledgment
from handover_nodeagent.reconcile import cutover_figures
from handover_nodeagent.reconcile.endpoint import Endpoint


@dataclass(slots=True)
class _Open:
    """One cutover of which others were told: how many nodes, and what they answered."""

    uid: str
    asked: int
    recorded: Cutover | None = None
    announced_ns: int = 0
    answers: dict[str, Acknowledgment] = field(default_factory=dict)

    def measured(self) -> Cutover | None:
        """Return the cutover with all that is known by now."""
        if self.recorded is None:
            return None
        found = self.recorded
        peers = [one for one in self.answers.values() if not one.is_bystanders]
        if peers:
            # Of several peers the first is the source: the others follow a former migration.
            found = cutover_figures.with_source(found, self.announced_ns, peers[0])
        arrivals = [one.acknowledged_ns for one in self.answers.values()]
        return cutover_figures.with_nodes(found, self.announced_ns, self.asked, arrivals)


class Figures:
    """The cutovers of this node that others were told of."""

    def __init__(
        self,
        endpoints: Mapping[ObjectKey, Endpoint],
        changed: Callable[[Endpoint, Cutover], None],
    ) -> None:
        """Call *changed* with an endpoint that has more figures, and its cutover before."""
        self._endpoints = endpoints
        self._changed = changed
        self._open: dict[ObjectKey, _Open] = {}

    def asked(self, key: ObjectKey, uid: str, count: int) -> None:
        """Know how many nodes were told that an endpoint has the guest."""
        self._open[key] = _Open(uid, count)

    def recorded(self, endpoint: Endpoint, announced_ns: int) -> None:
        """Know the cutover itself: what was announced at *announced_ns*."""
        one, cutover = self._open.get(endpoint.key), endpoint.cutover
        if one and cutover and cutover.migration_uid == one.uid:
            one.recorded, one.announced_ns = cutover, announced_ns
            self._measure(endpoint, one)

    def acknowledged(self, key: ObjectKey, uid: str, node: str, ack: Acknowledgment) -> None:
        """Take the answer of a node; its first one tells when it had followed."""
        one, endpoint = self._open.get(key), self._endpoints.get(key)
        if one is None or one.uid != uid or endpoint is None:
            return
        one.answers.setdefault(node, ack)
        self._measure(endpoint, one)

    def forget(self, key: ObjectKey) -> None:
        """Measure nothing more of an endpoint."""
        self._open.pop(key, None)

    def _measure(self, endpoint: Endpoint, one: _Open) -> None:
        before, measured = endpoint.cutover, one.measured()
        if before and measured and before != measured:
            endpoint.cutover = measured
            self._changed(endpoint, before)
