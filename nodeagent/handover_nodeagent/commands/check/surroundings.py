"""What the node is like: observed, then judged by ``traps``. Runs in the agent's namespaces."""

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from handover_api.conditions import EndpointReason
from handover_api.configuration import Advertise, Settings, SourceRedirect
from handover_nodeagent.commands.check import (
    findings,
    forwarding,
    programs,
    protocols,
    traps,
    workloads,
)
from handover_nodeagent.commands.check.findings import Finding, fail, ok
from handover_nodeagent.commands.check.workloads import Setting
from handover_nodeagent.kernel import capabilities, route_lookup, tunnel
from handover_nodeagent.kernel.arp_guard import rules
from handover_nodeagent.kernel.netlink.channel import Channel
from handover_nodeagent.kernel.netlink.codec import ObservationError
from handover_nodeagent.kernel.netlink.vxlan import Device
from handover_nodeagent.kernel.nft import libnftables, names
from handover_nodeagent.kernel.nft.process import NftProcess
from handover_nodeagent.network.model import Link

# linux/socket.h and NETLINK_GET_STRICT_CHK of linux/netlink.h, since Linux 4.20.
_SOL_NETLINK: Final = 270
_STRICT_CHECK: Final = 12
_TRIAL: Final = "handover_check"
_TRIAL_DEVICE: Final = "handover-check"
# The administrator's file is read last, and so goes before the distribution's.
_PROTOCOL_FILES: Final = ("/usr/share/iproute2/rt_protos", "/etc/iproute2/rt_protos")
_SYSCTL: Final = Path("/proc/sys/net")


def observe(settings: Settings) -> Iterator[Finding]:
    """Find what keeps an agent from working in all that is on the node itself."""
    yield from findings.attempt("privileges", lambda: traps.privileges(capabilities.missing()))
    yield from findings.attempt("AF_PACKET", lambda: [packets()])
    yield from findings.attempt("netlink", lambda: [strict_check()])
    yield from findings.attempt("nftables", nftables)
    if settings.source_redirect is SourceRedirect.AUTO:
        yield from findings.attempt("tunnel", lambda: tunnel_trial(settings.redirect_port))
    yield from findings.attempt("conntrack", lambda: forwarding.conntrack(_tcp_loose()))
    yield from findings.attempt("forward policy", lambda: forwarding.policies(ruleset()))
    try:
        yield from _network(settings)
    except ObservationError as error:
        remedy = "Linux 4.20 or newer and its rtnetlink are needed"
        yield fail("netlink", f"the kernel's state cannot be read: {error}", remedy)


def packets() -> Finding:
    """Open what guests are heard by."""
    try:
        # Protocol 0: nothing is received while it is open.
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        remedy = "CAP_NET_RAW, and a kernel with CONFIG_PACKET (modprobe af_packet), are needed"
        return fail("AF_PACKET", f"no guest can be heard: {error.strerror}", remedy)
    return ok("AF_PACKET", "guests can be heard")


