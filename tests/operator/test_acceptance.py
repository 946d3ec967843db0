"""HandoverConfigurations are checked as a whole, a node's over the default."""

import datetime as dt
from typing import Any

import pytest

from handover_operator import acceptance
from handover_operator.acceptance import Acceptance

NOW = dt.datetime(2026, 11, 24, 12, 0, 0, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("name", "spec", "default", "reason", "said"),
    [
        ("default", {}, {}, "Valid", ""),
        ("default", {"ipv4NormalRoutePriority": 9}, {}, "Invalid", "ipv4ElevatedRoutePriority"),
        ("default", {"probeInterval": "5ms"}, {}, "Invalid", "probeInterval"),
        ("node.a", {"probeInterval": "5ms"}, {}, "Invalid", "probeInterval"),
        ("node.a", {"mode": "observe"}, {"probeInterval": "1s"}, "Valid", ""),
        ("node.a", {"ipv6NormalRoutePriority": 9}, {}, "DefaultOnly", "spec.ipv6NormalRoute"),
        ("node.a", {"mode": "observe"}, {"mode": "wrong"}, "Valid", ""),
        ("nodes", {}, {}, "UnknownName", "metadata.name"),
    ],
)
def test_what_is_wrong_is_named(
    name: str, spec: dict[str, Any], default: dict[str, Any], reason: str, said: str
) -> None:
    accepted = acceptance.accept(name, spec, default)
    assert (accepted.reason, accepted.holds) == (reason, reason == "Valid")
    assert said in accepted.message


def test_all_wrong_fields_are_named_at_once() -> None:
    accepted = acceptance.accept("default", {"mode": "wrong", "routeProtocol": 4}, {})
    assert "spec.mode: " in accepted.message
    assert "spec.routeProtocol: " in accepted.message


def test_the_transition_time_moves_with_the_status_only() -> None:
    good, bad = Acceptance(holds=True, reason="Valid"), Acceptance(holds=False, reason="Invalid")
    later = NOW + dt.timedelta(seconds=3)
    first = acceptance.condition(good, None, 1, NOW)
    again = acceptance.condition(good, first, 2, later)
    assert first.last_transition_time == again.last_transition_time == NOW.replace(microsecond=0)
    assert again.observed_generation == 2
    changed = acceptance.condition(bad, again, 2, later)
    assert (changed.status, changed.last_transition_time) == ("False", later.replace(microsecond=0))
