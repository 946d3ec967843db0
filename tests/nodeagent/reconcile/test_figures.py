"""The figures of a cutover grow with each answer, in whatever order they come."""

import dataclasses
import datetime as dt
from typing import Any, cast

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import Cutover, Signal
from handover_nodeagent.peers.clocks import Offset
from handover_nodeagent.peers.messages import Times
from handover_nodeagent.peers.sink import Acknowledgment
from handover_nodeagent.reconcile.figures import Figures

KEY = ObjectKey("default", "vm")
NOW = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
ANNOUNCED = 1_000_000_000
CUTOVER = Cutover(
    signal=Signal.RARP, announcement_to_route_microseconds=300, time=NOW, migration_uid="m1"
)


@dataclasses.dataclass
class Endpoint:
    """What the figures know of an endpoint."""

    key: ObjectKey = KEY
    cutover: Cutover | None = None


class World:
    """Figures of one endpoint, and what was told of them."""

    def __init__(self) -> None:
        self.endpoint = Endpoint()
        self.told: list[Cutover] = []
        endpoints = cast("Any", {KEY: self.endpoint})
        self.figures = Figures(endpoints, lambda _, before: self.told.append(before))

    def record(self) -> None:
        self.endpoint.cutover = CUTOVER
        self.figures.recorded(cast("Any", self.endpoint), ANNOUNCED)

    def answer(self, node: str, after_ns: int, *, is_bystanders: bool, uid: str = "m1") -> None:
        at = ANNOUNCED + after_ns
        times = Times(at - 400_000, at - 100_000)
        offset = None if is_bystanders else Offset(0, 1_000)
        ack = Acknowledgment(ANNOUNCED, at, times, offset, is_bystanders)
        self.figures.acknowledged(KEY, uid, node, ack)

    @property
    def measured(self) -> Cutover:
        assert self.endpoint.cutover
        return self.endpoint.cutover


def test_answers_before_the_machines_step_count_once_it_has_stepped() -> None:
    world = World()
    world.figures.asked(KEY, "m1", 3)
    world.answer("source", 900_000, is_bystanders=False)
    assert world.endpoint.cutover is None
    world.record()
    assert world.measured.announcement_to_redirect_microseconds == 800
    assert (world.measured.nodes_followed, world.measured.nodes_silent) == (1, 2)
    assert world.told == [CUTOVER]


def test_later_ones_add_to_it() -> None:
    world = World()
    world.figures.asked(KEY, "m1", 3)
    world.record()
    world.answer("c", 2_000_000, is_bystanders=True)
    world.answer("source", 900_000, is_bystanders=False)
    # Its first answer tells when it had followed; those after it are to repetitions.
    world.answer("c", 9_000_000, is_bystanders=True)
    assert world.measured.announcement_to_last_node_microseconds == 2_000
    assert (world.measured.nodes_followed, world.measured.nodes_silent) == (2, 1)
    assert world.measured.announcement_to_redirect_microseconds == 800


def test_of_another_migration_or_endpoint_nothing_is_measured() -> None:
    world = World()
    world.record()
    assert world.measured == CUTOVER
    world.figures.asked(KEY, "m2", 1)
    world.record()
    world.answer("source", 900_000, is_bystanders=False)
    world.figures.acknowledged(ObjectKey("default", "other"), "m1", "c", cast("Any", None))
    assert world.measured == CUTOVER
    world.figures.forget(KEY)
    world.answer("source", 900_000, is_bystanders=False, uid="m2")
    assert world.measured == CUTOVER
