"""PURE: one endpoint that lives on this node: its object, its machine, what follows from the two.

Its listener and its timers belong to ``listening`` and ``alarms``.
"""

from dataclasses import dataclass

from handover_api.conditions import EndpointReason
from handover_api.configuration import Mode, Settings
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, WorkloadEndpoint
from handover_nodeagent.fsm.events import Announced, Input, PeerHas
from handover_nodeagent.fsm.machine import Machine, RouteLevel
from handover_nodeagent.fsm.restart import remember
from handover_nodeagent.memory.record import Record
from handover_nodeagent.network import admission as addresses
from handover_nodeagent.network import gateways, placement
from handover_nodeagent.network.admission import Admission
from handover_nodeagent.network.desired import LocalEndpoint
from handover_nodeagent.network.model import Link, Redirection, Route
from handover_nodeagent.network.placement import Unplaced
from handover_nodeagent.sniff import probe
from handover_nodeagent.sniff.listen_spec import ListenSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Target's cutover as bytes; all of them leave in one send.

    ``asked`` has each request's route, None where it seeds a neighbor's entry; ``withheld`` are
    the routes as speakers are to hear of them later (``exports.py``).
    """

    requests: tuple[bytes, ...]
    asked: tuple[Route | None, ...]
    withheld: tuple[Route, ...] = ()

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes of both families."""
        return tuple(route for route in self.asked if route)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What was heard, the guest's MAC, and when the kernel received it, in realtime ns.

    ``sent`` went out for it already.
    """

    event: Announced
    mac: str
    received_ns: int
    sent: Prepared | None = None


@dataclass(frozen=True, slots=True)
class Redirected:
    """A redirect that is in already, and the routes of which the machine is to know."""

    event: PeerHas
    routes: tuple[Route, ...]


@dataclass(slots=True)
class Endpoint:
    """What the loop keeps of an endpoint; the loop alone changes it.

    ``is_paused``: its namespace is. ``is_guarded`` is false where it was when it was first seen.
    """

    object: WorkloadEndpoint
    machine: Machine
    placement: Link | Unplaced
    admission: Admission
    is_paused: bool = False
    is_guarded: bool = True
    # What was learned of the guest: from its own frames, and from the kernel's neighbor table.
    learned_mac: str | None = None
    neigh_mac: str | None = None
    cutover: Cutover | None = None
    # Where its routes lead while a peer has the guest, and what of that is news for the machine.
    redirection: Redirection | None = None
    redirected: "Redirected | None" = None
    # The redirect goes before what BGP brings.
    is_holding: bool = False
    # Speakers may hear of its routes.
    is_exported: bool = True
    # What follows from the machine, and is made anew from it after each step.
    prepared: Prepared | None = None
    announcement: Announcement | None = None
    overdue: bool = False
    # What the last report said, so that an Event tells only of what is new.
    shadowed_by: str = ""
    contested: str = ""
    # The peers were told in the very instant of the cutover, before its machine's step.
    is_told: bool = False
    # Which peer has the guest by the API's word, in which migration, as far as it was acted upon.
    confirmed: tuple[str, str] | None = None

    @property
    def key(self) -> ObjectKey:
        """Namespace and name."""
        return self.object.key

    @property
    def uid(self) -> str:
        """The object's uid: another one is another endpoint, whatever its name."""
        return self.object.metadata.uid

    @property
    def link(self) -> Link | None:
        """The interface, if it could be found."""
        return self.placement if isinstance(self.placement, Link) else None

    @property
    def mac(self) -> str | None:
        """The guest's MAC: as its object says, else as its own frames taught it.

        What the kernel's neighbor table has (``neigh_mac``) may be an old guest's: good to ask.
        """
        return self.object.spec.mac or self.learned_mac

    @property
    def interface_names(self) -> tuple[str, ...]:
        """The names of interfaces that would be its own."""
        named = self.object.spec.interface
        if named:
            return (named,)
        # Calico names the device of a pod's primary network alone after the pod.
        calico = placement.calico_name(self.object)
        return (calico,) if placement.is_primary(self.object) else ()

    def is_owned(self, settings: Settings) -> bool:
        """Tell whether its routes are ours to program."""
        return addresses.is_owned(self.machine.assignment, settings.route_ownership)

    def local(self, settings: Settings) -> LocalEndpoint:
        """Return what the desired network needs of it."""
        current = self.machine
        return LocalEndpoint(
            self.key,
            self.admission.allowed,
            current.level,
            current.underlying.state,
            self.link,
            self.mac,
            self.object.metadata.creation_timestamp,
            self.is_owned(settings),
            # Refused is more than unknown: others' routes to a refused interface are left alone.
            isinstance(self.placement, Unplaced)
            and self.placement.reason is EndpointReason.INTERFACE_REFUSED,
            self.is_paused,
            self.is_guarded,
            self.redirection,
            self.is_holding,
            self.is_exported,
        )

    def listen_spec(self, settings: Settings) -> ListenSpec | None:
        """Return what to listen for; None where there is nothing to listen to or for."""
        if self.link is None or not self.machine.is_listening:
            return None
        return self.listen_spec_on(self.link, settings)

    def listen_spec_on(self, link: Link, settings: Settings) -> ListenSpec:
        """Return how its guest would be heard on *link*."""
        # Until then the pod's own kernel may speak for the guest's address: a RARP alone counts.
        trusting = self.machine.is_trusting
        return ListenSpec(
            link,
            self.admission.allowed,
            gateways.of(self.object.spec, link, settings),
            self.mac,
            trusting,
            self.machine.state,
            self.machine.episode,
            probe.interval(self.machine.state, settings.probe_interval, armed=trusting),
            self._hint(),
            is_mute=settings.mode is not Mode.ACTIVE,
        )

    def _hint(self) -> str | None:
        """Return the MAC that is asked where the guest's is unknown, or beside it.

        What an object says may not be what is on the wire (passt). So who has the address by the
        kernel's word is asked, too; its answer may keep what is in, but neither give a route nor
        raise one.
        """
        # Not where the answer would decide for a target: the pod's own kernel may be who answers.
        asked = self.machine.asking
        is_kept = asked is not None and asked.cause is not Input.TARGET
        is_kept = is_kept and self.machine.level is not RouteLevel.NONE
        # What leads to a peer is not kept by an answer, but gives way to it.
        is_kept = is_kept and self.machine.underlying.redirect is None
        return self.neigh_mac if is_kept or not self.mac else None

    def record(self) -> Record:
        """Return what a restart needs."""
        stood = remember(self.machine)
        name = self.link.name if self.link else None
        heard = (self.cutover, self.learned_mac)
        return Record.of(self.object, stood, *heard, name, self.redirection)
