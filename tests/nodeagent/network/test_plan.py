"""The plan reaches what is desired, in the fewest changes, and leaves no gap on the way."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_nodeagent.network import plan
from handover_nodeagent.network.model import IPAddress, Route
from handover_nodeagent.network.plan import Plan

A, B = ip_address("10.65.0.2"), ip_address("fd00:65::2")


def route(address: IPAddress = A, oif: int = 5, metric: int = 1024, protocol: int = 88) -> Route:
    return Route(address, oif, metric, 254, protocol)


NORMAL, ELEVATED = route(), route(metric=512)
ELSEWHERE = route(oif=6)
WORN = Route(A, 5, 1024, 254, 88, b"mtu")
TABLED = Route(A, 5, 1024, 100, 88)

CASES = [
    ("nothing", [], [], Plan()),
    ("reached", [NORMAL], [NORMAL], Plan()),
    ("first", [NORMAL], [], Plan(add=(NORMAL,))),
    ("gone", [], [NORMAL], Plan(remove=(NORMAL,))),
    ("elevated", [ELEVATED], [NORMAL], Plan(add=(ELEVATED,), remove=(NORMAL,))),
    ("another device", [ELSEWHERE], [NORMAL], Plan(replace=(ELSEWHERE,))),
    ("another protocol", [route(protocol=99)], [NORMAL], Plan(replace=(route(protocol=99),))),
    ("a stranger beside it", [NORMAL], [NORMAL, ELSEWHERE], Plan(remove=(ELSEWHERE,))),
    ("a stranger before it", [NORMAL], [ELSEWHERE, NORMAL], Plan(remove=(ELSEWHERE,))),
    (
        "the first of the same key is replaced, the others go",
        [NORMAL],
        [ELSEWHERE, route(oif=7)],
        Plan(replace=(NORMAL,), remove=(route(oif=7),)),
    ),
    ("worn otherwise", [WORN], [NORMAL], Plan(replace=(WORN,))),
    ("worn so already", [WORN], [ELSEWHERE, WORN], Plan(remove=(ELSEWHERE,))),
    ("seen twice", [NORMAL], [NORMAL, NORMAL], Plan()),
    ("seen twice and not wanted", [], [NORMAL, NORMAL], Plan(remove=(NORMAL, NORMAL))),
    ("wanted twice", [NORMAL, NORMAL], [], Plan(add=(NORMAL,))),
    ("another table", [NORMAL], [TABLED], Plan(add=(NORMAL,), remove=(TABLED,))),
    (
        "in the order of family, address, metric and table",
        [route(B), TABLED, NORMAL, ELEVATED, route(A + 1), route(A + 1, metric=512)],
        [],
        Plan(
            add=(
                ELEVATED,
                TABLED,
                NORMAL,
                route(A + 1, metric=512),
                route(A + 1),
                route(B),
            )
        ),
    ),
    (
        "families do not meet",
        [route(B), NORMAL],
        [route(B, metric=512)],
        Plan(add=(NORMAL, route(B)), remove=(route(B, metric=512),)),
    ),
]


@pytest.mark.parametrize(
    ("desired", "observed", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_diff(desired: list[Route], observed: list[Route], expected: Plan) -> None:
    steps = plan.diff(desired, observed)
    assert expected == steps
    carried = {one: one.carried for one in desired}
    assert all(one.carried == carried[one] for one in (*steps.add, *steps.replace))


def test_only_an_empty_plan_is_false() -> None:
    assert not Plan()
    assert all((Plan(add=(NORMAL,)), Plan(replace=(NORMAL,)), Plan(remove=(NORMAL,))))


def same_key(one: Route, other: Route) -> bool:
    return (one.address, one.metric) == (other.address, other.metric)


def kernel_after(steps: Plan, routes: list[Route]) -> Iterator[list[Route]]:
    """Apply as Linux does: a replace takes the place of the first route of its key."""
    for added in steps.add:
        assert not any(same_key(added, there) for there in routes)
        routes.append(added)
        yield routes
    for replacing in steps.replace:
        place = next(i for i, there in enumerate(routes) if same_key(replacing, there))
        routes[place] = replacing
        yield routes
    for removed in steps.remove:
        routes.remove(removed)
        yield routes


ROUTES = st.builds(
    route,
    address=st.sampled_from([A, B]),
    oif=st.integers(1, 3),
    metric=st.sampled_from([512, 1024]),
)


@given(
    desired=st.lists(ROUTES, unique_by=lambda r: (r.address, r.metric)),
    observed=st.lists(ROUTES, unique=True),
    doubles=st.integers(1, 2),
)
def test_a_plan_reaches_what_is_desired_without_a_gap(
    desired: list[Route], observed: list[Route], doubles: int
) -> None:
    assert not set(plan.diff(desired, observed * doubles).remove) & set(desired)
    steps = plan.diff(desired, observed)
    always_served = {r.address for r in desired} & {r.address for r in observed}
    kernel = list(observed)
    for routes in kernel_after(steps, kernel):
        assert always_served <= {there.address for there in routes}
    assert set(desired) == set(kernel)
    assert not plan.diff(desired, kernel)
    assert not set(steps.remove) & set(desired)
