"""Which guests that are about to leave are recorded until their last frame here.

A measurement, on which nothing depends: where it cannot be made, all else goes on as without it.
"""

from typing import NamedTuple

from handover_api.configuration import Mode, Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.sniff.last_frame import LastFrameRecorder
from handover_nodeagent.sniff.own_frames import LastFrame, Unknown


class _Guest(NamedTuple):
    """Whose frames they are: on another interface, or by another MAC, it begins anew."""

    ifindex: int
    mac: str | None


class LastFrames:
    """The recorders of this node's sources, one while a migration of each is armed."""

    def __init__(self) -> None:
        self._recorders: dict[ObjectKey, tuple[_Guest, LastFrameRecorder]] = {}

    def follow(self, endpoint: Endpoint, settings: Settings) -> None:
        """Record an armed source's guest, and no other's; again, it changes nothing."""
        guest = _recorded(endpoint, settings)
        known = self._recorders.get(endpoint.key)
        if known and known[0] == guest:
            return
        self.end(endpoint.key)
        if guest:
            self._recorders[endpoint.key] = guest, LastFrameRecorder(guest.ifindex, guest.mac)

    def of(self, key: ObjectKey) -> LastFrame | Unknown:
        """Return when an endpoint's guest sent its last frame so far, or why nobody knows."""
        known = self._recorders.get(key)
        return known[1].last() if known else Unknown("it is no source of an armed migration")

    def end(self, key: ObjectKey) -> None:
        """Record nothing more of an endpoint."""
        known = self._recorders.pop(key, None)
        if known:
            known[1].close()


def _recorded(endpoint: Endpoint, settings: Settings) -> _Guest | None:
    assignment, link = endpoint.machine.assignment, endpoint.link
    # Before a migration is armed its end is far, and it may still be called off for free.
    is_leaving = assignment.role is Role.SOURCE and assignment.armed
    if link is None or not is_leaving or settings.mode is not Mode.ACTIVE:
        return None
    return _Guest(link.index, endpoint.mac)
