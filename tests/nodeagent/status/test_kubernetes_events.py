"""Events are few: one waits once, is sent once a minute, and the queue has an end."""

import datetime as dt

from handover_api.names import ObjectKey
from handover_nodeagent.status import kubernetes_events
from handover_nodeagent.status.kubernetes_events import Event, Queue

NOW = dt.datetime(2026, 11, 24, 12, 0, 0, 250000, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


def build(message: str = "m", reason: str = "CutOver", *, warning: bool = False) -> Event:
    return Event(ObjectKey("ns", "ep"), "u", reason, message, warning)


def test_the_oldest_is_sent_first() -> None:
    queue = Queue()
    for message in ("a", "b"):
        queue.add(build(message), NOW)
    assert [queue.take(NOW).event.message for _ in range(2)] == ["a", "b"]
    assert not queue


def test_the_same_that_waits_already_is_counted() -> None:
    queue = Queue()
    for seconds in range(3):
        queue.add(build(), NOW + seconds * SECOND)
    pending = queue.take(NOW)
    assert (pending.count, pending.first, pending.last) == (3, NOW, NOW + 2 * SECOND)
    assert (len(queue), queue.coalesced) == (0, 2)


def test_the_same_is_not_sent_again_within_a_minute() -> None:
    queue = Queue()
    queue.add(build(), NOW)
    queue.take(NOW)
    queue.add(build(), NOW + 59 * SECOND)
    assert (len(queue), queue.coalesced) == (0, 1)
    queue.add(build(), NOW + 60 * SECOND)
    assert len(queue) == 1


def test_what_differs_in_anything_is_sent() -> None:
    queue = Queue()
    queue.add(build(), NOW)
    queue.take(NOW)
    for other in (build("other"), build(reason="Other"), build(warning=True)):
        queue.add(other, NOW)
    assert len(queue) == 3


def test_a_clock_that_is_set_back_silences_nobody() -> None:
    queue = Queue()
    queue.add(build(), NOW)
    queue.take(NOW)
    queue.add(build(), NOW - 3600 * SECOND)
    assert len(queue) == 1


def test_a_full_queue_loses_the_oldest_and_counts_it() -> None:
    queue = Queue(capacity=2)
    for message in "abc":
        queue.add(build(message), NOW)
    assert (len(queue), queue.dropped) == (2, 1)
    assert queue.take(NOW).event.message == "b"


def test_what_could_not_be_sent_stays_the_first_under_the_same_name() -> None:
    queue = Queue()
    for message in "ab":
        queue.add(build(message), NOW)
    pending = queue.take(NOW)
    queue.restore(pending)
    assert queue.take(NOW) == pending


def test_what_could_not_be_sent_and_was_lost_may_be_said_again() -> None:
    queue = Queue(capacity=1)
    queue.add(build("a"), NOW)
    pending = queue.take(NOW)
    queue.add(build("b"), NOW)
    queue.restore(pending)
    queue.add(build("a"), NOW)
    assert queue.take(NOW).event.message == "a"


def test_what_was_sent_is_forgotten_in_the_end() -> None:
    queue = Queue(capacity=2)
    for number in range(1000):
        queue.add(build(str(number)), NOW)
        queue.take(NOW)
    assert len(queue._sent) <= 4


def test_an_event_has_the_shape_of_core_v1() -> None:
    queue = Queue()
    queue.add(build("x" * 2000, warning=True), NOW)
    made = kubernetes_events.to_object(queue.take(NOW), "node-a")
    assert made["metadata"]["name"].startswith("ep.")
    assert len(made["message"]) == 1024
    assert made["firstTimestamp"] == made["lastTimestamp"] == "2026-11-24T12:00:00Z"
    assert (made["type"], made["reason"], made["count"]) == ("Warning", "CutOver", 1)
    assert made["reportingComponent"] == "handover.dev/handover-nodeagent"
    assert made["reportingInstance"] == "node-a"
    assert made["involvedObject"] == {
        "apiVersion": "handover.dev/v1alpha1",
        "kind": "WorkloadEndpoint",
        "name": "ep",
        "namespace": "ns",
        "uid": "u",
    }


def test_the_name_of_an_event_is_one_whatever_the_endpoint_is_called() -> None:
    queue = Queue()
    queue.add(Event(ObjectKey("ns", f"{'a' * 198}-.{'b' * 50}"), "u", "r", "m"), NOW)
    assert queue.take(NOW).name.startswith(f"{'a' * 198}.")
