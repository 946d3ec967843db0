"""Neighbor entries for the guests, asked of the kernel.

They are seeded REACHABLE with their routes (``ndmsg.encode_seed``), so that the first packet need
not ask.
"""

from handover_nodeagent.kernel.netlink import ndmsg
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Neigh


def find_mac(channel: Channel, address: IPAddress, oif: int) -> str | None:
    """Return the MAC that the kernel knows for *address* on *oif*; it may be old."""
    found = _find(channel, address, oif)
    return found.mac or None if found else None


def is_free(channel: Channel, neigh: Neigh) -> bool:
    """Tell whether *neigh* contradicts no entry that the kernel goes by now."""
    return ndmsg.is_free(_find(channel, neigh.address, neigh.oif), neigh.mac)


def _find(channel: Channel, address: IPAddress, oif: int) -> ndmsg.Entry | None:
    """Return the entry; None when there is none, or no answer that is one."""
    answer = channel.ask(ndmsg.encode_question(address, oif))
    return None if isinstance(answer, int) else ndmsg.decode(answer, address, oif)
