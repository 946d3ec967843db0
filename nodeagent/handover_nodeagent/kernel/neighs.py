"""Neighbour entries for the guests: seeded REACHABLE, so that the first packet need not ask."""

import struct
from typing import Final

from handover_nodeagent.kernel import messages, netlink
from handover_nodeagent.network import IPAddress, Neigh

_BODY: Final = struct.Struct("=BxHiHBB")
_REACHABLE: Final = 0x02
_UNICAST: Final = 1
_DESTINATION: Final = 1
_LINK_LAYER_ADDRESS: Final = 2


def encode_seed(neigh: Neigh) -> bytes:
    """Return the message that creates or corrects the entry: ``ip neigh replace``.

    Not permanent: a wrong MAC heals by the kernel's own probing.
    """
    mac = bytes.fromhex(neigh.mac.replace(":", ""))
    body = _key(neigh, _REACHABLE) + messages.attribute(_LINK_LAYER_ADDRESS, mac)
    return messages.compose(messages.NEWNEIGH, messages.CREATE | messages.REPLACE, body)


def find_mac(channel: netlink.Channel, address: IPAddress, oif: int) -> str | None:
    """Return the MAC that the kernel knows for *address* on *oif*; it may be old."""
    request = messages.compose(messages.GETNEIGH, 0, _key(Neigh(address, oif, ""), 0))
    answer = channel.ask(request)
    if isinstance(answer, int):
        return None
    found = messages.find(answer, messages.HEADER.size + _BODY.size, _LINK_LAYER_ADDRESS)
    return found.hex(":") if any(found) else None


def _key(neigh: Neigh, state: int) -> bytes:
    address = neigh.address
    family = messages.family_of(address)
    body = _BODY.pack(family, 0, neigh.oif, state, 0, _UNICAST)
    return body + messages.attribute(_DESTINATION, address.packed)
