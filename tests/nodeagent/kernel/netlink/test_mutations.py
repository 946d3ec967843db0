"""The mutations themselves: whatever they are given, even their own work, they end in bytes."""

import random

from hypothesis import given
from hypothesis import strategies as st
from tests.nodeagent.kernel.netlink import mutations

from handover_nodeagent.kernel.netlink import codec

_KINDS = st.sampled_from((2, 3, 16, 20, 24, 28, 0xFFFF))
_ATTRIBUTES = st.lists(st.tuples(st.sampled_from((0, 1, 3, 4, 8, 0xFFFE, 0xFFFF)), st.binary()))


@given(kind=_KINDS, body=st.binary(max_size=32), attributes=_ATTRIBUTES, seed=st.integers(0))
def test_lengths_that_lie_are_mutated_like_others(
    kind: int, body: bytes, attributes: list[tuple[int, bytes]], seed: int
) -> None:
    claims = b"".join(
        length.to_bytes(2, "little") + bytes([99, 0]) + value for length, value in attributes
    )
    message = codec.compose(kind, 0, body + claims)
    dice = random.Random(seed)  # noqa: S311  dice, no secret
    for _ in range(30):
        assert isinstance(mutations.mutate_message(dice, message), bytes)
    answer = [message, message]
    for _ in range(10):
        answer = mutations.mutate(dice, answer)
        assert all(isinstance(part, bytes) for part in answer)
