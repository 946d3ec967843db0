"""An agent's Ed25519 key, by libsodium: made at its start, and kept nowhere but in its memory.

So it is renewed by a restart, nothing on a node's disk can speak for it, and the API, which knows
who wrote an endpoint's status, has said whose key it is.
"""

from typing import Self

from nacl import exceptions, signing


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
