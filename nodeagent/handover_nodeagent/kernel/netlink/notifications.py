"""Hears what changes in the kernel without us; ``changes`` reads what is heard.

A filter in the kernel lets through what somebody here could care about: not our own changes, no
network routes, no host routes by a gateway. So 10,000 flapping routes of a BGP speaker wake nobody.
"""

import socket
from collections.abc import Callable
from typing import Final

from handover_nodeagent.kernel.netlink import changes, subscription, wakeup_filter
from handover_nodeagent.kernel.netlink.changes import Change

BUDGET: Final = 64
"""Notifications per wake-up; then the loop's other descriptors have their turn."""

_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE of linux/rtnetlink.h."""


class Notifications:
    """Listens on the running loop from its making on, until ``close``.

    Told of is *table*, and what of its routes has our *protocol* or the next one. What *own_port*
    (``Channel.port``) caused is not told. ``overflow``: the kernel dropped some;
    observe everything.
    """

    def __init__(
        self,
        heard: Callable[[Change], None],
        overflow: Callable[[], None],
        *,
        table: int,
        protocol: int = 0,
        own_port: int = 0,
        receive_buffer: int = 1 << 20,
    ) -> None:
        self._heard = heard
        self._table = table
        self._protocol = protocol
        self._own_port = own_port
        program = wakeup_filter.compile_filter(own_port, protocol)
        subject = subscription.Subject(
            socket.NETLINK_ROUTE, _GROUPS, BUDGET, receive_buffer, program
        )
        self._subscription = subscription.Subscription(subject, self._take, overflow)

    def configure(self, table: int, protocol: int) -> None:
        """Tell of the routes of another *table*, or of another *protocol*, from now on."""
        self._table = table
        if protocol != self._protocol:
            self._protocol = protocol
            self._subscription.filter(wakeup_filter.compile_filter(self._own_port, protocol))

    def close(self) -> None:
        """Stop listening; again, it changes nothing."""
        self._subscription.close()

    def _take(self, message: bytes) -> None:
        # The filter knows no table, for which one counts may change with the configuration.
        change = changes.decode(message, self._table)
        if change:
            self._heard(change)
