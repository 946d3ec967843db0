"""Judgments of what a node is like; each takes values and returns findings."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from handover_api import wording
from handover_api.configuration import Settings
from handover_nodeagent.commands.check.findings import Finding, fail, ok, warn

# Protocol numbers of rtnetlink.h (RTPROT_BIRD, RTPROT_ZEBRA …): who has set a route.
BIRD: Final = 12
FRR: Final = {11: "zebra", 186: "bgpd", 187: "isisd", 188: "ospfd", 189: "ripd", 192: "eigrpd"}
# The name that the documentation proposes for rt_protos.
_OURS: Final = frozenset({"handover"})
# As /proc/<pid>/comm has them.
_SPEAKERS: Final = frozenset({"bird", "bird6", "bgpd", "zebra", "gobgpd"})
# Of rp_filter (Documentation/networking/ip-sysctl.rst), after RFC 3704.
STRICT: Final = 1
_LOOSE: Final = 2
_LOCAL: Final = 255
_NOBODY: Final = "not looked at: no workload's interface is here"
# FRR gives all its kernel routes this one metric (zebra's NL_DEFAULT_ROUTE_METRIC).
_FRR_METRIC: Final = 20
# How the programs and the links of their data planes are called.
_CILIUM: Final = ("cil_", "cilium_", "from-container", "from-netdev")
_CALICO: Final = ("calico_", "cali_")
_BPF_LINKS: Final = ("cilium_", "bpfin.cali", "bpfout.cali")


@dataclass(frozen=True, slots=True)
class Workload:
    """A host-side interface of a workload, with what the kernel does there.

    ``rp_filter`` is the stricter of the interface's and all interfaces'. ``accepts_ra``: what a
    guest advertises as a router becomes the node's. ``unread``: what nobody could look at.
    """

    name: str
    mac: str
    rp_filter: int
    proxy_arp: bool
    accepts_ra: bool = False
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the routing policy database. ``selector`` is "" where it takes every packet.

    ``table`` is where it looks, 0 where it does something else: ``action``.
    """

    family: int
    priority: int
    selector: str
    table: int
    action: str = ""

    def __str__(self) -> str:
        does = self.action or f"lookup {self.table}"
        return f"{self.priority}: {self.selector or 'all'} {does}"


def privileges(missing: Collection[str]) -> Iterator[Finding]:
    """Judge the capabilities that are *missing*."""
    for sentence in missing:
        remedy = "run it in the agent's pod, or as root with this capability"
        yield fail("privileges", sentence, remedy)
    if not missing:
        yield ok("privileges", "CAP_NET_ADMIN and CAP_NET_RAW are there")


def reverse_path(workloads: Collection[Workload]) -> Iterator[Finding]:
    """Judge rp_filter: without a route back the kernel drops what a guest sends."""
    if not workloads:
        yield ok("rp_filter", _NOBODY)
        return
    strict = [one for one in workloads if one.rp_filter]
    for one in strict:
        kind = "loose" if one.rp_filter == _LOOSE else "strict"
        text = f"{kind} on {one.name}: the guest's packets are dropped until its route is in"
        yield warn("rp_filter", text, f"sysctl net.ipv4.conf.{one.name}.rp_filter=0 (and of all)")
    if not strict:
        yield ok("rp_filter", "off on the workloads' interfaces")


def forwarded(strict: Mapping[str, bool]) -> Iterator[Finding]:
    """Judge rp_filter where other nodes forward: whether it is *strict*, by interface.

    A client's packet comes by one of these and its answer leaves by another one, so that a strict
    filter takes it for forged.
    """
    names = sorted(name for name, is_strict in strict.items() if is_strict)
    for name in names:
        text = f"strict on {name}: guests that come here lose their clients outside of the cluster"
        # As sysctl(8) writes a dot in an interface's name.
        yield fail("forwarding", text, f"sysctl net.ipv4.conf.{name.replace('.', '/')}.rp_filter=2")
    if not names:
        yield ok("forwarding", "no strict rp_filter where other nodes forward to guests here")


