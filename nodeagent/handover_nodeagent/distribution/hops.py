"""How the other nodes are reached from here: looked up, kept in nexthop objects, and what is wrong.

A way that is gone stays until there is another one: nobody knows what else would be better.
"""

import contextlib
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog

from handover_nodeagent.distribution import lookup
from handover_nodeagent.distribution.known import Slot
from handover_nodeagent.distribution.nexthop import Tunneled
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.routes import DistributedRoutes
from handover_nodeagent.distribution.underlay import Underlay
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.nhmsg import NextHop

_CONF: Final = Path("/proc/sys/net/ipv4/conf")
_STRICT: Final = 1
"""rp_filter of Documentation/networking/ip-sysctl.rst: 0 off, 1 strict, 2 loose."""

_log: Final = structlog.get_logger()


class Hops:
    """The next hop of each node that a route leads to, by node and family."""

    def __init__(
        self,
        channel: Channel,
        nodes: Mapping[str, Node],
        routes: DistributedRoutes,
        underlay: Underlay,
    ) -> None:
        """Ask by *channel* how *nodes* are reached; by *underlay* go the others.

        From those in ``one_way`` no answer would come: what goes there by the tunnel is answered by
        the uplink, where a strict rp_filter takes it for forged.
        """
        self.unreachable: set[Slot] = set()
        self.one_way: set[Slot] = set()
        self._underlay = underlay
        self._channel = channel
        self._nodes = nodes
        self._routes = routes
        self._found: dict[Slot, NextHop] = {}
        self._uplinks: dict[Slot, int] = {}
        self._devices: frozenset[int] = frozenset()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All that were asked for, whether they are reached or not."""
        return tuple({*self._found, *self.unreachable})

    def number(self, slot: Slot) -> int | None:
        """Return the nexthop object of a node, made now if need be; None: it is not reached."""
        if not self._is_in(slot):
            self.look_up([slot])
        return self._routes.known.numbers[slot] if self._is_in(slot) else None

    def look_up(self, slots: Iterable[Slot]) -> None:
        """Ask how nodes are reached; one message moves all routes to a node."""
        for slot in slots:
            name, version = slot
            node = self._nodes.get(name)
            hop: NextHop | str = self._reach(node, version) if node else "it is gone"
            refusal = hop if isinstance(hop, str) else self._routes.put_nexthop(slot, hop)
            if isinstance(hop, NextHop) and not refusal:
                self._found[slot] = hop
                self.unreachable.discard(slot)
                self._judge_answers(slot, hop)
            elif slot not in self.unreachable:
                self.unreachable.add(slot)
                # Said once, when it begins.
                _log.warning("node_unreachable", node=name, family=version, why=refusal)

    def is_one_way(self, slot: Slot) -> bool:
        """Tell whether what is sent to a node would get no answer."""
        self.number(slot)
        return slot in self.one_way

    def _judge_answers(self, slot: Slot, hop: NextHop) -> None:
        remote = hop.tunnel.remote if hop.tunnel else None
        uplink = lookup.device_to(self._channel, remote) if remote else hop.oif
        self._uplinks[slot] = uplink
        # IPv6 has no such filter in the kernel.
        device = _name(uplink) if hop.tunnel and uplink and hop.version == 4 else ""  # noqa: PLR2004
        if not device or not is_strict(device):
            self.one_way.discard(slot)
        elif slot not in self.one_way:
            self.one_way.add(slot)
            # Said once, when it begins.
            _log.warning("answers_dropped", node=slot[0], device=device, why="rp_filter is strict")

    def _reach(self, node: Node, version: int) -> NextHop | str:
        """Return how a node is reached, or why it is not."""
        way = lookup.to_node(self._channel, node, version)
        if isinstance(way, Tunneled):
            return self._underlay.to_node(node, version)
        return way or "it has no address that is known"

    def keep(self, names: frozenset[str]) -> None:
        """Forget all nodes but those of *names*."""
        gone = [slot for slot in self.slots if slot[0] not in names]
        for slot in gone:
            self._found.pop(slot, None)
            self._uplinks.pop(slot, None)
        self.unreachable.difference_update(gone)
        self.one_way.difference_update(gone)
        self._routes.known.forget(gone)

    def uses(self, device: int) -> bool:
        """Tell whether a node is reached by the device of this index."""
        return any(hop.oif == device for hop in self._found.values())

    def has_new_devices(self) -> bool:
        """Tell whether nodes are reached by other devices than when this was asked last."""
        devices = frozenset(hop.oif for hop in self._found.values())
        is_new, self._devices = devices != self._devices, devices
        return is_new

    def uplinks(self) -> frozenset[str]:
        """Return the devices by which other nodes, and clients outside, send to this one."""
        outside = {lookup.device_outside(self._channel, version) for version in (4, 6)}
        devices = outside | set(self._uplinks.values())
        return frozenset(filter(None, map(_name, devices - {0})))

    def strict_devices(self) -> frozenset[str]:
        """Return the devices on which a packet from outside of the cluster would be dropped.

        Another node forwards it to us by the device by which we reach that node. Where the way
        back to its sender is another one, a strict rp_filter takes it for forged.
        """
        back = lookup.device_outside(self._channel)
        # Without any way back no client outside is answered, whatever the filter does.
        devices = {hop.oif for hop in self._found.values() if hop.version == 4 and back}  # noqa: PLR2004
        return frozenset(filter(is_strict, map(_name, devices - {back})))

    def _is_in(self, slot: Slot) -> bool:
        """Tell whether a node's nexthop object is in the kernel."""
        number = self._routes.known.numbers.get(slot)
        if slot not in self._found or number is None:
            return False
        return self._routes.known.nexthops.get(number) is not None


def is_strict(device: str) -> bool:
    """Tell whether rp_filter is strict on a device: what counts is the greater of it and "all"."""
    found = [_read(_CONF / name / "rp_filter") for name in ("all", device)]
    return max(found) == _STRICT


def _read(path: Path) -> int:
    # A device that is gone by now has no setting, and harms nobody.
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


def _name(index: int) -> str:
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index)
    return ""
