"""PURE: whose transaction it was that changed our nftables table, by what the kernel notifies.

It tells a transaction's changes first and then, in a message of its own, the name of the thread
that made it. A name serves where a process id would not: it is the same inside and outside of a
container.
"""

import struct
from typing import Final

from handover_nodeagent.kernel.netlink import codec
from handover_nodeagent.kernel.nft import names

_BODY: Final = struct.Struct("=BBH")
"""struct nfgenmsg of linux/netfilter/nfnetlink.h: family, version, resource id."""
_ATTRIBUTES_AT: Final = codec.HEADER.size + _BODY.size
# NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN, NFTA_GEN_PROC_NAME and NFTA_*_TABLE of
# linux/netfilter/nf_tables.h; NFPROTO_ of linux/netfilter.h.
_NEW_GENERATION: Final = 10 << 8 | 15
_PROCESS_NAME: Final = 3
_TABLE: Final = 1
ARP: Final = 3
INET: Final = 1
_OURS: Final = names.TABLE.encode() + b"\0"


class Authorship:
    """The transactions of everybody, told apart by whether they are *author*'s.

    Those count that concern our table of *family*.
    """

    def __init__(self, author: str, family: int = ARP) -> None:
        self._family = family
        self._author = author.encode() + b"\0"
        self._is_touched = False

    def take(self, message: bytes) -> bool:
        """Take in one notification; tell whether it ends somebody else's change of our table.

        Raises codec.MalformedError.
        """
        if codec.kind_of(message) != _NEW_GENERATION:
            # Collected until the message that says whose it was.
            self._is_touched = self._is_touched or self._concerns_us(message)
            return False
        name = codec.attributes(message, _ATTRIBUTES_AT).get(_PROCESS_NAME)
        is_drift = self._is_touched and name != self._author
        self._is_touched = False
        return is_drift

    def _concerns_us(self, message: bytes) -> bool:
        family, _, _ = codec.unpack(_BODY, message, codec.HEADER.size)
        # In all of nftables' change messages the first attribute names the table.
        found = codec.attributes(message, _ATTRIBUTES_AT)
        return family == self._family and found.get(_TABLE) == _OURS
