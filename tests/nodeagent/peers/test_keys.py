"""Keys: what one has signed the other verifies, and nothing else."""

import pytest

from handover_nodeagent.peers import keys
from handover_nodeagent.peers.keys import Key

TEXT = b"HAVE"


def test_each_start_makes_another_key() -> None:
    assert Key.make().public != Key.make().public


def test_a_signature_stands_behind_its_text_and_is_verified() -> None:
    key = Key.make()
    signed = key.sign(TEXT)
    assert signed[:-64] == TEXT
    assert keys.verify(key.public, TEXT, signed[-64:])


def test_every_flipped_bit_is_noticed() -> None:
    key = Key.make()
    signed = key.sign(TEXT)
    for bit in range(len(signed) * 8):
        flipped = bytearray(signed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not keys.verify(key.public, bytes(flipped[:-64]), bytes(flipped[-64:]))


def test_another_key_has_not_signed_it() -> None:
    assert not keys.verify(Key.make().public, TEXT, Key.make().sign(TEXT)[-64:])


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), b"\xff" * 32, b"\1" + bytes(31)])
@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), b"\xff" * 64, bytes(65)])
def test_no_bytes_raise_or_count(public: bytes, signature: bytes) -> None:
    assert not keys.verify(public, TEXT, signature)
