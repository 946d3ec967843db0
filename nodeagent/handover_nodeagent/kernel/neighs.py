"""Neighbor entries for the guests: seeded REACHABLE, so that the first packet need not ask."""

import struct
from typing import Final

from handover_nodeagent.kernel.netlink import codec
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.network.model import IPAddress, Neigh

_BODY: Final = struct.Struct("=BxHiHBB")
"""struct ndmsg of linux/neighbour.h: family, padding, index, state, flags, type."""
_REACHABLE: Final = 0x02
# Not NUD_STALE (0x04): packets still leave by it, but with the first one the kernel begins to ask
# whether it holds.
_IN_FORCE: Final = _REACHABLE | 0x08 | 0x10 | 0x40 | 0x80
"""NUD_REACHABLE, DELAY, PROBE, NOARP, PERMANENT: packets leave by it now."""
# RTN_UNICAST, as ip-neigh(8) sends it, then NDA_DST and NDA_LLADDR of linux/neighbour.h.
_UNICAST: Final = 1
_DESTINATION: Final = 1
_LINK_LAYER_ADDRESS: Final = 2


def encode_seed(neigh: Neigh) -> bytes:
    """Return the message that creates or corrects the entry: ``ip neigh replace``.

    Not permanent: a wrong MAC heals by the kernel's own probing.
    """
    mac = bytes.fromhex(neigh.mac.replace(":", ""))
    body = _key(neigh, _REACHABLE, _UNICAST) + codec.attribute(_LINK_LAYER_ADDRESS, mac)
    return codec.compose(codec.NEWNEIGH, codec.CREATE | codec.REPLACE, body)


def find_mac(channel: Channel, address: IPAddress, oif: int) -> str | None:
    """Return the MAC that the kernel knows for *address* on *oif*; it may be old."""
    found = _find(channel, address, oif)
    return found[0] or None if found else None


def is_free(channel: Channel, neigh: Neigh) -> bool:
    """Tell whether *neigh* contradicts no entry that the kernel goes by now.

    What was heard on the wire, or what somebody has fixed, goes before what an object says. An
    entry that is stale or failed is to be asked about anyway.
    """
    found = _find(channel, neigh.address, neigh.oif)
    if found is None:
        return True
    mac, state = found
    return not state & _IN_FORCE or mac in {"", neigh.mac.lower()}


def _find(channel: Channel, address: IPAddress, oif: int) -> tuple[str, int] | None:
    """Return MAC and state of an entry; None when there is none, or no answer that is one."""
    # Of a question the kernel refuses each field that it does not go by, the type too.
    answer = channel.ask(codec.compose(codec.GETNEIGH, 0, _key(Neigh(address, oif, ""), 0, 0)))
    if isinstance(answer, int):
        return None
    try:
        _, _, index, state, _, _ = codec.unpack(_BODY, answer, codec.HEADER.size)
        found = codec.attributes(answer, codec.HEADER.size + _BODY.size)
    except codec.MalformedError:
        return None
    # No other entry will do: a kernel without a family may answer its questions for another one.
    if (index, found.get(_DESTINATION)) != (oif, address.packed):
        return None
    mac = found.get(_LINK_LAYER_ADDRESS, b"")
    return mac.hex(":") if any(mac) else "", state


def _key(neigh: Neigh, state: int, kind: int) -> bytes:
    address = neigh.address
    family = codec.family_of(address)
    body = _BODY.pack(family, 0, neigh.oif, state, 0, kind)
    return body + codec.attribute(_DESTINATION, address.packed)
