"""PURE: what is listened for at one endpoint, where, and what its guest is asked.

Made anew from the endpoint after each step of its machine; two that are equal are one.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Self

from handover_api.workloadendpoint import State
from handover_nodeagent.network.model import IPAddress, Link
from handover_nodeagent.sniff import arp_nd_questions
from handover_nodeagent.sniff.verdict import Expectation


@dataclass(frozen=True, slots=True)
class ListenSpec:
    """What to listen for, where, and how fast to ask; ``interval`` 0 asks only when told to.

    ``armed``: more than a RARP counts. ``hint``: the MAC to ask where nobody told the guest's; or
    to ask beside that one.
    ``is_mute``: nothing may be sent, so that nobody can be asked.
    """

    link: Link
    addresses: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    mac: str | None
    armed: bool
    state: State
    episode: int
    interval: float
    hint: str | None = None
    is_mute: bool = False

    def compose(self) -> arp_nd_questions.Questions:
        """Return the frames that ask the guest."""
        if self.is_mute:
            return arp_nd_questions.Questions()
        # Where the kernel has made the link an address of its own, that one asks in IPv6.
        own = (a for a in self.link.addresses if isinstance(a, IPv6Address) and a.is_link_local)
        witness = self.hint if self.mac and self.hint != self.mac else None
        parties = arp_nd_questions.Parties(
            self.mac or self.hint, self.link.mac, next(own, None), witness
        )
        return arp_nd_questions.compose(parties, self.addresses, self.gateways)

    def expectation(self, asked: arp_nd_questions.Questions) -> Expectation:
        """Return what an announcement looks like."""
        return Expectation.of(
            self.mac, self.addresses, askers=asked.askers, armed=self.armed, hint=self.hint
        )

    @property
    def parties(self) -> tuple[object, ...]:
        """What the questions are made of."""
        return self.mac, self.hint, self.addresses, self.gateways, self.link, self.is_mute

    def needs_new_socket(self, before: Self) -> bool:
        """Tell whether the socket that was opened for *before*, or could not be, will not do."""
        # A socket is bound to an index; and a link that comes up need not wait for an attempt.
        is_up_now = self.link.up and not before.link.up
        return self.link.index != before.link.index or is_up_now
