"""Where distributed routes and their nexthop objects are written.

All that is sent at once is sent in one batch; what the kernel refused is a value, and stays to be
tried again.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from handover_nodeagent import metrics
from handover_nodeagent.distribution.known import Change, Known, Slot, ViaNextHop
from handover_nodeagent.kernel.netlink import answers, nhmsg, rtmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import IPAddress

# What was to be removed and is not there, or went with its nexthop object, is removed.
_REMOVED: Final = frozenset({0, errno.ESRCH, errno.ENOENT})

Prepared = tuple[tuple[Change, bytes], ...]
"""What a HAVE fires: each route with its message."""


class DistributedRoutes:
    """Our nexthop objects and the routes that use them, as they are and as they become.

    ``writes`` counts what was sent: what was observed meanwhile may be older.
    """

    def __init__(self, channel: Channel, table: int, protocol: int) -> None:
        self.known = Known()
        self.writes = 0
        self._channel = channel
        self._table = table
        self._protocol = protocol

    def prepare(self, wanted: Iterable[ViaNextHop]) -> Prepared:
        """Encode what would bring *wanted* in now."""
        changes = [change for route in wanted if (change := self.known.change(route))]
        return tuple((change, self._encode(change)) for change in changes)

    def fire(self, prepared: Prepared) -> bool:
        """Send what was prepared; tell whether the kernel took all of it."""
        results = self._send([message for _, message in prepared])
        for (change, _), result in zip(prepared, results, strict=True):
            if result == 0:
                self.known.put(change.route)
        return not any(results)

    def put_nexthop(self, slot: Slot, nexthop: NextHop) -> str:
        """Have the object of *slot* lead to *nexthop*, with all routes that use it.

        Return why the kernel refused it; "" when it did not.
        """
        number = self.known.number(slot, nexthop)
        if self.known.nexthops.get(number) == nexthop:
            return ""
        results = self._send([nhmsg.encode_put(number, nexthop, self._protocol)])
        if results[0]:
            return self._refuse(results, 0)
        self.known.nexthops[number] = nexthop
        return ""

    def apply(self, wanted: Mapping[IPAddress, ViaNextHop | None]) -> Mapping[IPAddress, str]:
        """Bring the routes to some addresses to what is wanted; return what was refused, and why.

        The new one is in before another one goes, and none goes whose successor was refused.
        """
        prepared = self.prepare(route for route in wanted.values() if route)
        results = self._send([message for _, message in prepared])
        refused: dict[IPAddress, str] = {}
        for index, ((change, _), result) in enumerate(zip(prepared, results, strict=True)):
            if result:
                refused[change.route.address] = self._refuse(results, index)
            else:
                self.known.put(change.route)
                metrics.DISTRIBUTED_ROUTES.labels("replace" if change.replaces else "add").inc()
        self._remove(
            route
            for address, one in wanted.items()
            if address not in refused
            for route in self.known.superfluous(address, one)
        )
        return refused

    def remove_unused(self) -> None:
        """Remove the nexthop objects that no node has and no route uses."""
        unused = self.known.unused()
        results = self._send([nhmsg.encode_remove(number) for number in unused])
        for number, result in zip(unused, results, strict=True):
            if result in _REMOVED:
                del self.known.nexthops[number]

    def remove_all(self) -> None:
        """Remove all routes, and then the objects that they used."""
        self._remove(self.known.routes())
        self.known.forget(tuple(self.known.numbers))
        self.remove_unused()

    def _remove(self, routes: Iterable[ViaNextHop]) -> None:
        removed = tuple(routes)
        results = self._send(
            [rtmsg.encode_remove(route.to_route(self._table, self._protocol)) for route in removed]
        )
        for index, (route, result) in enumerate(zip(removed, results, strict=True)):
            if result in _REMOVED:
                self.known.drop(route)
                metrics.DISTRIBUTED_ROUTES.labels("remove").inc()
            else:
                self._refuse(results, index)

    def _refuse(self, results: answers.Results, index: int) -> str:
        result = results[index]
        metrics.ROUTE_ERRORS.labels(errno.errorcode.get(result, str(result))).inc()
        return results.explain(index) or answers.describe(result)

    def _encode(self, change: Change) -> bytes:
        return change.encode(self._table, self._protocol)

    def _send(self, requests: Sequence[bytes]) -> answers.Results:
        if not requests:
            return answers.Results()
        self.writes += 1
        return self._channel.transact(requests)