def strict_check() -> Finding:
    """Ask for what makes the kernel filter its dumps."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        try:
            sock.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        except OSError as error:
            text = f"the kernel does not filter its dumps: {error.strerror}"
            return fail("netlink", text, "Linux 4.20 or newer is needed")
    return ok("netlink", "dumps are filtered by the kernel")


def nftables(library: str = libnftables.LIBRARY) -> Iterator[Finding]:
    """Try the library, then the arp family: a table that goes in the same transaction.

    In a process of its own, as the agent does: what the library finds on the node can end it.
    """
    with contextlib.closing(NftProcess(_TRIAL, library)) as process:
        answer = process.run(trial())
    if answer.is_lost:
        remedy = "without it there is no ARP guard; all else works"
        yield fail("nftables", answer.trouble, remedy)
        return
    yield ok("nftables", "libnftables can be used")
    if answer.trouble:
        remedy = "CONFIG_NF_TABLES_ARP (modprobe nf_tables) and CAP_NET_ADMIN are needed"
        yield fail("nftables arp", f"no ARP guard can be made: {answer.trouble}", remedy)
    else:
        yield ok("nftables arp", "the ARP guard can be made")


def trial() -> str:
    """Write a transaction that needs all that the guard needs and leaves nothing."""
    return f"{rules.frame(_TRIAL)}delete table arp {_TRIAL}\n"


def tunnel_trial(port: int) -> Iterator[Finding]:
    """Make the tunnel under another name, where there is none; nothing of it is left."""
    with Channel() as channel:
        found = tunnel.observe(channel, tunnel.REDIRECT)
        if isinstance(found, Device) and found.is_ours:
            yield from forwarding.tunnel(None, f"{tunnel.REDIRECT} is there")
            return
        if isinstance(found, Device):
            text = f"interface {tunnel.REDIRECT} is somebody else's"
            yield from forwarding.tunnel(EndpointReason.DEVICE_TAKEN, text)
            return
        made = tunnel.ensure(channel, _TRIAL_DEVICE, port)
        tunnel.remove(channel, _TRIAL_DEVICE)
    if isinstance(made, tunnel.Refusal):
        yield from forwarding.tunnel(made.reason, made.message)
    else:
        yield from forwarding.tunnel(None, f"it can be made, with UDP port {port}")


def ruleset() -> str:
    """Return all of nftables as JSON, "" where nobody can tell."""
    with contextlib.closing(NftProcess(_TRIAL, libnftables.LIBRARY)) as process:
        return process.show("list ruleset").text.decode()


def _tcp_loose() -> int | None:
    """Read the setting; None where conntrack is not loaded, or nobody may read it."""
    try:
        return int((_SYSCTL / "netfilter/nf_conntrack_tcp_loose").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _network(settings: Settings) -> Iterator[Finding]:
    """Judge links, routes, rules and programs, read once. Raises ObservationError."""
    # Here and not above: the agent is the same program, and has no use for what this imports.
    from handover_nodeagent.commands.check import observation  # noqa: PLC0415

    observed = observation.observe(settings.route_table)
    found, entries = observed.links, observed.entries
    number = settings.route_protocol
    guests = workloads.leading_to_guests(found.values(), entries, number)
    served = [workloads.workload(link, _sysctls(link)) for link in guests]
    yield from traps.unread(served)
    yield from traps.reverse_path(served)
    yield from findings.attempt("proxy_arp", lambda: traps.proxy_arp(served, guarded()))
    if settings.advertise is Advertise.AGENTS:
        reached = workloads.reaching_nodes(found.values(), entries)
        yield from traps.forwarded({link.name: _is_strict(link) for link in reached})
        if any(link.name == tunnel.DISTRIBUTION for link in found.values()):
            uplinks = [link for link in found.values() if link.default_route]
            yield from traps.tunneled({link.name: _is_strict(link) for link in uplinks})
    yield from traps.router_advertisements(served)
    yield from traps.rules(observed.rules, settings.route_table)
    foreign = [route_lookup.describe(entry) for entry in protocols.foreign(entries, number)]
    yield from findings.attempt(
        "protocol", lambda: traps.protocol(number, protocol_names(), foreign)
    )
    yield from traps.gateway_mac(served)
    yield from findings.attempt(
        "eBPF host routing", lambda: _ebpf(found.values(), observed.programs)
    )
    metrics = protocols.metrics(entries)
    yield from findings.attempt(
        "BGP", lambda: traps.speakers(metrics, programs.processes(), settings)
    )


def _is_strict(link: Link) -> bool:
    """Tell whether rp_filter is strict on *link*; what counts is the greater of it and "all"."""
    interfaces = (link.name, "all")
    values = [_sysctl(Setting("ipv4", interface, "rp_filter")) or 0 for interface in interfaces]
    return max(values) == traps.STRICT


def _sysctls(link: Link) -> Mapping[Setting, int | None]:
    """Read what the kernel does on *link*; None for what cannot be read."""
    has_ipv6 = (_SYSCTL / "ipv6").exists()
    return {one: _sysctl(one) for one in workloads.settings(link, has_ipv6=has_ipv6)}


def _sysctl(setting: Setting) -> int | None:
    path = _SYSCTL / setting.family / "conf" / setting.interface / setting.name
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _ebpf(found: Iterable[Link], at_tc: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    looked_at = tuple(found)
    tcx = programs.at_tcx(looked_at)
    attached = {**(tcx or {}), **at_tc}
    names = (link.name for link in looked_at)
    yield from traps.host_routing(attached, names, "" if tcx is not None else "tcx programs")


def guarded() -> frozenset[str]:
    """Return the interfaces that have an ARP guard now; none where nobody can tell."""
    with contextlib.closing(NftProcess(_TRIAL, libnftables.LIBRARY)) as process:
        listing = process.show(f"list table arp {names.TABLE}")
    return frozenset(rules.parse(listing.text.decode()) or ())


def protocol_names() -> Mapping[int, str]:
    """Return the names of protocol numbers, the administrator's own before the distribution's."""
    names: dict[int, str] = {}
    for place in map(Path, _PROTOCOL_FILES):
        parts = sorted(Path(f"{place}.d").glob("*.conf"))
        for path in (place, *parts):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            names |= protocols.read_names(text)
    return names


def state_directory(directory: Path) -> Finding:
    """Write what the agent would write."""
    probe = directory / "check.draft"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_text(json.dumps({}), encoding="utf-8")
        probe.unlink()
    except OSError as error:
        remedy = "mount a writable hostPath there, or set HANDOVER_STATE_DIRECTORY"
        text = f"{directory} cannot be written: {error.strerror}; a restart forgets what it knew"
        return fail("state directory", text, remedy)
    return ok("state directory", f"{directory} can be written")