def tunneled(strict: Mapping[str, bool]) -> Iterator[Finding]:
    """Judge rp_filter where answers come to what this node sends by the second tunnel.

    They come by the uplink, whose filter looks for the way back, and finds the tunnel.
    """
    for name in sorted(name for name, is_strict in strict.items() if is_strict):
        text = f"strict on {name}: this node reaches guests of its own network of pods that are"
        text += " away by a tunnel, and drops their answers; other guests by way of their home"
        yield warn("tunnel", text, f"sysctl net.ipv4.conf.{name.replace('.', '/')}.rp_filter=2")


def router_advertisements(workloads: Collection[Workload]) -> Iterator[Finding]:
    """Judge accept_ra: a guest could give the node an address and a default route."""
    if not workloads:
        yield ok("accept_ra", _NOBODY)
        return
    names = sorted(one.name for one in workloads if one.accepts_ra)
    if names:
        text = f"on for {wording.name_few(names)}: one packet of a guest's reroutes this node"
        remedy = f"sysctl net.ipv6.conf.{names[0]}.accept_ra=0 (and of default, for those to come)"
        yield warn("accept_ra", text, remedy)
    else:
        yield ok("accept_ra", "off, or without effect, on the workloads' interfaces")


def unread(workloads: Iterable[Workload]) -> Iterator[Finding]:
    """Say what nobody could look at, so that no silence is taken for a good answer."""
    names = sorted({f"{name} of {one.name}" for one in workloads for name in one.unread})
    if names:
        text = f"{wording.name_few(names)} could not be read; nothing is said about it"
        yield warn("sysctl", text, "run it where /proc/sys of the node's network can be read")


def proxy_arp(workloads: Collection[Workload], guarded: Collection[str]) -> Iterator[Finding]:
    """Judge proxy_arp where no ARP guard keeps the host from answering for the guest."""
    if not workloads:
        yield ok("proxy_arp", _NOBODY)
        return
    open_ones = [one.name for one in workloads if one.proxy_arp and one.name not in guarded]
    if open_ones:
        text = f"on without an ARP guard on {wording.name_few(open_ones)}"
        remedy = (
            "give the workload a WorkloadEndpoint with this interface: else the host may answer "
            "the guest's question for its own address, and the guest waits up to 10 s"
        )
        yield warn("proxy_arp", text, remedy)
    else:
        yield ok("proxy_arp", "off, or guarded, on the workloads' interfaces")


def rules(found: Iterable[Rule], table: int) -> Iterator[Finding]:
    """Judge the rules: our routes count for the packets that are looked up in *table*."""
    by_family: dict[int, list[Rule]] = {}
    for rule in sorted(found, key=lambda one: one.priority):
        by_family.setdefault(rule.family, []).append(rule)
    before: list[Rule] = []
    for rules_ in by_family.values():
        ends = [rule for rule in rules_ if rule.table == table and not rule.selector]
        if not ends:
            text = f"no rule looks every packet up in table {table}: our routes are not used"
            yield fail("rules", text, f"set routeTable to main, or: ip rule add lookup {table}")
            return
        # A rule to our own table takes nothing away from it, and the local one has no guest.
        before += [
            rule
            for rule in rules_
            if rule.priority < ends[0].priority and rule.table not in {table, _LOCAL}
        ]
    if before:
        text = f"some go before table {table}: {wording.name_few(sorted(map(str, before)))}"
        remedy = "make sure that no packet for a guest is among those that they take"
        yield warn("rules", text, remedy)
    else:
        yield ok("rules", f"every packet is looked up in table {table}")


def protocol(number: int, names: Mapping[int, str], foreign: Collection[str]) -> Iterator[Finding]:
    """Judge our protocol number: who else uses it would lose routes to us.

    *names* as in rt_protos; *foreign*: routes that carry it and are no direct host routes.
    """
    remedy = "set routeProtocol to a number that nobody uses on any node"
    if foreign:
        shown = wording.enumerate_few(sorted(foreign), len(foreign), "; ")
        yield fail("protocol", f"routes that are not ours carry number {number}: {shown}", remedy)
    elif names.get(number, "handover") not in _OURS:
        text = f"rt_protos gives number {number} to {names[number]}"
        yield warn("protocol", text, remedy)
    else:
        yield ok("protocol", f"number {number} is nobody else's")


