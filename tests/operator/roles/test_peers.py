"""Whom an endpoint's agent may believe: the other side, and whoever the guest went on to."""

import base64
import dataclasses
import datetime as dt
import json
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.conftest import START, build_assignment, build_endpoint, build_migration

from handover_api import peer
from handover_api.livemigration import LiveMigration
from handover_api.names import ObjectKey
from handover_api.workloadendpoint import AgentAddress, Cutover, Role, Signal, State
from handover_operator.roles.index import Index
from handover_operator.roles.model import Endpoint
from handover_operator.roles.peers import CROWD, NOTHING, Peers, Told

IP, OTHER_IP = ip_address("10.0.0.1"), ip_address("fd00::2")
M1, M2 = (build_migration(name, age=60 * n) for n, name in enumerate(("m1", "m2")))


def agent(name: str) -> AgentAddress:
    """Return where the agent of a node is, with a key of its own."""
    key = base64.b64encode(name.encode().ljust(32, b"."))
    return AgentAddress.model_validate(
        {"publicKey": key.decode(), "addresses": ["192.0.2.1"], "port": 7473}
    )


def heard(migration: str, after: int = 9) -> Cutover:
    """Return what an agent measured so many seconds after the start."""
    return Cutover(
        signal=Signal.RARP,
        announcement_to_route_microseconds=180,
        time=START + dt.timedelta(seconds=after),
        migration_uid=f"uid-{migration}",
    )


def build(name: str, said: str, state: State | None = State.BASE, **fields: Any) -> Endpoint:
    """Build an endpoint whose agent is known."""
    defaults: dict[str, Any] = {"ips": (IP,), "agent": agent(name), "state": state}
    return build_endpoint(name, assignment=build_assignment(said), **(defaults | fields))


class Cluster:
    """An index and the peers, fed as the cache feeds them."""

    def __init__(self, *migrations: LiveMigration) -> None:
        self.index = Index()
        self.peers = Peers(self.index)
        for each in migrations:
            self.put_migration(each)

    def put_migration(self, migration: LiveMigration) -> None:
        """Take a LiveMigration in."""
        self.index.put_migration(migration)
        self.peers.mark(migration)

    def put(self, *endpoints: Endpoint) -> "Cluster":
        """Take endpoints in."""
        for each in endpoints:
            self.index.put_endpoint(each)
            self.peers.put(each)
        return self

    def drop(self, name: str) -> "Cluster":
        """Let an endpoint be gone."""
        key = ObjectKey("default", name)
        self.index.drop_endpoint(self.index.endpoints[key])
        self.peers.drop(key)
        return self

    def told(self, name: str) -> Told:
        """Return what is said of an endpoint."""
        self.peers.settle()
        return self.peers.told(ObjectKey("default", name))

    def say(self, name: str) -> str:
        """Return the peers of an endpoint the short way; the one that has the guest is marked."""
        told = self.told(name)
        read = peer.peers_from_annotations({"handover.dev/peer": told.peers})
        holder = next((each for each in read if each.uid == told.live), None)
        return ", ".join(
            f"{each.endpoint} {each.role} {each.uid.removeprefix('uid-')}"
            f"{'*' if each is holder else ''}"
            for each in read
        )

    def all(self) -> dict[str, str]:
        """Return the peers of all endpoints."""
        return {key.name: self.say(key.name) for key in sorted(self.index.endpoints)}


def test_the_other_side_is_named_as_its_agent_has_published_itself() -> None:
    cluster = Cluster(M1).put(build("a", "source of m1"), build("b", "target of m1", State.TARGET))

    assert json.loads(cluster.told("a").peers) == [
        {
            "uid": "uid-m1",
            "endpoint": "b",
            "node": "node-b",
            "role": "target",
            "publicKey": agent("b").public_key,
            "addresses": ["192.0.2.1"],
            "port": 7473,
        }
    ]
    assert cluster.all() == {"a": "b target m1", "b": "a source m1"}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"agent": None}, {}),
        ({}, {"agent": None}),
        ({"ips": (OTHER_IP,)}, {}),
        ({"node": "n"}, {"node": "n"}),
        ({"namespace": "other"}, {}),
    ],
    ids=["no agent here", "no agent there", "no address in common", "one node", "two namespaces"],
)
def test_who_cannot_speak_or_need_not_is_not_named(a: dict[str, Any], b: dict[str, Any]) -> None:
    cluster = Cluster(M1).put(build("a", "source of m1", **a), build("b", "target of m1", **b))
    silent = [name for name, fields in (("a", a), ("b", b)) if "agent" in fields]

    if silent:
        assert cluster.say("b" if silent == ["a"] else "a") == ""
    else:
        assert {name: said for name, said in cluster.all().items() if said} == {}


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        ("source of m1", "target of m2", False),
        ("source of m1", "source of m1", False),
        ("source of m1 Succeeded", "target of m1", True),
        ("source of m1 Succeeded", "target of m1 Succeeded", False),
        ("source of m1 Aborted", "target of m1", True),
    ],
)
def test_they_are_named_while_anybody_has_a_role_in_it(a: str, b: str, *, named: bool) -> None:
    cluster = Cluster(M1, M2).put(build("a", a), build("b", b))

    assert any(cluster.all().values()) is named


