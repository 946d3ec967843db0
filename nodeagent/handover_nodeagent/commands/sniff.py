"""The ``sniff`` subcommand: shows a person each frame, and why it would count or not.

It judges by the agent's own filter, parser and verdict, so that it cannot say anything else. The
only module that imports scapy, and only when it is run and scapy is there: as a second reader
beside our own, which the agent's image does without.
"""

import select
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address
from typing import Annotated, NoReturn

import typer

from handover_nodeagent.commands import frame_lines
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.sniff import capture, packet_filter
from handover_nodeagent.sniff.arp_nd_questions import DEFAULT_GATEWAY
from handover_nodeagent.sniff.verdict import Expectation

Summary = Callable[[bytes], str]


def sniff(
    interface: Annotated[str, typer.Argument(help="the host's interface of the workload")],
    mac: Annotated[str | None, typer.Option(help="the guest's MAC; without it any RARP")] = None,
    ip: Annotated[
        list[str] | None, typer.Option(help="an address of the guest; repeat it for more")
    ] = None,
    gateway: Annotated[
        list[str] | None,
        typer.Option(
            help="who asks the guest, so that its answer counts [default: as the agent does]"
        ),
    ] = None,
    *,
    unarmed: Annotated[bool, typer.Option("--unarmed", help="let only a RARP count")] = False,
    count: Annotated[int, typer.Option(min=0, help="stop after so many frames; 0: never")] = 0,
) -> None:
    """Print each ARP, RARP and NA that comes in, and whether it would prove the guest alive.

    Below each frame stands YES with what it would be taken for, maybe, or no with the reason.

    Changes nothing and asks nothing; it needs CAP_NET_RAW. Frames of a VLAN never count and
    look like untagged ones here. For instance:

    \b
    handover-nodeagent sniff tapvm --mac 52:54:00:65:00:02 --ip 10.65.0.2
    """  # noqa: D301  a raw string would not hold the mark that keeps lines (click)
    try:
        addresses, gateways = _addresses(ip), _addresses(gateway)
        askers = gateways or _default_askers(interface)
        expected = Expectation.of(mac, addresses, askers=askers, armed=not unarmed)
    # What a person typed wrong is theirs to correct: no traceback, exit status 2.
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    second = _second_reader()
    # Also what does not count is shown: that is what the person asks about.
    for octets in _frames(interface, count):
        typer.echo(frame_lines.describe(octets))
        if second:
            typer.echo(f"  scapy: {second(octets)}")
        typer.echo(f"  {frame_lines.explain(expected, octets)}")


def _second_reader() -> Summary | None:
    """Import scapy where it is installed: what it shows does not depend on our reading."""
    try:
        from scapy.config import conf  # noqa: PLC0415  # only a person who sniffs pays for it
    except ImportError:
        return None
    # Else the import reads all routes: 5 s and 271 MB on a node with 10,000 of them.
    conf.route_autoload = conf.route6_autoload = False
    import scapy.layers.inet6  # noqa: F401, PLC0415  # teaches Ether to read IPv6
    from scapy.layers.l2 import Ether  # noqa: PLC0415

    return lambda octets: str(Ether(octets).summary())


def _frames(interface: str, count: int) -> Iterator[bytes]:
    try:
        source = capture.Capture.open(socket.if_nametoindex(interface), packet_filter.CANDIDATES)
    except OSError:
        _refuse(f"there is no interface {interface} here")
    except capture.CannotListenError as error:
        _refuse(str(error))
    seen = 0
    try:
        # Nobody else needs this process: a blocking wait is all the loop that it has.
        while True:
            select.select([source], [], [])
            while (octets := source.read()) is not None:
                yield octets
                seen += 1
                if seen == count:
                    return
            if source.trouble:
                _refuse(source.trouble)
    finally:
        source.close()


def _addresses(texts: list[str] | None) -> list[IPAddress]:
    return [ip_address(text) for text in texts or ()]


def _default_askers(interface: str) -> list[IPAddress]:
    """Return 169.254.1.1 and the interface's own link-local address."""
    # From /proc: netlink would say the same, and this asks for no privilege.
    own: list[IPAddress] = [DEFAULT_GATEWAY]
    with open("/proc/net/if_inet6", encoding="ascii") as table:  # noqa: PTH123  # no path to compute
        for line in table:
            # Address, index, prefix length, scope, flags, name: net/ipv6/addrconf.c.
            packed, _, _, _, _, name = line.split()
            address = IPv6Address(bytes.fromhex(packed))
            if name == interface and address.is_link_local:
                own.append(address)
    return own


def _refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(1) from None
