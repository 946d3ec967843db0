"""How many packets were sent on for each guest that has moved, and how often it came back.

The firewall's table counts by address and is read now and then (``redirect_table``). A count is one
migration's: it begins with the redirect, and can be told until the next one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import RedirectStatus
from handover_nodeagent import metrics
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.reconcile.endpoint import Endpoint


@dataclass(slots=True)
class _Count:
    """What was sent on in one migration; None: nothing was read so far, or cannot be."""

    uid: str | None
    packets: int | None = None


class Forwarded:
    """The counts of all endpoints."""

    def __init__(
        self,
        endpoints: Mapping[ObjectKey, Endpoint],
        report: Callable[[Iterable[ObjectKey]], None],
    ) -> None:
        """Have those *report* whose count is another one."""
        self._endpoints = endpoints
        self._report = report
        self._counts: dict[ObjectKey, _Count] = {}

    def follow(self, endpoint: Endpoint) -> None:
        """Know whether an endpoint has a redirect now."""
        machine, count = endpoint.machine, self._counts.get(endpoint.key)
        redirect = machine.underlying.redirect
        if redirect:
            # An agent that was started anew may not know whose it is.
            uid = redirect.uid or machine.uid
            if count is None or count.uid != uid:
                self._counts[endpoint.key] = _Count(uid)
        elif count and count.uid != machine.uid:
            self.forget(endpoint.key)

    def forget(self, key: ObjectKey) -> None:
        """Know that an endpoint is gone."""
        self._counts.pop(key, None)

    def counted(self, news: Mapping[IPAddress, int]) -> None:
        """Take how many packets came for each address since this was called last."""
        metrics.FORWARDED.inc(sum(news.values()))
        changed = []
        for key, count in self._counts.items():
            endpoint = self._endpoints.get(key)
            # Also of one whose guest is back: what was sent on before is counted only then.
            allowed = endpoint.admission.allowed if endpoint else ()
            found = [news[address] for address in allowed if address in news]
            if found and (count.packets is None or any(found)):
                count.packets = (count.packets or 0) + sum(found)
                changed.append(key)
        self._report(changed)

    def describe(self, endpoint: Endpoint) -> RedirectStatus | None:
        """Return what is told of an endpoint; None where nothing was sent on or came back."""
        count, machine = self._counts.get(endpoint.key), endpoint.machine
        uid = count.uid if count else machine.uid
        back = machine.returns.of(uid)
        if count is None and not back:
            return None
        packets = count.packets if count else None
        return RedirectStatus(migration_uid=uid, forwarded=packets, roll_backs=back)
