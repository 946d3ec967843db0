"""What the operator knows of an endpoint: the few fields that roles, outcomes and phases need.

Ten thousand of these are kept, so they are slim; two that are equal need no second look, which is
why the resource version does not count.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from handover_api.assignment import Assignment
from handover_api.livemigration import Outcome
from handover_api.model import Condition
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import AgentAddress, Cutover, RedirectStatus, Role, State

Address = IPv4Address | IPv6Address

UNASSIGNED: Final = Assignment()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A WorkloadEndpoint: where it is, what we said of it and what its agent reports.

    ``acted_uid`` and ``acted_role`` are what the agent has acted upon; ``routed`` says that it
    reports routes in its kernel. ``shared`` is what its annotations say of another node that
    serves an address of it, ``peers`` and ``peer_live`` what they say of the agents that it may
    believe (peers.py). ``redirectable`` is the condition of that name.
    """

    key: ObjectKey
    node: str
    workload: str
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ips: tuple[Address, ...] = ()
    assignment: Assignment = UNASSIGNED
    state: State | None = None
    acted_uid: str | None = None
    acted_role: Role | None = None
    listening: bool = False
    # Of the agent's last report: after its death they may still be in the kernel.
    routed: bool = False
    cutover: Cutover | None = None
    shared: str = ""
    agent: AgentAddress | None = None
    peers: str = ""
    peer_live: str = ""
    redirectable: Condition | None = None
    redirect: RedirectStatus | None = None
    # Not compared: our own annotation, echoed, is no change that anybody has to look at.
    resource_version: str = field(default="", compare=False)

    def is_carrying(self, role: Role, migration_uid: str) -> bool:
        """Its annotations give *role* for this migration now."""
        said = self.assignment
        return said.role is role and said.migration_uid == migration_uid

    def has_ended(self, role: Role, migration_uid: str, outcome: Outcome) -> bool:
        """Its annotations say that *role* of this migration ended with *outcome*."""
        said = self.assignment
        return (
            said.role is None
            and said.ended_role is role
            and said.migration_uid == migration_uid
            and said.outcome is outcome
        )

    def is_alive_for(self, migration_uid: str) -> bool:
        """Its guest has announced itself here for this migration, and was not given up since.

        After Live the agent may be asking, or back in Base; the last cutover then tells whose it
        was.
        """
        if self.state in {State.LIVE, State.TIME_WAIT}:
            return self.acted_uid == migration_uid
        if self.state in {State.BASE, State.ASKING}:
            return self.cutover is not None and self.cutover.migration_uid == migration_uid
        return False

    def is_contradicting(self) -> bool:
        """Its guest runs here although it was told that the migration was aborted.

        The agent has acted upon that word, and has asked or heard the guest since: until then its
        state is that of before. In Asking it does not know yet.
        """
        said = self.assignment
        uid = said.migration_uid
        if uid is None or not self.has_ended(Role.TARGET, uid, Outcome.ABORTED):
            return False
        # With a role the agent still acts upon what was said before the abort.
        if self.acted_role is not None or self.state is State.ASKING:
            return False
        return self.routed and self.is_alive_for(uid)

    def is_listening_for(self, migration_uid: str) -> bool:
        """Its agent waits for the guest of this migration with an open socket."""
        # All three: an agent may have a socket for the migration before this one, or none so far.
        return self.state is State.TARGET and self.acted_uid == migration_uid and self.listening
