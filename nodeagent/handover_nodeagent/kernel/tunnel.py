"""The tunnel between nodes: one VXLAN-GPE device, through which a host route leads to any node.

CAP_NET_ADMIN is enough, and a /proc/sys that may only be read. What stands in the way of a tunnel
is a value: without one, migrations work as before, and say why.
"""

import errno
import hashlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from handover_api.conditions import EndpointReason
from handover_nodeagent.kernel import route_lookup
from handover_nodeagent.kernel.netlink import answers, codec, vxlan
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.vxlan import Device
from handover_nodeagent.network.model import Encapsulated, IPAddress, Route

REDIRECT: Final = "handover0"
"""What still arrives for a guest that has moved, on its way to the guest's node."""
DISTRIBUTION: Final = "handover1"
"""What a bystander sends to a guest's node where nothing else leads there. Another device, as what
came by the first one must not leave a node again."""
_LINK_LOCAL: Final = b"\xfe\x80" + bytes(6)
_INTERFACE_PART: Final = 8
_ABSENT: Final = frozenset({errno.ENODEV, errno.ENOENT})
_NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM})
"""Of an IPv6 request: no such family here, or (EACCES) switched off for the device. A missing
privilege has been told by the requests before."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no tunnel, as a condition says it."""

    reason: EndpointReason
    message: str


WAITING: Final = Refusal(
    EndpointReason.PENDING, "the tunnel waits for its rules in nftables table inet handover"
)
"""Without them anybody could send into it, and what came in would leave by the node's routes."""


def ensure(
    channel: Channel, name: str, port: int, addresses: Iterable[IPAddress] = ()
) -> int | Refusal:
    """Make device *name* with *port*, or find it made; return its index. Again, it changes nothing.

    *addresses* are the node's own in the underlay: by each the tunnel has an inner one. A
    millisecond, or some tens where a wrong one of ours goes first: not on the way to a route.
    """
    found = observe(channel, name)
    if isinstance(found, Device) and found.is_ours and not found.is_right(port):
        # Another port or an older agent's form; none of it can be changed in place.
        channel.transact([vxlan.encode_remove(found.index)])
        found = None
    if isinstance(found, Device) and not found.is_right(port):
        return _device_taken(name, found)
    if found is None:
        refused = _create(channel, name, port)
        found = observe(channel, name)
        if refused or not isinstance(found, Device):
            return refused or _refuse(name, errno.ENODEV)
    if isinstance(found, int):
        return _refuse(name, found)
    # A device that is set anew is told of to all who listen, who would look at it once more.
    refused = None if found.is_configured else _configure(channel, name, port, found.index)
    return refused or _give_addresses(channel, name, found.index, addresses) or found.index


def ensure_enclosed(
    channel: Channel,
    name: str,
    port: int,
    is_enclosed: Callable[[str], bool],
    addresses: Iterable[IPAddress] = (),
) -> int | Refusal:
    """Do what :func:`ensure` does, once the device *is_enclosed*: WAITING until then."""
    found = observe(channel, name)
    # One that is there has the rules that the last agent left; one of another port is made anew.
    is_there = isinstance(found, Device) and found.is_right(port)
    if is_there or is_enclosed(name):
        return ensure(channel, name, port, addresses)
    return _obstacle(found, name, port) or WAITING


def _obstacle(found: Device | int | None, name: str, port: int) -> Refusal | None:
    """Say what would keep a device from being made; None: nothing that is seen."""
    if isinstance(found, Device) and not found.is_ours:
        return _device_taken(name, found)
    if isinstance(found, int):
        return _refuse(name, found)
    is_other = not isinstance(found, Device) or found.port != port
    return _port_taken(port) if is_other and _is_port_taken(port) else None


def is_open(channel: Channel, name: str) -> bool:
    """Tell whether device *name* is there, and one of ours: it may take packets."""
    found = observe(channel, name)
    return isinstance(found, Device) and found.is_ours


def observe(channel: Channel, name: str) -> Device | int | None:
    """Return the link of that name; None: there is none; an errno: nobody knows."""
    answer = channel.ask(vxlan.encode_question(name))
    if isinstance(answer, int):
        return None if answer in _ABSENT else answer
    try:
        return vxlan.decode(answer)
    except codec.MalformedError:
        return errno.EPROTO


def remove(channel: Channel, name: str) -> bool:
    """Remove the device if it is ours, with all that leads into it; tell whether it was.

    The kernel waits for all its readers: some tens of milliseconds.
    """
    found = observe(channel, name)
    if not isinstance(found, Device) or not found.is_ours:
        return False
    return channel.transact([vxlan.encode_remove(found.index)]) == [0]


def disown(
    channel: Channel, name: str, shown: Iterable[IPAddress], own: Iterable[IPAddress]
) -> None:
    """Take from device *name*, if it is ours, what it is *shown* to have and that is no *own* one.

    Those of the underlay count by what they are inside: another node may have them by now.
    """
    kept = {inner_address(one) for one in own}
    stale = {one for one in shown if isinstance(one, IPv6Address)} - kept
    found = observe(channel, name) if stale else None
    if isinstance(found, Device) and found.is_ours:
        channel.transact([vxlan.encode_remove_address(found.index, one) for one in stale])


