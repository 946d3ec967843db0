"""What is said about privileges."""

import os

import pytest
from tests.nodeagent.privileges import without_privileges

from handover_nodeagent.kernel import capabilities

ADMIN = "CAP_NET_ADMIN is missing: routes, neighbors and the ARP guard cannot be changed"
RAW = "CAP_NET_RAW is missing: no guest can be heard or probed"


@pytest.mark.parametrize(
    ("effective", "expected"),
    [
        ("000001fffeffffff", ()),
        ("0000000000003000", ()),
        ("0000000000001000", (RAW,)),
        ("0000000000002000", (ADMIN,)),
        ("0000000000000000", (ADMIN, RAW)),
    ],
)
def test_each_missing_privilege_is_named_with_what_it_costs(
    effective: str, expected: tuple[str, ...]
) -> None:
    assert expected == capabilities.read(f"Name:\tpython\n\nCapEff:\t{effective}\n")


@pytest.mark.root
def test_the_kernel_is_asked_for_this_very_thread() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: gives privileges away")
    assert capabilities.missing() == ()
    assert without_privileges(capabilities.missing) == (ADMIN, RAW)