def gateway_mac(workloads: Collection[Workload]) -> Iterator[Finding]:
    """Judge the MAC that guests know their gateway by: it should be one on all nodes."""
    macs = sorted({one.mac for one in workloads})
    if not macs:
        yield ok("gateway MAC", _NOBODY)
    elif len(macs) == 1:
        yield ok("gateway MAC", f"{macs[0]} on all here; each other node must show the same")
    else:
        text = f"the workloads' interfaces have {len(macs)} MACs here: {wording.name_few(macs)}"
        remedy = (
            "give all of them, on all nodes, one MAC (Calico takes ee:ee:ee:ee:ee:ee): else a "
            "guest depends on our correction of its gateway's entry after each migration"
        )
        yield warn("gateway MAC", text, remedy)


def host_routing(
    programs: Mapping[str, Collection[str]], links: Iterable[str], blind: str
) -> Iterator[Finding]:
    """Judge eBPF *programs* (by interface) and *links* that route past the kernel's routes.

    *blind* says which kind of programs could not be asked for, "" when all could.
    """
    check = "eBPF host routing"
    names = [name for found in programs.values() for name in found]
    where = ", ".join(sorted(programs))
    links = [name for name in links if name.startswith(_BPF_LINKS)]
    # Both data planes forward in eBPF, past the routes of the kernel.
    if any(name.startswith(_CILIUM) for name in names) or any("cilium" in one for one in links):
        text = f"Cilium is here ({where or ', '.join(links)}) and may route past kernel routes"
        remedy = (
            "set routingMode=native and bpf.hostLegacyRouting=true in Cilium's values; where "
            "`cilium-dbg status --verbose` says Network: Native and Host: Legacy, that is done"
        )
        yield fail(check, text, remedy)
    elif any(name.startswith(_CALICO) for name in names) or links:
        text = f"Calico's eBPF data plane is here ({where or ', '.join(links)})"
        yield fail(check, text, "use Calico's iptables or nftables data plane")
    elif names:
        text = f"programs are attached to {where}: {wording.name_few(names)}"
        yield warn(check, text, "make sure that they leave forwarding to the kernel's routes")
    elif blind:
        yield ok(check, f"no program seen; {blind} cannot be asked for here")
    else:
        yield ok(check, "no program is attached")


def speakers(
    metrics: Mapping[int, Collection[int]], processes: Collection[str], settings: Settings
) -> Iterator[Finding]:
    """Judge the BGP speakers: *metrics* of their routes by protocol, and *processes* by name."""
    elevated = settings.ipv4_elevated_route_priority, settings.ipv6_elevated_route_priority
    normal = settings.ipv4_normal_route_priority, settings.ipv6_normal_route_priority
    found = set(metrics)
    # Ours must win while a guest moves and give way afterwards: BIRD's belong in between.
    bird = metrics.get(BIRD, ())
    if bird and min(bird) <= max(elevated):
        text = f"BIRD's routes have metric {min(bird)}, which beats our elevated {max(elevated)}"
        yield fail("BIRD", text, "set `metric 768;` in BIRD's kernel protocol (docs: BIRD)")
    elif bird and max(bird) >= min(normal):
        text = f"BIRD's routes have metric {max(bird)}, behind our normal {min(normal)}"
        yield warn("BIRD", text, "set `metric 768;`: a source must follow when BGP does")
    elif bird:
        yield ok("BIRD", f"its routes have metric {min(bird)}, between elevated and normal")
    frr = sorted(FRR[number] for number in found & FRR.keys())
    if frr and max(elevated) >= _FRR_METRIC:
        text = f"FRR ({', '.join(frr)}) sets routes of metric 20, which beat our {max(elevated)}"
        yield fail("FRR", text, "set the elevated route priorities to 19 or lower (docs: FRR)")
    elif frr:
        yield ok("FRR", "our elevated priority goes before its routes")
    running = sorted(_SPEAKERS & set(processes))
    if not found & {BIRD, *FRR}:
        if running:
            text = f"{', '.join(running)} runs here, but has set no route so far"
            yield warn("BGP", text, "check its kernel protocol against the documentation")
        else:
            yield ok("BGP", "no BIRD or FRR is to be seen (advertise: none, or it is elsewhere)")


def rights(allowed: Mapping[str, bool]) -> Iterator[Finding]:
    """Judge what the API server lets the agent do."""
    refused = [what for what, may in allowed.items() if not may]
    for what in refused:
        yield fail("API rights", f"may not {what}", "install the chart's ClusterRole and binding")
    if not refused:
        yield ok("API rights", f"may {', '.join(allowed)}")
