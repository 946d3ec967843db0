"""Hears when somebody else changes our nftables table: by notification, not by listing.

The kernel tells a transaction's changes first and then, in a message of its own, the name of the
thread that made it. A name serves where a process id would not: it is the same inside and outside
of a container.
"""

from collections.abc import Callable
from typing import Final

from handover_nodeagent.kernel.arp_guard import rules
from handover_nodeagent.kernel.netlink import codec, subscription

BUDGET: Final = 16
"""Datagrams per wake-up, each with up to some thirty changes."""
# NETLINK_NETFILTER of linux/netlink.h and NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h.
_NETFILTER: Final = 12
_GROUP_NFTABLES: Final = 1 << (7 - 1)
_RECEIVE_BUFFER: Final = 4 << 20
"""A whole table for 500 workloads is about 2 MiB of notifications."""

# NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN, NFTA_GEN_PROC_NAME and NFTA_*_TABLE of
# linux/netfilter/nf_tables.h; NFPROTO_ARP of linux/netfilter.h.
_NEW_GENERATION: Final = 10 << 8 | 15
_PROCESS_NAME: Final = 3
_TABLE: Final = 1
_ARP: Final = 3
_FAMILY_AT: Final = codec.HEADER.size
# Behind struct nfgenmsg: family, version, resource id.
_ATTRIBUTES_AT: Final = codec.HEADER.size + 4
_OURS: Final = rules.TABLE.encode() + b"\0"


class DriftWatch:
    """Listens on the running loop from its making on, until ``close``.

    ``drifted``: somebody other than *author* (``GuardTable.author``) changed our table; replace
    it. ``overflow``: nobody knows; observe it.
    """

    def __init__(
        self,
        drifted: Callable[[], None],
        overflow: Callable[[], None],
        *,
        author: str,
        receive_buffer: int = _RECEIVE_BUFFER,
    ) -> None:
        self._drifted = drifted
        self._author = author.encode() + b"\0"
        self._touched = False
        subject = subscription.Subject(_NETFILTER, _GROUP_NFTABLES, BUDGET, receive_buffer)
        self._subscription = subscription.Subscription(subject, self._take, overflow)

    def close(self) -> None:
        """Stop listening; again, it changes nothing."""
        self._subscription.close()

    def _take(self, message: bytes) -> None:
        """Collect one transaction until the message that says whose it was."""
        if codec.HEADER.unpack_from(message)[1] != _NEW_GENERATION:
            self._touched = self._touched or _concerns_us(message)
            return
        name = codec.attributes(message, _ATTRIBUTES_AT).get(_PROCESS_NAME)
        if self._touched and name != self._author:
            self._drifted()
        self._touched = False


def _concerns_us(message: bytes) -> bool:
    # In all of nftables' change messages the first attribute names the table.
    return (
        message[_FAMILY_AT] == _ARP
        and codec.attributes(message, _ATTRIBUTES_AT).get(_TABLE) == _OURS
    )
