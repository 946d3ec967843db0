"""Nodes and endpoints of a small cluster, as the tests of the distribution have them."""

import dataclasses
import datetime as dt
from ipaddress import ip_address, ip_network

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.distribution.advertised import Endpoint
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.fsm.machine import RouteLevel

NOON = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
GUEST4, GUEST6 = ip_address("10.244.1.9"), ip_address("fd00:10:244:1::9")
NORMAL, ELEVATED = RouteLevel.NORMAL, RouteLevel.ELEVATED


def node(name: str, number: int) -> Node:
    return Node(
        name,
        (ip_address(f"192.0.2.{number}"), ip_address(f"2001:db8::{number}")),
        (ip_network(f"10.244.{number}.0/24"), ip_network(f"fd00:10:244:{number}::/64")),
    )


A, B, C, D = (node(name, number) for number, name in enumerate("abcd", 1))


def after(seconds: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=seconds)


def endpoint(
    name: str,
    at: str,
    state: State = State.BASE,
    uid: str | None = None,
    *,
    is_source: bool = False,
    cutover: tuple[float, str] | None = None,
) -> Endpoint:
    """Return an endpoint of the guest at node *at*, made in the order of the names."""
    level = {State.BASE: NORMAL, State.LIVE: ELEVATED, State.TIME_WAIT: ELEVATED}.get(state)
    made = Endpoint(
        ObjectKey("vms", name),
        f"uid-{name}",
        at,
        (GUEST4, GUEST6),
        dict.fromkeys((GUEST4, GUEST6), level) if level else {},
        state,
        is_source,
        frozenset({uid} if uid else ()),
        created_at=after(ord(name[0]) - 1000),
    )
    if cutover is None:
        return made
    return dataclasses.replace(made, cutover=after(cutover[0]), cutover_uid=cutover[1])