def choose_remote(channel: Channel, addresses: Iterable[IPAddress]) -> IPAddress | Refusal:
    """Return the first of a peer's *addresses* to which this node has a route."""
    tried = tuple(addresses)
    for address in tried:
        if isinstance(route_lookup.match(channel, address), bytes):
            return address
    shown = " or ".join(map(str, tried)) or "a node without an address"
    text = f"this node has no route to {shown}"
    families = {address.version for address in tried}
    reason = EndpointReason.ONE_FAMILY_ONLY
    if len(families) > 1:
        reason = EndpointReason.TUNNEL_REFUSED
    return Refusal(reason, text)


def inner_address(address: IPAddress) -> IPv6Address:
    """Return the link-local address in the tunnel of the node that has *address* in the underlay.

    The tunnel's IPv4 address is the same everywhere, so that no packet can carry it.
    """
    digest = hashlib.sha256(address.packed).digest()
    return IPv6Address(_LINK_LOCAL + digest[:_INTERFACE_PART])


def way_to(remote: IPAddress, own: Iterable[IPAddress]) -> Encapsulated:
    """Return the way to the node that has *remote*, from that one of our *own* that it knows.

    A node may have more addresses than others are told of. Its firewall takes what comes from
    those alone, and the kernel would choose by the route to *remote*.
    """
    source = next((one for one in own if one.version == remote.version), None)
    return Encapsulated(remote, source)


def inner_route(index: int, way: Encapsulated, table: int, protocol: int) -> Route:
    """Return the route to the inner address of the node that *way* leads to.

    It is of link-local scope: nothing goes by it but what names the device.
    """
    return Route(inner_address(way.remote), index, 1, table, protocol, way=way)


def _create(channel: Channel, name: str, port: int) -> Refusal | None:
    # The kernel refuses the port when the device goes up. By then it is news of a link, which has
    # the ways found anew, and so another device made, as often as the node can.
    if _is_port_taken(port):
        return _port_taken(port)
    results = channel.transact([vxlan.encode_create(name, port)])
    if results[0] == errno.EEXIST:
        # The name is free: another VXLAN device has the port, maybe down, where no socket shows it.
        return _port_taken(port)
    return _refuse(name, results[0], results.explain(0)) if results[0] else None


def _configure(channel: Channel, name: str, port: int, index: int) -> Refusal | None:
    """Make an existing device ours and let it work; one whose port is taken goes again."""
    # The IPv4 address is there before a packet can come in.
    first = [vxlan.encode_configure(index), vxlan.encode_address(index, vxlan.ADDRESS)]
    results = channel.transact([*first, vxlan.encode_generate_no_address(index)])
    for position in range(len(first)):
        if results[position]:
            return _refuse(name, results[position], results.explain(position))
    up = channel.transact([vxlan.encode_up(index)])
    if up[0]:
        channel.transact([vxlan.encode_remove(index)])
        taken = up[0] in {errno.EADDRINUSE, errno.EBUSY}
        return _port_taken(port) if taken else _refuse(name, up[0], up.explain(0))
    return None


def _give_addresses(
    channel: Channel, name: str, index: int, addresses: Iterable[IPAddress]
) -> Refusal | None:
    """Give a device that is up its addresses, which somebody may have taken from it."""
    own = channel.transact([vxlan.encode_address(index, vxlan.ADDRESS)])
    if own[0]:
        return _refuse(name, own[0], own.explain(0))
    inner = [vxlan.encode_address(index, inner_address(one)) for one in addresses]
    # After it is up: a device that goes up loses what IPv6 addresses it had before.
    given = channel.transact(inner)
    wrong = next((one for one in given if one and one not in _NO_FAMILY), 0)
    return _refuse(name, wrong) if wrong else None


def _is_port_taken(port: int) -> bool:
    """Tell whether a program has the port, in any family, at any address of this node."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as tried:
                if family == socket.AF_INET6:
                    # Or it would be in the way of itself.
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
    return False


def _device_taken(name: str, found: Device) -> Refusal:
    text = f"interface {name} is somebody else's: {found.kind or 'a hardware'} device"
    return Refusal(EndpointReason.DEVICE_TAKEN, text)


def _port_taken(port: int) -> Refusal:
    text = f"UDP port {port} is in use on this node: two agents or another program want it"
    return Refusal(EndpointReason.PORT_TAKEN, text)


def _refuse(name: str, number: int, reason: str = "") -> Refusal:
    text = reason or answers.describe(number)
    if number == errno.EOPNOTSUPP:
        text = "this kernel has no VXLAN (module vxlan)"
    return Refusal(EndpointReason.TUNNEL_REFUSED, f"{name} cannot be made: {text}")
