"""Hears when somebody else changes our nftables table: by notification, not by listing."""

from collections.abc import Callable
from typing import Final

from handover_nodeagent.kernel.netlink import subscription
from handover_nodeagent.kernel.nft import authorship
from handover_nodeagent.kernel.nft.authorship import Authorship

BUDGET: Final = 16
"""Datagrams per wake-up, each with up to some thirty changes."""
# NETLINK_NETFILTER of linux/netlink.h and NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h.
_NETFILTER: Final = 12
_GROUP_NFTABLES: Final = 1 << (7 - 1)
_RECEIVE_BUFFER: Final = 4 << 20
"""A whole table for 500 workloads is about 2 MiB of notifications."""


class DriftWatch:
    """Listens on the running loop from its making on, until ``close``.

    ``drifted``: somebody other than *author* (``Writer.author``) changed our table of *family*;
    replace it. ``overflow``: nobody knows; observe it.
    """

    def __init__(
        self,
        drifted: Callable[[], None],
        overflow: Callable[[], None],
        *,
        author: str,
        family: int = authorship.ARP,
        receive_buffer: int = _RECEIVE_BUFFER,
    ) -> None:
        self._drifted = drifted
        self._authorship = Authorship(author, family)
        subject = subscription.Subject(_NETFILTER, _GROUP_NFTABLES, BUDGET, receive_buffer)
        self._subscription = subscription.Subscription(subject, self._take, overflow)

    def close(self) -> None:
        """Stop listening; again, it changes nothing."""
        self._subscription.close()

    def _take(self, message: bytes) -> None:
        if self._authorship.take(message):
            self._drifted()