@pytest.mark.parametrize("state", State)
def test_they_are_named_as_long_as_a_side_depends_on_it(state: State) -> None:
    cluster = Cluster(M1).put(
        build("a", "source of m1 Succeeded", state), build("b", "target of m1 Succeeded")
    )

    is_named = state in {State.REDIRECTED, State.LIVE, State.TIME_WAIT}
    assert cluster.say("b") == ("a source m1" if is_named else "")


def test_somebody_whose_migration_nobody_knows_is_named_nothing() -> None:
    assert Cluster().put(build_endpoint("a", ips=(IP,), agent=agent("a"))).told("a") == NOTHING


class TestWhoHasTheGuest:
    """By what the agents have measured for this migration; the newest goes first."""

    def test_nobody_has_moved_it_so_far(self) -> None:
        cluster = Cluster(M1).put(
            build("a", "source of m1", cutover=heard("m0")),
            build("b", "target of m1", State.TARGET, cutover=heard("m0", 20)),
        )
        assert (cluster.told("a").live, cluster.told("b").live) == ("", "")

    def test_the_target_has(self) -> None:
        cluster = Cluster(M1).put(
            build("a", "source of m1"), build("b", "target of m1", State.LIVE, cutover=heard("m1"))
        )
        assert cluster.all() == {"a": "b target m1*", "b": "a source m1"}

    def test_it_went_back_to_the_source(self) -> None:
        cluster = Cluster(M1).put(
            build("a", "source of m1", cutover=heard("m1", 12)),
            build("b", "target of m1", State.LIVE, cutover=heard("m1", 9)),
        )
        assert cluster.all() == {"a": "b target m1", "b": "a source m1*"}

    @pytest.mark.parametrize("state", [State.REDIRECTED, State.WITHDRAWN])
    def test_who_says_that_it_is_not_there_has_not(self, state: State) -> None:
        cluster = Cluster(M1).put(
            build("a", "source of m1", cutover=heard("m1", 9)),
            # Its clock is fast.
            build("b", "target of m1", state, cutover=heard("m1", 12)),
        )
        assert cluster.all() == {"a": "b target m1", "b": "a source m1*"}

    def test_one_whose_agent_is_not_known_is_not_told_of(self) -> None:
        cluster = Cluster(M1).put(
            build("a", "source of m1"),
            build("b", "target of m1", State.LIVE, cutover=heard("m1"), agent=None),
        )
        assert cluster.told("a") == NOTHING


class TestMovedOn:
    """A→B→C: what still arrives at A for the guest is sent on to where it is now."""

    def world(self, b: dict[str, Any], c: dict[str, Any]) -> Cluster:
        """Return the three, of which the first sends on to the second."""
        return Cluster(M1, M2).put(
            build("a", "source of m1 Succeeded", State.REDIRECTED),
            build("b", "source of m2", **({"cutover": heard("m1")} | b)),
            build("c", "target of m2", **({"state": State.TARGET} | c)),
        )

    def test_until_it_moves_on_it_is_where_it_went_first(self) -> None:
        assert self.world({}, {}).all() == {
            "a": "b source m2*, c target m2",
            "b": "c target m2, a source m1",
            "c": "b source m2, a source m1",
        }

    def test_where_it_is_now_comes_first(self) -> None:
        world = self.world(
            {"state": State.REDIRECTED}, {"state": State.LIVE, "cutover": heard("m2", 70)}
        )
        assert world.all() == {
            "a": "c target m2*, b source m2",
            "b": "c target m2*, a source m1",
            "c": "b source m2, a source m1",
        }

    def test_it_may_go_back_from_there(self) -> None:
        world = self.world(
            {"cutover": heard("m2", 75)}, {"state": State.REDIRECTED, "cutover": heard("m2", 70)}
        )
        assert world.say("a") == "b source m2*, c target m2"

    def test_a_newer_one_alone_matters(self) -> None:
        cluster = Cluster(M2, build_migration("m3", age=90)).put(
            build("a", "source of m3 Succeeded", State.REDIRECTED),
            build("b", "source of m2"),
        )
        assert cluster.all() == {"a": "", "b": ""}

    def test_of_migrations_that_are_gone_the_one_that_goes_on_is_newer(self) -> None:
        cluster = Cluster().put(
            build("a", "source of m1 Succeeded", State.REDIRECTED),
            build("b", "source of m2 Succeeded", State.REDIRECTED),
            build("c", "target of m2 Succeeded", State.TIME_WAIT, cutover=heard("m2")),
        )
        assert cluster.all() == {
            "a": "c target m2*",
            "b": "c target m2*",
            "c": "a source m1, b source m2",
        }

    @pytest.mark.parametrize(
        ("said", "state"),
        [("source of m1 Succeeded", State.BASE), ("target of m1 Aborted", State.REDIRECTED)],
    )
    def test_only_a_source_that_sends_on_hears_of_it(self, said: str, state: State) -> None:
        world = self.world({}, {}).put(build("a", said, state))
        assert world.all() == {"a": "", "b": "c target m2", "c": "b source m2"}

    def test_which_is_newer_is_seen_once_the_migration_is_known(self) -> None:
        world = Cluster(M1).put(
            build("a", "source of m1 Succeeded", State.REDIRECTED), build("b", "source of m2")
        )
        assert world.say("a") == ""
        world.put_migration(M2)
        assert world.say("a") == "b source m2"


