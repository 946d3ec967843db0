"""Agents that speak to each other in the tests, with real keys and what the API says of them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Role
from handover_nodeagent.peers import messages
from handover_nodeagent.peers.keys import Key
from handover_nodeagent.peers.messages import (
    Header,
    Hello,
    HelloAnswer,
    Kind,
    Statement,
    Times,
    Way,
)
from handover_nodeagent.peers.relations import Relation

UID: Final = "0b2f8c1e-6d1c-4b60-9f3e-0d8f6f1a2b3c"
OTHER_UID: Final = "another"
SOURCE: Final = ObjectKey("shop", "vm-source")
TARGET: Final = ObjectKey("shop", "vm-target")
NONCE: Final = bytes(range(16))


@dataclass
class Speaker:
    """One agent, and the endpoint for which it speaks."""

    endpoint: ObjectKey
    role: Role
    node: str
    addresses: tuple[str, ...]
    boot: int = 1_000
    key: Key = field(default_factory=Key.make)
    sequence: int = 0

    def relation_to(self, other: "Speaker", uid: str = UID, own_uid: str = UID) -> Relation:
        """Return what *other*, which is in the migration *own_uid*, knows of this one."""
        return Relation(
            key=other.endpoint,
            own_role=other.role,
            own_uid=own_uid,
            uid=uid,
            endpoint=self.endpoint.name,
            node=self.node,
            role=self.role,
            public_key=self.key.public,
            addresses=tuple(map(ip_address, self.addresses)),
            port=7473,
        )

    def advertised(self, uid: str = UID) -> Relation:
        """Return what a bystander knows of this one by the API."""
        known = self.relation_to(self, uid)
        return dataclasses.replace(known, own_role=None)

    def say(
        self,
        kind: Kind,
        body: messages.Body = Statement(),  # noqa: B008  it is immutable
        *,
        nonce: bytes = NONCE,
        subject: bytes | None = None,
        sequence: int | None = None,
    ) -> bytes:
        """Return a signed datagram, with the next sequence unless another is asked for."""
        self.sequence += 1
        header = Header(
            kind,
            self.key.public[: messages.KEY_ID],
            self.boot,
            self.sequence if sequence is None else sequence,
            messages.subject(self.endpoint, UID) if subject is None else subject,
            nonce,
        )
        return self.key.sign(messages.compose(header, body))


BODIES: Final[Mapping[Kind, messages.Body]] = {
    Kind.HELLO: Hello(Way.PLAIN, 0, b"p" * 32),
    Kind.HELLO_ANSWER: HelloAnswer(Way.PLAIN, 0, 20, 30, b"q" * 32),
    Kind.HAVE: Statement(),
    Kind.RELEASED: Statement(),
    Kind.ACK: Times(40, 50, 60, 70),
}
"""One of each signed kind."""


def source(**changes: object) -> Speaker:
    """Return the agent at the source."""
    made = Speaker(SOURCE, Role.SOURCE, "a", ("10.0.0.1", "fd00::1"))
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def target(**changes: object) -> Speaker:
    """Return the agent at the target."""
    made = Speaker(TARGET, Role.TARGET, "b", ("10.0.0.2", "fd00::2"))
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]
