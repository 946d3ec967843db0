"""Events are few: a notice waits once, is told once a minute, and the queue has an end."""

import datetime as dt

from handover_api.names import ObjectKey
from handover_nodeagent.status import kubernetes_events
from handover_nodeagent.status.kubernetes_events import Notice, Notices

NOW = dt.datetime(2026, 11, 24, 12, 0, 0, 250000, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


def build(message: str = "m", reason: str = "CutOver", *, warning: bool = False) -> Notice:
    return Notice(ObjectKey("ns", "ep"), "u", reason, message, warning)


def test_the_oldest_is_told_first() -> None:
    queue = Notices()
    for message in ("a", "b"):
        queue.add(build(message), NOW)
    assert [queue.take(NOW).notice.message for _ in range(2)] == ["a", "b"]
    assert not queue


def test_the_same_that_waits_already_is_counted() -> None:
    queue = Notices()
    for seconds in range(3):
        queue.add(build(), NOW + seconds * SECOND)
    waiting = queue.take(NOW)
    assert (waiting.count, waiting.first, waiting.last) == (3, NOW, NOW + 2 * SECOND)
    assert (len(queue), queue.coalesced) == (0, 2)


def test_the_same_is_not_told_again_within_a_minute() -> None:
    queue = Notices()
    queue.add(build(), NOW)
    queue.take(NOW)
    queue.add(build(), NOW + 59 * SECOND)
    assert (len(queue), queue.coalesced) == (0, 1)
    queue.add(build(), NOW + 60 * SECOND)
    assert len(queue) == 1


def test_what_differs_in_anything_is_told() -> None:
    queue = Notices()
    queue.add(build(), NOW)
    queue.take(NOW)
    for other in (build("other"), build(reason="Other"), build(warning=True)):
        queue.add(other, NOW)
    assert len(queue) == 3


def test_a_clock_that_is_set_back_silences_nobody() -> None:
    queue = Notices()
    queue.add(build(), NOW)
    queue.take(NOW)
    queue.add(build(), NOW - 3600 * SECOND)
    assert len(queue) == 1


def test_a_full_queue_loses_the_oldest_and_counts_it() -> None:
    queue = Notices(capacity=2)
    for message in "abc":
        queue.add(build(message), NOW)
    assert (len(queue), queue.dropped) == (2, 1)
    assert queue.take(NOW).notice.message == "b"


def test_what_could_not_be_told_stays_the_first_under_the_same_name() -> None:
    queue = Notices()
    for message in "ab":
        queue.add(build(message), NOW)
    waiting = queue.take(NOW)
    queue.restore(waiting)
    assert queue.take(NOW) == waiting


def test_what_could_not_be_told_and_was_lost_may_be_said_again() -> None:
    queue = Notices(capacity=1)
    queue.add(build("a"), NOW)
    waiting = queue.take(NOW)
    queue.add(build("b"), NOW)
    queue.restore(waiting)
    queue.add(build("a"), NOW)
    assert queue.take(NOW).notice.message == "a"


def test_what_was_told_is_forgotten_in_the_end() -> None:
    queue = Notices(capacity=2)
    for number in range(1000):
        queue.add(build(str(number)), NOW)
        queue.take(NOW)
    assert len(queue._told) <= 4


def test_an_event_has_the_shape_of_core_v1() -> None:
    queue = Notices()
    queue.add(build("x" * 2000, warning=True), NOW)
    event = kubernetes_events.body(queue.take(NOW), "node-a")
    assert event["metadata"]["name"].startswith("ep.")
    assert len(event["message"]) == 1024
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-11-24T12:00:00Z"
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "CutOver", 1)
    assert event["reportingComponent"] == "handover.dev/handover-nodeagent"
    assert event["reportingInstance"] == "node-a"
    assert event["involvedObject"] == {
        "apiVersion": "handover.dev/v1alpha1",
        "kind": "WorkloadEndpoint",
        "name": "ep",
        "namespace": "ns",
        "uid": "u",
    }


def test_the_name_of_an_event_is_one_whatever_the_endpoint_is_called() -> None:
    queue = Notices()
    queue.add(Notice(ObjectKey("ns", f"{'a' * 198}-.{'b' * 50}"), "u", "r", "m"), NOW)
    assert queue.take(NOW).name.startswith(f"{'a' * 198}.")
