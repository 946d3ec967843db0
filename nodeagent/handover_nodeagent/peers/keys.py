"""An agent's Ed25519 key, by libsodium: made at its start, and kept nowhere but in its memory.

So it is renewed by a restart, nothing on a node's disk can speak for it, and the API, which knows
who wrote an endpoint's status, has said whose key it is.
"""

import os
from typing import Self

from nacl import exceptions, signing

from handover_nodeagent.peers import messages
from handover_nodeagent.peers.messages import Body, Header, Kind


class Key:
    """The private key of this process."""

    __slots__ = ("_key", "public")

    def __init__(self, key: signing.SigningKey) -> None:
        self._key = key
        self.public = bytes(key.verify_key)

    @classmethod
    def make(cls) -> Self:
        """Make a new one of the kernel's random numbers."""
        return cls(signing.SigningKey.generate())

    def sign(self, text: bytes) -> bytes:
        """Return *text* with its signature behind it."""
        return text + self._key.sign(text).signature


def verify(public_key: bytes, text: bytes, signature: bytes) -> bool:
    """Tell whether the owner of *public_key* has signed *text*; any bytes may be a key."""
    try:
        signing.VerifyKey(public_key).verify(text, signature)
    except (exceptions.BadSignatureError, exceptions.ValueError, exceptions.TypeError):
        return False
    return True


class Signer:
    """Signs and numbers the messages of this process."""

    def __init__(self, key: Key, boot: int) -> None:
        """Begin with the first sequence; *boot* is when the process has started, in ns."""
        self._key = key
        self._boot = boot
        self._sequence = messages.NEVER

    @property
    def public_key(self) -> bytes:
        """What the API has to be told."""
        return self._key.public

    def sign(self, kind: Kind, body: Body, subject: bytes, nonce: bytes) -> tuple[int, bytes]:
        """Return a datagram and its sequence, which is the next one."""
        self._sequence += 1
        key_id = self._key.public[: messages.KEY_ID]
        header = Header(kind, key_id, self._boot, self._sequence, subject, nonce)
        return self._sequence, self._key.sign(messages.compose(header, body))


def make_nonce() -> bytes:
    """Return what nobody can guess and nothing had before."""
    return os.urandom(messages.NONCE)
