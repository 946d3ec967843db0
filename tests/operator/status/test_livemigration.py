"""Phase, conditions, sides and times of a LiveMigration."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from tests.operator.conftest import START

from handover_api.livemigration import LiveMigration
from handover_api.model import Condition
from handover_api.workloadendpoint import Hold, HoldReason, RedirectStatus, State
from handover_operator.roles.model import Endpoint
from handover_operator.status import following, livemigration
from handover_operator.status.progress import Progress

ADDRESS = ip_address("10.65.0.2")
Migration = Callable[..., LiveMigration]
Build = Callable[..., Endpoint]


@pytest.fixture
def running(world: Any, migration: Migration, endpoint: Build) -> Any:
    """A migration whose two endpoints have their roles and no report yet."""
    return world.apply(*map(endpoint, "ab"), migration(source="a", target="b"))


def test_the_phases_of_a_success(world: Any, migration: Migration, endpoint: Build) -> None:
    world.apply(migration(source="a", target="b"))
    assert world.phase() == "Pending"
    world.apply(*map(endpoint, "ab"))
    assert world.phase() == "Preparing"
    world.report("a", State.BASE).report("b", State.TARGET)
    assert world.phase() == "Ready"
    world.report("b", State.LIVE)
    assert world.phase() == "Live"
    world.apply(migration(source="a", target="b", outcome="Succeeded", status=told(world)))
    assert world.phase() == "Converging"
    world.report("a", State.WITHDRAWN).report("b", State.TIME_WAIT).report("b", State.BASE)
    assert world.phase() == "Succeeded"


def told(world: Any) -> dict[str, Any]:
    """Return the status of m1 as the API would keep it beside a new spec."""
    status: dict[str, Any] = world.migration("m1").status.to_object()
    return status


@pytest.mark.parametrize(
    ("fields", "resolved", "phase"),
    [
        ({"source": "a", "target": "b"}, ("True", "True"), "Preparing"),
        ({"source": "x", "target": "b"}, ("False", "True"), "Pending"),
        ({"source": "a", "target": "x"}, ("True", "False"), "Pending"),
        ({"source": "a"}, ("True", None), "Preparing"),
        ({"target": "b"}, (None, "True"), "Preparing"),
    ],
)
def test_only_a_named_side_has_to_be_resolved(
    world: Any,
    migration: Migration,
    endpoint: Build,
    fields: dict[str, str],
    resolved: tuple[str | None, str | None],
    phase: str,
) -> None:
    world.apply(*map(endpoint, "ab"), migration(**fields))
    found = [world.condition(side) for side in ("SourceResolved", "TargetResolved")]
    assert resolved == tuple(each and each[0] for each in found)
    assert phase == world.phase()


def test_a_target_is_ready_when_it_listens_for_this_migration(running: Any) -> None:
    assert running.condition("TargetReady") == ("False", "AwaitingAgent")
    running.report("b", State.TARGET, listening=False)
    assert running.condition("TargetReady") == ("False", "NotListening")
    running.report("b", State.TARGET, acted_uid="another")
    assert running.condition("TargetReady") == ("False", "AwaitingAgent")
    running.report("b", State.ASKING)
    assert "is in state Asking" in message(running, "TargetReady")
    running.report("b", State.TARGET)
    assert running.condition("TargetReady") == ("True", "Listening")


def message(world: Any, wanted: str) -> str:
    """Return the message of a condition of m1."""
    found = [c.message for c in world.migration("m1").status.conditions if c.type == wanted]
    return str(found[0])


def redirectable(status: str, reason: str, text: str = "") -> Condition:
    """Return what an agent says of an endpoint."""
    return Condition(
        type="Redirectable", status=status, reason=reason, message=text, last_transition_time=START
    )


READY = redirectable("True", "Ready")
SILENT = redirectable("False", "PeerSilent", "the agent of node-b does not answer")


@pytest.mark.parametrize(
    ("a", "b", "said", "why"),
    [
        (READY, READY, ("True", "Ready"), ""),
        (SILENT, None, ("False", "NotReady"), f"a on node-a: {SILENT.message}"),
        (READY, None, ("False", "AwaitingAgent"), "b on node-b: its agent has not said so far"),
        (READY, redirectable("False", "Off"), ("False", "Off"), ""),
        (
            SILENT,
            redirectable("False", "NoPeer"),
            ("False", "NotReady"),
            f"a on node-a: {SILENT.message}; b on node-b: NoPeer",
        ),
    ],
)
def test_whether_the_source_can_send_on_is_said_before_the_guest_moves(
    running: Any, a: Condition, b: Condition | None, said: tuple[str, str], why: str
) -> None:
    assert running.condition("Redirectable") is None
    running.report("a", State.BASE, redirectable=a).report("b", State.TARGET, redirectable=b)

    assert running.condition("Redirectable") == said
    assert message(running, "Redirectable") == why


def test_what_is_true_after_the_guest_has_moved_comes_too_late(running: Any) -> None:
    running.report("a", State.BASE, redirectable=SILENT)
    running.report("b", State.LIVE, redirectable=READY).report("a", State.BASE, redirectable=READY)
    assert running.condition("Redirectable") == ("False", "NotReady")
    # Whatever becomes of the target, it had moved.
    running.report("b", State.TARGET, redirectable=READY)
    assert running.condition("Redirectable") == ("False", "NotReady")


@pytest.mark.parametrize("side", [{"source": "a"}, {"target": "a"}])
def test_of_one_side_alone_it_is_not_said(
    world: Any, migration: Migration, endpoint: Build, side: dict[str, str]
) -> None:
    world.apply(endpoint("a", redirectable=READY), migration(**side))
    assert world.condition("Redirectable") is None


def test_a_target_that_serves_another_migration_says_so(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("b"), migration(target="b"), migration("m2", target="b", age=9))
    assert "has its role from another migration" in message(world, "TargetReady")


def test_the_agent_that_does_not_act_is_named(running: Any) -> None:
    assert message(running, "TargetReady") == (
        "b on node-b: no agent has reported from that node; do the node and its agent run?"
    )
    running.report("b", State.BASE, acted_uid=None)
    assert message(running, "TargetReady") == (
        "b on node-b: the node's agent has not acted upon the role yet, it last reported state Base"
    )


def wake(world: Any) -> dt.datetime | None:
    """Return when the operator looks at m1 again though nothing changes."""
    return livemigration.wake(world.migration("m1"), world.progress(), world.now)


def test_an_agent_that_is_silent_for_long_is_told_of_once(running: Any) -> None:
    assert wake(running) == running.now + following.SILENT_AFTER
    running.wait(9).apply(running.migration("m1"))
    assert running.condition("TargetReady") == ("False", "AwaitingAgent")
    running.wait(1).apply(running.migration("m1"))
    assert running.condition("TargetReady") == ("False", "AgentSilent")
    assert wake(running) is None
    running.report("b", State.TARGET)
    assert running.condition("TargetReady") == ("True", "Listening")


@pytest.mark.parametrize("outcome", ["Succeeded", "Aborted"])
def test_what_is_decided_while_an_agent_is_awaited_wakes_nobody(
    running: Any, migration: Migration, outcome: str
) -> None:
    running.wait(3).report("b", State.BASE, acted_uid=None)
    running.apply(migration(source="a", target="b", outcome=outcome, status=told(running)))
    running.report("a", State.WITHDRAWN)
    assert running.condition("TargetReady") == ("False", "AwaitingAgent")
    for seconds in (0, 6, 1, 4, 1000):
        running.wait(seconds)
        due = wake(running)
        assert due is None or due > running.now
    assert wake(running) is None


def test_a_wake_up_that_is_past_is_none(running: Any) -> None:
    running.now += following.SILENT_AFTER - dt.timedelta(microseconds=1)
    assert wake(running) == running.now + dt.timedelta(microseconds=1)
    running.now += dt.timedelta(microseconds=1)
    assert wake(running) is None


def test_a_silent_agent_whose_node_is_gone_is_called_so(running: Any) -> None:
    running.wait(10)
    found, progress = running.migration("m1"), running.progress()
    status = livemigration.status(found, progress, running.now)
    assert livemigration.silent_nodes(found, progress, status) == {"node-b"}
    told = livemigration.status(found, progress, running.now, frozenset({"node-b"}))
    (ready,) = [each for each in told.conditions if each.type == "TargetReady"]
    assert (ready.status, ready.reason) == ("False", "NodeAbsent")
    assert ready.message == "b on node-b: there is no such node"


def test_whoever_reports_is_asked_after_no_more(running: Any) -> None:
    running.wait(10).report("b", State.TARGET)
    found, progress = running.migration("m1"), running.progress()
    status = livemigration.status(found, progress, running.now)
    assert livemigration.silent_nodes(found, progress, status) == frozenset()


def test_while_the_source_is_unknown_nobody_calls_an_agent_silent(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    world.apply(endpoint("b"), migration(source="x", target="b"))
    assert wake(world) is None
    world.wait(60).apply(world.migration("m1"))
    assert world.condition("TargetReady") == ("False", "AwaitingAgent")


@pytest.mark.parametrize(
    ("fields", "side", "expected"),
    [
        ({"source": "x"}, "SourceResolved", "there is no WorkloadEndpoint of workload x"),
        (
            {"source": {"endpoint": {"name": "x"}}},
            "SourceResolved",
            "there is no WorkloadEndpoint x",
        ),
        (
            {"target": {"selector": {"matchLabels": {"app": "x"}}}},
            "TargetResolved",
            "there is no WorkloadEndpoint that the selector matches",
        ),
        ({"target": "x"}, "TargetResolved", "there is no WorkloadEndpoint of workload x"),
    ],
)
def test_what_is_missing_is_named(
    world: Any, migration: Migration, fields: dict[str, Any], side: str, expected: str
) -> None:
    world.apply(migration(**fields))
    assert message(world, side) == expected


def test_a_target_that_does_not_return_to_base_is_named(running: Any, migration: Migration) -> None:
    running.report("a", State.BASE).report("b", State.LIVE)
    running.apply(migration(source="a", target="b", outcome="Succeeded", status=told(running)))
    assert message(running, "Converged") == ""  # the source has not been told yet
    running.report("a", State.WITHDRAWN).report("b", State.TIME_WAIT)
    assert message(running, "Converged") == "waits for b on node-b in state TimeWait"
    running.report("b", State.BASE)
    assert message(running, "Converged") == ""


def test_every_target_has_to_cut_over(running: Any, endpoint: Build) -> None:
    running.apply(endpoint("b-1", workload="b"))
    running.report("b", State.LIVE)
    assert (running.phase(), running.condition("CutOver")) == ("Live", ("False", "NotAnnounced"))
    running.report("b-1", State.LIVE)
    assert running.condition("CutOver") == ("True", "Announced")


def test_cut_over_stays_true(running: Any) -> None:
    running.report("b", State.LIVE).delete("b")
    assert running.condition("CutOver") == ("True", "Announced")
    assert running.phase() == "Pending"


def test_ready_stays_true_once_it_was_cut_over(running: Any) -> None:
    running.report("b", State.LIVE).report("b", State.WITHDRAWN)
    assert running.condition("TargetReady") == ("True", "Listening")


def test_the_sides_show_what_the_agents_report(running: Any) -> None:
    running.report("a", State.BASE).report("b", State.LIVE)
    status = told(running)
    assert status["source"] == [{"endpoint": "a", "node": "node-a", "state": "Base"}]
    assert status["target"] == [
        {
            "endpoint": "b",
            "node": "node-b",
            "state": "Live",
            "cutover": {
                "signal": "RARP",
                "announcementToRouteMicroseconds": 180,
                "time": "2026-11-24T12:00:09.250000Z",
            },
        }
    ]


def test_an_endpoint_that_is_gone_stays_listed(running: Any) -> None:
    running.report("a", State.BASE).delete("a")
    assert [side["endpoint"] for side in told(running)["source"]] == ["a"]
    assert running.condition("SourceResolved") == ("False", "Gone")


def test_an_endpoint_that_no_longer_belongs_is_not_listed(
    running: Any, migration: Migration
) -> None:
    running.apply(migration(source="a", target="x", status=told(running)))
    assert "target" not in {key for key, value in told(running).items() if value}


def test_a_migration_hears_of_a_target_that_left_it_with_another_one_s_role(
    world: Any, migration: Migration, endpoint: Build
) -> None:
    web = {"selector": {"matchLabels": {"app": "web"}}}
    world.apply(endpoint("b", labels={"app": "web"}), migration(target=web))
    world.apply(migration("m2", target="b", age=9))
    world.apply(dataclasses.replace(world.endpoint("b"), labels={}))
    assert world.condition("TargetResolved", "m1") == ("False", "NotFound")


def test_a_decided_migration_keeps_its_sides_when_the_next_one_takes_them(
    running: Any, migration: Migration
) -> None:
    running.report("b", State.LIVE).delete("a")
    running.apply(
        migration(source="a", target="b", outcome="Succeeded", status=told(running)),
        migration("m2", source="b", target="x", age=9),
    )
    assert running.roles() == {"b": "source of m2"}
    assert running.phase() == "Succeeded"
    [target] = told(running)["target"]
    assert target["cutover"]["announcementToRouteMicroseconds"] == 180


def test_times_are_set_once(running: Any, migration: Migration) -> None:
    start = running.now
    running.wait(1).report("a", State.BASE).report("b", State.TARGET)
    running.wait(1).report("b", State.LIVE)
    running.wait(1).apply(
        migration(source="a", target="b", outcome="Aborted", status=told(running))
    )
    running.wait(1).report("b", State.WITHDRAWN)
    status = running.migration("m1").status
    assert status.start_time == start
    assert status.ready_time == start + dt.timedelta(seconds=1)
    assert status.cutover_time == start + dt.timedelta(seconds=9)  # by the agent's clock
    assert status.completion_time == start + dt.timedelta(seconds=3)


def test_without_a_measurement_the_cutover_is_now(running: Any) -> None:
    running.wait(1).report("b", State.LIVE, cutover=None)
    assert running.migration("m1").status.cutover_time == running.now


def test_a_transition_time_moves_with_the_status_only(running: Any) -> None:
    before = transition(running, "TargetReady")
    running.wait(2).report("b", State.TARGET, listening=False)
    assert transition(running, "TargetReady") == before
    running.report("b", State.TARGET)
    assert transition(running, "TargetReady") == before + dt.timedelta(seconds=2)


def transition(world: Any, wanted: str) -> dt.datetime:
    """Return the last transition of a condition of m1."""
    conditions = world.migration("m1").status.conditions
    [found] = [one.last_transition_time for one in conditions if one.type == wanted]
    assert isinstance(found, dt.datetime)
    return found


def test_conflicts_are_named_on_both_sides_and_go_away(running: Any, migration: Migration) -> None:
    running.apply(migration("m2", target="b", age=9))
    assert running.condition("Conflicted", "m1") == ("True", "EndpointClaimed")
    assert running.condition("Conflicted", "m2") == ("True", "EndpointClaimed")
    assert "LiveMigration m2" in message(running, "Conflicted")
    running.delete("m2")
    assert running.condition("Conflicted", "m1") == ("False", "NoConflict")


def test_targets_on_two_nodes_are_a_conflict(running: Any, endpoint: Build) -> None:
    running.apply(endpoint("b-1", workload="b", node="elsewhere"))
    assert running.condition("Conflicted") == ("True", "TargetsOnTwoNodes")


def test_a_decided_migration_conflicts_with_nobody(running: Any, migration: Migration) -> None:
    running.apply(migration("m2", target="b", outcome="Aborted"))
    assert running.condition("Conflicted") is None


def test_a_finished_migration_is_not_rewritten(running: Any, migration: Migration) -> None:
    running.apply(migration(source="a", target="b", outcome="Aborted", status=told(running)))
    before = running.migration("m1").status
    running.wait(5).delete("a").delete("b")
    assert running.migration("m1").status == before


def test_an_aborted_migration_is_finished_when_all_were_told(
    migration: Migration, endpoint: Build, world: Any
) -> None:
    aborted = migration(source="a", outcome="Aborted")
    world.apply(endpoint("a"), migration(source="a"))
    waiting = livemigration.status(
        aborted, Progress(decision=aborted.spec.outcome, untold=True), world.now
    )
    assert waiting.phase == "Pending"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Succeeded", "completionTime": "2026-11-24T12:00:00.5Z"}, 10),
        ({"phase": "Aborted", "completionTime": "2026-11-24T12:00:00.5Z"}, 10),
        ({"phase": "Converging", "completionTime": "2026-11-24T12:00:00.5Z"}, None),
        ({"phase": "Succeeded"}, None),
    ],
)
def test_a_finished_migration_expires(
    migration: Migration, status: dict[str, str], expected: int | None
) -> None:
    when = livemigration.expiry(migration(source="a", ttlSecondsAfterFinished=10, status=status))
    since = dt.datetime(2026, 11, 24, 12, 0, 0, 500000, tzinfo=dt.UTC)
    assert when == (None if expected is None else since + dt.timedelta(seconds=expected))
    assert livemigration.expiry(migration(source="a", status=status)) is None


def test_a_lingering_source_wakes_the_operator_once(running: Any, migration: Migration) -> None:
    running.report("a", State.BASE).report("b", State.LIVE)
    assert wake(running) is None
    running.apply(migration(source="a", target="b", outcome="Succeeded", status=told(running)))
    since = running.now.replace(microsecond=0)
    assert wake(running) == since + dt.timedelta(seconds=5)
    running.wait(6).apply(running.migration("m1"))
    assert running.condition("SourceLingers") == ("True", "StillRouted")
    assert wake(running) is None
    assert "a on node-a" in message(running, "SourceLingers")
    running.delete("a")
    assert running.condition("SourceLingers") == ("False", "Withdrawn")


class TestRedirects:
    """What the source's node counts stands with what the target's has measured."""

    @pytest.fixture
    def moving(self, world: Any, migration: Migration, endpoint: Build) -> Any:
        both = [endpoint(name, ips=(ADDRESS,)) for name in "ab"]
        return world.apply(*both, migration(source="a", target="b"))

    @staticmethod
    def counted(forwarded: int | None, back: int = 0, uid: str = "") -> RedirectStatus:
        return RedirectStatus(migration_uid=uid or "uid-m1", forwarded=forwarded, roll_backs=back)

    @staticmethod
    def told(world: Any) -> tuple[int | None, int | None]:
        (side,) = world.migration("m1").status.target
        return side.cutover.forwarded, side.cutover.roll_backs

    def test_it_is_told_of_the_target(self, moving: Any) -> None:
        moving.report("a", State.BASE).report("b", State.TARGET).report("b", State.LIVE)
        assert self.told(moving) == (None, None)
        moving.report("a", State.REDIRECTED, redirect=self.counted(None))
        assert self.told(moving) == (None, 0)
        moving.report("a", State.REDIRECTED, redirect=self.counted(12))
        assert self.told(moving) == (12, 0)
        moving.report("a", State.REDIRECTED, redirect=self.counted(20, back=1))
        assert self.told(moving) == (20, 1)

    def test_a_source_that_is_gone_takes_nothing_of_it_back(self, moving: Any) -> None:
        moving.report("a", State.BASE).report("b", State.LIVE)
        moving.report("a", State.REDIRECTED, redirect=self.counted(20, back=1))
        # Its agent was started anew, and counts from zero.
        moving.report("a", State.REDIRECTED, redirect=self.counted(3))
        assert self.told(moving) == (20, 1)
        moving.delete("a")
        moving.report("b", State.TIME_WAIT)
        assert self.told(moving) == (20, 1)

    def test_another_migrations_or_another_interfaces_is_none_of_it(self, moving: Any) -> None:
        moving.report("a", State.BASE).report("b", State.LIVE)
        moving.report("a", State.REDIRECTED, redirect=self.counted(20, uid="another"))
        assert self.told(moving) == (None, None)
        redirect = self.counted(20)
        moving.report("a", State.REDIRECTED, redirect=redirect, ips=(ADDRESS + 1,))
        assert self.told(moving) == (None, None)

    @staticmethod
    def kept(hold: Hold | None, uid: str = "uid-m1") -> RedirectStatus:
        return RedirectStatus(migration_uid=uid, hold=hold)

    @staticmethod
    def hold(world: Any) -> Hold | None:
        (side,) = world.migration("m1").status.target
        found = side.cutover.hold
        assert found is None or isinstance(found, Hold)
        return found

    def test_what_was_held_is_told_of_the_target_and_never_taken_back(self, moving: Any) -> None:
        moving.report("a", State.BASE).report("b", State.LIVE)
        assert self.hold(moving) is None
        kept = Hold(held=12, resent=0, doubled=0, dropped=0)
        sent = Hold(held=12, resent=12, doubled=1, dropped=0)
        fewer = Hold(held=3, resent=3, doubled=0, dropped=3, reason=HoldReason.TOO_MUCH)
        none = Hold(held=0, resent=0, doubled=0, dropped=0, reason=HoldReason.NO_RING)
        for told, expected in (
            *((self.kept(None), None), (self.kept(none), none), (self.kept(kept), kept)),
            *((self.kept(sent), sent), (self.kept(fewer), sent), (self.kept(kept), sent)),
            *((self.kept(None), sent), (None, sent)),
        ):
            moving.report("a", State.REDIRECTED, redirect=told)
            assert self.hold(moving) == expected
        moving.delete("a")
        moving.report("b", State.TIME_WAIT)
        assert self.hold(moving) == sent

    def test_a_loss_or_a_reason_that_is_known_later_is_told(self, moving: Any) -> None:
        moving.report("a", State.BASE).report("b", State.LIVE)
        sent = Hold(held=12, resent=9, doubled=0, dropped=0)
        lost = sent.model_copy(update={"dropped": 3})
        why = lost.model_copy(update={"reason": HoldReason.REFUSED})
        for told in (sent, lost, why):
            moving.report("a", State.REDIRECTED, redirect=self.kept(told))
            assert self.hold(moving) == told
        moving.report("a", State.REDIRECTED, redirect=self.kept(sent))
        assert self.hold(moving) == why

    def test_of_several_sources_the_one_that_held_most_is_told(
        self, moving: Any, endpoint: Build
    ) -> None:
        moving.apply(endpoint("c", workload="a", node="node-a", ips=(ADDRESS,)))
        moving.report("a", State.BASE).report("c", State.BASE).report("b", State.LIVE)
        most, least = (Hold(held=held, resent=held, doubled=0, dropped=0) for held in (12, 3))
        moving.report("a", State.REDIRECTED, redirect=self.kept(least))
        assert self.hold(moving) == least
        moving.report("c", State.REDIRECTED, redirect=self.kept(most))
        assert self.hold(moving) == most

    def test_what_another_migration_held_is_none_of_it(self, moving: Any) -> None:
        moving.report("a", State.BASE).report("b", State.LIVE)
        kept = Hold(held=12, resent=12, doubled=0, dropped=0)
        moving.report("a", State.REDIRECTED, redirect=self.kept(kept, uid="another"))
        assert self.hold(moving) is None
