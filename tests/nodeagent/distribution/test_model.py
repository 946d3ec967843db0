"""A bystander against a simulated cluster, in any order of events (ring 1, model-based).

One guest moves between nodes. Its agents write versions of endpoints, which the bystander sees
later, by a watch or by a list; HAVE messages are lost, late or doubled; nodes come and go; the
bystander is killed and starts from its kernel. ``at`` is where the guest really is.
"""

import dataclasses
import itertools

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.nodeagent.distribution.cluster import GUEST4, A, B, C, D, endpoint

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.distribution.advertised import Endpoint
from handover_nodeagent.distribution.nodes import Node
from handover_nodeagent.distribution.resolver import Resolver
from handover_nodeagent.fsm.machine import RouteLevel

GRACE = 30.0
NODES = {node.name: node for node in (A, B, C, D)}
Version = tuple[ObjectKey, Endpoint | None]


class Cluster(RuleBasedStateMachine):
    """The API's history of endpoints, the guest, and one bystander at ``c``."""

    def __init__(self) -> None:
        super().__init__()
        self.number = itertools.count()
        self.now = 0.0
        # The API: what is there, and the watch's messages that the bystander has not read.
        self.there: dict[ObjectKey, Endpoint] = {}
        self.nodes: dict[str, Node] = dict(NODES)
        self.unread: list[Version] = []
        self.unread_nodes: list[tuple[str, Node | None]] = []
        self.haves: list[tuple[ObjectKey, str, int]] = []
        # The guest: its endpoint, and how often it has moved.
        self.moves = 0
        self.rank: dict[ObjectKey, int] = {}
        self.host = self._write(endpoint("a", "a"))
        self.rank[self.host.key] = 0
        self.target: Endpoint | None = None
        # What its agents know and have not written so far.
        self.pending: list[Endpoint] = []
        # The bystander: its kernel outlives it, as does what it remembers.
        self.kernel: Endpoint | None = None
        self.remembered: list[tuple[ObjectKey, str]] = []
        self._begin()

    def _begin(self) -> None:
        self.resolver = Resolver("c", GRACE)
        self.has_nodes = self.has_endpoints = False
        self.unread, self.unread_nodes = [], []

    # What agents write.

    def _write(self, one: Endpoint) -> Endpoint:
        self.there[one.key] = one
        self.unread.append((one.key, one))
        return one

    def _delete(self, key: ObjectKey) -> None:
        del self.there[key]
        self.unread.append((key, None))

    @precondition(lambda self: self.target is None and not self.pending)
    @rule(to=st.sampled_from(["a", "b", "d"]))
    def begin_migration(self, to: str) -> None:
        if to == self.host.node or to not in self.nodes:
            return
        number = next(self.number)
        uid = f"m{number}"
        made = endpoint("t", to, State.TARGET, uid)
        key = ObjectKey("vms", f"t{number:03}")
        created = made.created_at.replace(microsecond=number + 1)
        self.target = self._write(dataclasses.replace(made, key=key, created_at=created))
        self.host = self._write(
            dataclasses.replace(self.host, is_source=True, migration_uids=frozenset({uid}))
        )

    @precondition(lambda self: self.target is not None)
    @rule()
    def switch(self) -> None:
        """Move the guest: its target's agent says so at once, and writes it later."""
        assert self.target
        (uid,) = self.target.migration_uids
        self.moves += 1
        self.rank[self.target.key] = self.moves
        self.haves.append((self.target.key, uid, self.moves))
        old = self.host
        live = endpoint("t", self.target.node, State.LIVE, uid, cutover=(self.moves, uid))
        self.host = dataclasses.replace(
            live, key=self.target.key, created_at=self.target.created_at
        )
        self.target = None
        self.pending = [self.host, dataclasses.replace(old, state=State.WITHDRAWN, levels={})]

    @precondition(lambda self: bool(self.pending))
    @rule()
    def report(self) -> None:
        """Write what the switch made of one endpoint: the target's first."""
        one = self.pending.pop(0)
        if one.state is State.LIVE:
            self._write(one)
        else:
            self._write(one)
            self._delete(one.key)

    @precondition(lambda self: not self.pending and self.host.state is State.LIVE)
    @rule()
    def settle(self) -> None:
        """End the migration: the guest's routes have the normal metric again."""
        levels = dict.fromkeys(self.host.levels, RouteLevel.NORMAL)
        self.host = self._write(dataclasses.replace(self.host, state=State.BASE, levels=levels))

    @precondition(lambda self: self.target is not None)
    @rule()
    def abort(self) -> None:
        assert self.target
        self._write(dataclasses.replace(self.target, state=State.WITHDRAWN))
        self._delete(self.target.key)
        self.target = None

    @rule(name=st.sampled_from(["b", "d"]))
    def node_comes_or_goes(self, name: str) -> None:
        busy = {self.host.node, self.target.node if self.target else ""}
        if name in busy or any(one.node == name for one in self.pending):
            return
        node = None if name in self.nodes else NODES[name]
        if node:
            self.nodes[name] = node
        else:
            del self.nodes[name]
        self.unread_nodes.append((name, node))

    # What the bystander hears.

    @precondition(lambda self: self.has_endpoints)
    @rule(count=st.integers(1, 5))
    def watch_endpoints(self, count: int) -> None:
        for key, one in self.unread[:count]:
            if one:
                self.resolver.put(one)
            else:
                self.resolver.drop(key, self.now)
        del self.unread[:count]

    @precondition(lambda self: self.has_nodes)
    @rule(count=st.integers(1, 5))
    def watch_nodes(self, count: int) -> None:
        for name, node in self.unread_nodes[:count]:
            if node:
                self.resolver.put_node(node)
            else:
                self.resolver.drop_node(name, self.now)
        del self.unread_nodes[:count]

    @rule()
    def list_endpoints(self) -> None:
        """List after a start, an outage or 410: what is gone is dropped, all else put."""
        for key in self.resolver.endpoints.keys() - self.there.keys():
            self.resolver.drop(key, self.now)
        for one in self.there.values():
            self.resolver.put(one)
        self.unread = []
        self.has_endpoints = True
        self._recall()

    @rule()
    def list_nodes(self) -> None:
        for name in self.resolver.nodes.keys() - self.nodes.keys():
            self.resolver.drop_node(name, self.now)
        for node in self.nodes.values():
            self.resolver.put_node(node)
        self.unread_nodes = []
        self.has_nodes = True
        self._recall()

    def _recall(self) -> None:
        if self.has_nodes and self.has_endpoints:
            for key, uid in self.remembered:
                self.resolver.fire(key, uid)

    @precondition(lambda self: bool(self.haves))
    @rule(index=st.integers(0, 9), is_last=st.booleans())
    def have_arrives(self, index: int, is_last: bool) -> None:  # noqa: FBT001
        """Hear a HAVE: once, again, or after it is old."""
        key, uid, _ = self.haves[index % len(self.haves)]
        if self.resolver.fire(key, uid):
            self.remembered.append((key, uid))
        if is_last:
            self.haves.remove((key, uid, _))

    @precondition(lambda self: bool(self.haves))
    @rule()
    def have_is_lost(self) -> None:
        self.haves.pop(0)

    @rule()
    def crash(self) -> None:
        self._begin()

    @rule(seconds=st.sampled_from([1.0, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        # In an outage nothing is read, and nothing expires.
        if not self.unread and not self.unread_nodes:
            self.resolver.expire(self.now)

    # What must hold.

    @invariant()
    def follow(self) -> None:
        """Bring the kernel to what is wanted, and compare with what it was."""
        if not (self.has_nodes and self.has_endpoints):
            return
        before = self.kernel
        found = self.resolver.destination(GUEST4)
        self.kernel = self.resolver.endpoints[found.key] if found else None
        if before and self.kernel:
            # Never back to where the guest was before.
            assert self.rank[self.kernel.key] >= self.rank[before.key]
        if before and not self.kernel:
            # Only by a word of the API, complete to its end, or of that endpoint itself.
            known = self.resolver.endpoints.get(before.key)
            assert known is None or not known.levels
            assert before.key not in self.resolver.fired

    def teardown(self) -> None:
        """Let all be read: then the route leads to the node that has the guest."""
        for one in self.pending:
            self._write(one)
        self.pending = []
        self.list_nodes()
        self.list_endpoints()
        self.now += 2 * GRACE
        self.resolver.expire(self.now)
        self.follow()
        assert self.kernel
        assert self.kernel.key == self.host.key
        assert self.resolver.fired == {}
        assert self.resolver.deadline() is None


def test_in_any_order_of_events_the_route_follows_the_guest() -> None:
    run_state_machine_as_test(
        Cluster,
        settings=settings(
            max_examples=settings().max_examples * 3 // 5,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