def test_the_end_of_one_is_the_end_of_both() -> None:
    cluster = Cluster(M1).put(
        build("a", "source of m1 Succeeded", State.REDIRECTED), build("b", "target of m1 Succeeded")
    )
    assert cluster.say("b") == "a source m1"
    assert cluster.drop("a").say("b") == ""
    assert cluster.drop("b").told("b") == NOTHING
    cluster.peers.drop(ObjectKey("default", "b"))


def test_what_somebody_else_wrote_is_looked_at() -> None:
    cluster = Cluster(M1).put(build("a", "source of m1"), build_endpoint("c", ips=(IP,)))
    cluster.peers.settle()
    for name in ("a", "c"):
        found = cluster.index.endpoints[ObjectKey("default", name)]
        cluster.put(dataclasses.replace(found, peers="[]"))
        assert ObjectKey("default", name) in cluster.peers.settle()


def test_a_report_that_changes_nothing_of_it_has_nobody_looked_at() -> None:
    source, target = build("a", "source of m1"), build("b", "target of m1", State.TARGET)
    cluster = Cluster(M1).put(source, target)
    cluster.peers.settle()

    cluster.put(dataclasses.replace(target, listening=True, acted_uid="uid-m1", shared="x"))

    assert cluster.peers.settle() == frozenset()


@pytest.mark.parametrize("crowded", ["source of m1 Succeeded", "source of m2 Succeeded"])
def test_a_crowd_has_no_peers_and_costs_nothing(crowded: str) -> None:
    """Neither of one migration, nor of one address."""
    cluster = Cluster(M1, M2).put(build("a", "source of m1"), build("b", "target of m1"))
    extra = [build(f"x{n:03}", crowded, agent=None) for n in range(CROWD + 2)]
    cluster.put(*extra[: CROWD - 2])
    assert cluster.say("a") == "b target m1"

    cluster.put(extra[CROWD - 2])
    assert (cluster.say("a"), cluster.say("b")) == ("", "")
    cluster.put(*extra[CROWD - 1 : -1])
    cluster.peers.settle()
    cluster.put(extra[-1])
    assert len(cluster.peers.settle()) == 1

    for each in extra[CROWD - 2 :]:
        cluster.drop(each.key.name)
    assert cluster.say("a") == "b target m1"


NAMES: Final = ("a", "b", "c", "d")
endpoints = st.builds(
    build,
    st.sampled_from(NAMES),
    st.builds(
        "{0} of {1}{2}".format,
        st.sampled_from(Role),
        st.sampled_from(["m1", "m2"]),
        st.sampled_from(["", " Succeeded", " Aborted"]),
    ),
    st.sampled_from(State),
    ips=st.sampled_from([(IP,), (OTHER_IP,), (IP, OTHER_IP)]),
    cutover=st.none() | st.builds(heard, st.sampled_from(["m1", "m2"]), st.integers(1, 5)),
    agent=st.none() | st.sampled_from(NAMES).map(agent),
    node=st.sampled_from(["n1", "n2", "n3"]),
)
changes = st.lists(endpoints | st.sampled_from(NAMES), max_size=20)


def play(cluster: Cluster, what: Iterable[Endpoint | str], then: Callable[[], object]) -> None:
    """Let everything happen, one after the other."""
    for each in what:
        if isinstance(each, Endpoint):
            cluster.put(each)
        elif ObjectKey("default", each) in cluster.index.endpoints:
            cluster.drop(each)
        then()


@settings(max_examples=settings().max_examples * 3)
@given(changes)
def test_what_is_kept_is_what_would_be_found_anew(what: list[Endpoint | str]) -> None:
    cluster = Cluster(M1, M2)
    play(cluster, what, cluster.peers.settle)

    anew = Cluster(M2, M1).put(*reversed(cluster.index.endpoints.values()))
    assert cluster.all() == anew.all()


@settings(max_examples=settings().max_examples * 3)
@given(changes)
def test_nobody_is_named_that_does_not_share_an_address_and_a_migration(
    what: list[Endpoint | str],
) -> None:
    cluster = Cluster(M1, M2)
    play(cluster, what, cluster.peers.settle)

    for key, endpoint in cluster.index.endpoints.items():
        told = cluster.told(key.name)
        read = peer.peers_from_annotations({"handover.dev/peer": told.peers})
        assert not told.live or told.live in {each.uid for each in read}
        for each in read:
            other = cluster.index.endpoints[ObjectKey("default", each.endpoint)]
            assert set(other.ips) & set(endpoint.ips)
            assert each.uid == other.assignment.migration_uid
            # Nobody speaks for a migration that is not its own.
            assert each.role in (other.assignment.role, other.assignment.ended_role)
            assert other.agent is not None
            assert each.key == other.agent.key
