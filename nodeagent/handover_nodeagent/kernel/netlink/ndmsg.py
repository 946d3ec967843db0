"""PURE: neighbor messages as bytes: the seed of an entry, the question for one, and the answer."""

import struct
from typing import Final, NamedTuple

from handover_nodeagent.kernel.netlink import codec
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


class Entry(NamedTuple):
    """What the kernel knows of a neighbor: its MAC, "" for none, and whether packets leave by it.

    One that is not *in_force* is stale or failed, and to be asked about anyway.
    """

    mac: str
    in_force: bool


def encode_seed(neigh: Neigh) -> bytes:
    """Return the message that creates or corrects the entry: ``ip neigh replace``.

    Not permanent: a wrong MAC heals by the kernel's own probing.
    """
    mac = bytes.fromhex(neigh.mac.replace(":", ""))
    body = _key(neigh.address, neigh.oif, _REACHABLE, _UNICAST)
    body += codec.attribute(_LINK_LAYER_ADDRESS, mac)
    return codec.compose(codec.NEWNEIGH, codec.CREATE | codec.REPLACE, body)


def encode_question(address: IPAddress, oif: int) -> bytes:
    """Return the question for the entry of *address* on *oif*."""
    # Of a question the kernel refuses each field that it does not go by, the type too.
    return codec.compose(codec.GETNEIGH, 0, _key(address, oif, 0, 0))


def decode(answer: bytes, address: IPAddress, oif: int) -> Entry | None:
    """Read what answers :func:`encode_question`; None for anything but that entry."""
    try:
        _, _, index, state, _, _ = codec.unpack(_BODY, answer, codec.HEADER.size)
        found = codec.attributes(answer, codec.HEADER.size + _BODY.size)
    except codec.MalformedError:
        return None
    # No other entry will do: a kernel without a family may answer its questions for another one.
    if (index, found.get(_DESTINATION)) != (oif, address.packed):
        return None
    mac = found.get(_LINK_LAYER_ADDRESS, b"")
    return Entry(mac.hex(":") if any(mac) else "", bool(state & _IN_FORCE))


def is_free(entry: Entry | None, mac: str) -> bool:
    """Tell whether an entry with *mac* would contradict none that the kernel goes by now.

    What was heard on the wire, or what somebody has fixed, goes before what an object says.
    """
    return entry is None or not entry.in_force or entry.mac in {"", mac.lower()}


def _key(address: IPAddress, oif: int, state: int, kind: int) -> bytes:
    body = _BODY.pack(codec.family_of(address), 0, oif, state, 0, kind)
    return body + codec.attribute(_DESTINATION, address.packed)
