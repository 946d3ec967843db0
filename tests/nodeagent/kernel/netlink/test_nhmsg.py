"""Nexthop objects read as they were written; others' are none of ours."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.kernel.netlink import codec, nhmsg
from handover_nodeagent.kernel.netlink.nhmsg import NextHop
from handover_nodeagent.network.model import Encapsulated

GATEWAYS = {4: ip_address("192.0.2.2"), 6: ip_address("2001:db8::2")}
NUMBERS = st.integers(nhmsg.FIRST_ID, nhmsg.LAST_ID)
NEXTHOPS = st.sampled_from([4, 6]).flatmap(
    lambda version: st.builds(
        NextHop,
        st.just(version),
        st.integers(1, 2**31 - 1),
        st.sampled_from([None, GATEWAYS[version]]),
        st.booleans(),
        st.sampled_from(
            [
                None,
                *(Encapsulated(one, own) for one in GATEWAYS.values() for own in (None, one + 1)),
            ]
        ),
    )
)


@given(NUMBERS, NEXTHOPS)
def test_a_nexthop_object_reads_as_it_was_written(number: int, nexthop: NextHop) -> None:
    message = nhmsg.encode_put(number, nexthop, 89)
    assert nhmsg.decode(message) == (number, nexthop)
    assert message[nhmsg.PROTOCOL_AT] == 89


def test_somebody_elses_tunnel_is_none_of_ours() -> None:
    body = nhmsg.BODY.pack(codec.INET, 0, 0, 0, 0) + codec.number(1, 7) + codec.number(5, 2)
    body += codec.attribute(7, b"\7\0") + codec.attribute(8, b"")
    assert nhmsg.decode(codec.compose(nhmsg.NEWNEXTHOP, 0, body)) == (7, None)


@pytest.mark.parametrize("attributes", [b"", codec.attribute(2, bytes(8)), codec.attribute(4, b"")])
def test_a_group_or_a_blackhole_is_none_of_ours(attributes: bytes) -> None:
    body = nhmsg.BODY.pack(codec.INET, 0, 0, 0, 0) + codec.number(1, 7) + attributes
    assert nhmsg.decode(codec.compose(nhmsg.NEWNEXTHOP, 0, body)) == (7, None)
    assert not nhmsg.is_ours(7)


def test_a_message_that_is_too_short_is_malformed() -> None:
    with pytest.raises(codec.MalformedError):
        nhmsg.decode(codec.compose(nhmsg.NEWNEXTHOP, 0, b""))
