"""The probe: routes as the agent's own in a documentation prefix, on interfaces made for it.

Whatever ends the command, the interfaces go, and their routes with them. After a SIGKILL they stay;
the next probe knows them by their MAC and removes them first.
"""

import contextlib
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from handover_nodeagent.commands.check_bgp.levels import IPV6, Level

NAME: Final = "handover-probe"
# The two ends of one pair: both come in one request, and go in one. Where pods are it is there; a
# kernel may lack dummy. Each is told its MAC when it is made, which no other attribute of ours is.
_KIND: Final = "veth"
_MACS: Final = ("02:68:6f:2d:62:67", "02:68:6f:2d:62:68")
# IFNAMSIZ of linux/if.h has room for 15, and the second interface's name is one longer.
LONGEST_NAME: Final = 14
# RT_SCOPE_LINK of linux/rtnetlink.h.
_LINK: Final = 253
# IN6_ADDR_GEN_MODE_NONE of linux/if_link.h: no address that a speaker would have to know.
_NO_ADDRESS: Final = {
    "attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", 1]]}]],
}
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# An abstract name is the kernel's, by network namespace, and is free once its owner is gone.
_LOCK: Final = "\0handover-check-bgp"


class ProbeError(Exception):
    """The probe cannot be placed; the text says why."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Two interfaces: the routes are placed on the first, and replaced by such on the second."""

    kernel: IPRoute
    indexes: tuple[int, int]
    protocol: int
    table: int

    def add(self, levels: Sequence[Level]) -> tuple[Level, ...]:
        """Add the routes; return those that the kernel has now: without IPv6 not all."""
        return tuple(level for level in levels if self._write("add", level, self.indexes[0]))

    def replace(self, levels: Sequence[Level]) -> None:
        """Let the routes lead to the other interface, in one step each."""
        for level in levels:
            self._write("replace", level, self.indexes[1])

    def remaining(self, levels: Sequence[Level]) -> tuple[Level, ...]:
        """Return those that nobody has removed meanwhile."""
        with contextlib.suppress(NetlinkError):
            there = {
                route.get_attr("RTA_DST")
                for family in (socket.AF_INET, socket.AF_INET6)
                for route in self.kernel.route("dump", family=family, table=self.table)
                if route.get_attr("RTA_OIF") in self.indexes
            }
            return tuple(level for level in levels if level.address in there)
        return ()

    def _write(self, verb: str, level: Level, index: int) -> bool:
        is_ipv6 = level.family == IPV6
        try:
            self.kernel.route(
                verb,
                family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
                dst=level.prefix,
                oif=index,
                priority=level.metric,
                proto=self.protocol,
                table=self.table,
                **({} if is_ipv6 else {"scope": _LINK}),
            )
        except NetlinkError:
            if not is_ipv6:
                raise
            # The node has IPv6 switched off, as ipv6.disable=1 or disable_ipv6 does.
            return False
        return True


@contextlib.contextmanager
def placed(name: str, protocol: int, table: int) -> Iterator[Probe]:
    """Make the interfaces, and remove them in every case. Raises ProbeError."""
    try:
        with _alone(), IPRoute(strict_check=True) as kernel, _ended_by_signals():
            try:
                _remove(kernel, name)
                yield Probe(kernel, _make(kernel, name), protocol, table)
            finally:
                _remove(kernel, name)
    except NetlinkError as error:
        message = f"the kernel refuses: {error}"
        raise ProbeError(message) from error


def _make(kernel: IPRoute, name: str) -> tuple[int, int]:
    names = (name, f"{name}1")
    if there := [one for one in names if kernel.link_lookup(ifname=one)]:
        message = f"an interface {there[0]} is there already, and not this command's"
        raise ProbeError(message)
    peer = {"ifname": names[1], "address": _MACS[1]}
    kernel.link("add", ifname=name, address=_MACS[0], kind=_KIND, peer=peer)
    first, second = (kernel.link_lookup(ifname=one)[0] for one in names)
    for index in (first, second):
        # Without IPv6 there is nothing to be told, and the kernel refuses.
        with contextlib.suppress(NetlinkError):
            kernel.link("set", index=index, IFLA_AF_SPEC=_NO_ADDRESS)
        kernel.link("set", index=index, state="up")
    return first, second


def _remove(kernel: IPRoute, name: str) -> None:
    """Remove what is ours, this run's or that of one before; the routes go with it."""
    for index in kernel.link_lookup(ifname=name):
        (link,) = kernel.get_links(index)
        details = link.get_attr("IFLA_LINKINFO")
        is_of_kind = details is not None and details.get_attr("IFLA_INFO_KIND") == _KIND
        if is_of_kind and link.get_attr("IFLA_ADDRESS") == _MACS[0]:
            kernel.link("del", index=index)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep a second probe out of this network namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(_LOCK)
        except OSError:
            message = "another check-bgp runs here"
            raise ProbeError(message) from None
        yield


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal end the block as an exception does, the first one only: then all is removed."""
    is_over = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal is_over
        if is_over:
            return
        is_over = True
        # As a shell tells that a signal ended a program.
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
