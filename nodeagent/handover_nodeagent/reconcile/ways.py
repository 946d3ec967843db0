"""The ways to other nodes, as far as they are asked for before anything is sent by them.

The tunnel's device is made when the first peer needs it, and made anew where somebody took it.
What stands in the way is a value, which a condition says before the VM moves.
"""

from collections.abc import Callable, Iterable
from typing import Final

from handover_api.conditions import EndpointReason
from handover_api.configuration import Settings, SourceRedirect
from handover_nodeagent.kernel import route_lookup, tunnel
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.tunnel import Refusal
from handover_nodeagent.network.model import Encapsulated, IPAddress, Redirection, Via

_OFF: Final = Refusal(EndpointReason.OFF, "sourceRedirect is off")


class Ways:
    """How this node reaches others for a guest's packets."""

    def __init__(self, channel: Channel, is_enclosed: Callable[[str], bool]) -> None:
        """Make no tunnel before *is_enclosed* tells that the firewall has its rules."""
        self._channel = channel
        self._is_enclosed = is_enclosed
        self._own: tuple[IPAddress, ...] = ()
        self._device: int | None = None
        self._is_waiting = False

    @property
    def device(self) -> int | None:
        """The tunnel's index; None while there is none."""
        return self._device

    @property
    def has_tunnel(self) -> bool:
        """Tell whether there is a tunnel, or is to be one as soon as its rules are in."""
        return self._device is not None or self._is_waiting

    def know_own(self, addresses: Iterable[IPAddress]) -> None:
        """Know by which addresses peers reach this node; the tunnel has one inside for each."""
        own = tuple(addresses)
        if own == self._own:
            return
        former = [tunnel.inner_address(one) for one in self._own]
        # The next to want the device gives it the new ones.
        self._own, self._device = own, None
        self.tidy(former)

    def tidy(self, shown: Iterable[IPAddress]) -> None:
        """Take from the tunnel what it is *shown* to have of former addresses of this node.

        Also of those that an agent before this one knew, where this one knows any.
        """
        if self._own:
            tunnel.disown(self._channel, tunnel.REDIRECT, shown, self._own)

    def lose_device(self) -> None:
        """Know that the tunnel's device is gone, or may be another one."""
        self._device = None

    def find(self, addresses: Iterable[IPAddress], settings: Settings) -> Redirection | Refusal:
        """Find the way to the node that has *addresses*; a millisecond where a device is made."""
        if settings.source_redirect is SourceRedirect.OFF:
            return _OFF
        if settings.source_redirect is SourceRedirect.LINK:
            return self._find_on_link(tuple(addresses))
        device = self.ensure(settings)
        if isinstance(device, Refusal):
            return device
        # Of a family that we have no address of, nobody would take packets from us.
        own = {one.version for one in self._own}
        in_order = sorted(addresses, key=lambda one: one.version not in own)
        remote = tunnel.choose_remote(self._channel, in_order)
        if isinstance(remote, Refusal):
            return remote
        # Whatever the family of the underlay, the tunnel carries both.
        way = tunnel.way_to(remote, self._own)
        return Redirection(device, way, way)

    def renew(self, led: Redirection) -> Redirection:
        """Return a way that was found once as it is from here now, by device and own address."""
        if not isinstance(led.ipv4, Encapsulated) or not isinstance(led.ipv6, Encapsulated):
            return led
        device = led.oif if self._device is None else self._device
        ipv4, ipv6 = (tunnel.way_to(each.remote, self._own) for each in (led.ipv4, led.ipv6))
        return Redirection(device, ipv4, ipv6)

    def ensure(self, settings: Settings) -> int | Refusal:
        """Have the tunnel's device; return its index, or what is in the way."""
        if self._device is not None:
            return self._device
        port = settings.redirect_port
        found = tunnel.ensure_enclosed(
            self._channel, tunnel.REDIRECT, port, self._is_enclosed, self._own
        )
        self._is_waiting = found is tunnel.WAITING
        if isinstance(found, int):
            self._device = found
        return found

    def _find_on_link(self, addresses: tuple[IPAddress, ...]) -> Redirection | Refusal:
        """Find a plain next hop: one address of each family, all on one device."""
        gateways: dict[int, IPAddress] = {}
        oif = 0
        for address in addresses:
            entry = route_lookup.winner(self._channel, address)
            # An address behind a gateway is no next hop: its node is on another segment.
            is_on_link = not isinstance(entry, int) and entry.direct and entry.route.way is None
            if isinstance(entry, int) or not is_on_link or oif not in {0, entry.route.oif}:
                continue
            oif = entry.route.oif
            gateways.setdefault(address.version, address)
        if not gateways:
            shown = " or ".join(map(str, addresses))
            text = f"{shown} is on no link of this node, and sourceRedirect is link"
            return Refusal(EndpointReason.NOT_ON_LINK, text)
        ipv4, ipv6 = (Via(gateways[each]) if each in gateways else None for each in (4, 6))
        return Redirection(oif, ipv4, ipv6)
