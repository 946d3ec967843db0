"""HandoverConfigurations are checked as a whole, a node's over the default."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from handover_api.configuration import HandoverConfiguration, HandoverConfigurationStatus
from handover_api.model import Metadata
from handover_operator.status import configuration as acceptance
from handover_operator.status.configuration import Application

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


def configuration(
    name: str = "default", spec: Mapping[str, object] | None = None, **annotations: str
) -> HandoverConfiguration:
    """Return a configuration; an annotation is written without its group."""
    marks = {f"handover.dev/{key}": value for key, value in annotations.items()}
    metadata = Metadata(name=name, generation=1, annotations=marks)
    return HandoverConfiguration(metadata=metadata, spec=dict(spec or {}))


def said(status: HandoverConfigurationStatus) -> list[str]:
    """Return the conditions, shortly."""
    return [f"{each.type} {each.status} {each.reason}" for each in status.conditions]


def test_the_transition_time_moves_with_the_status_only() -> None:
    later = NOW + dt.timedelta(seconds=3)
    found = configuration()
    first = acceptance.status(found, found, None, None, NOW)
    again = configuration(spec={"probeInterval": "1s"}).model_copy(update={"status": first})
    same = acceptance.status(again, again, None, None, later)
    wrong = configuration(spec={"probeInterval": "1ms"}).model_copy(update={"status": first})
    changed = acceptance.status(wrong, wrong, None, None, later)

    assert same == first
    assert first.conditions[0].last_transition_time == NOW.replace(microsecond=0)
    assert said(changed) == ["Accepted False Invalid"]
    assert changed.conditions[0].last_transition_time == later.replace(microsecond=0)


def test_a_refused_apply_is_said_of_the_older_default_that_stays_in_force() -> None:
    found = configuration()
    refused = Application(refusal="spec.mode: no such mode")

    status = acceptance.status(found, found, refused, None, NOW)

    assert said(status) == ["Accepted True Valid", "Applied False Refused"]
    assert [each.message for each in acceptance.news(found.status, status)] == [refused.refusal]
    assert acceptance.news(status, status) == ()


def test_what_a_person_has_set_is_said_once_and_that_it_is_over() -> None:
    found = configuration(spec={"mode": "paused"})
    overridden = Application(overridden={"mode": 'conflict with "kubectl-edit"'})

    first = acceptance.status(found, found, overridden, None, NOW)
    over = found.model_copy(update={"status": first})
    last = acceptance.status(over, over, Application(), None, NOW)

    assert said(first)[1:] == ["Applied True Applied", "Overridden True SetElsewhere"]
    (news,) = acceptance.news(found.status, first)
    assert 'spec.mode (conflict with "kubectl-edit")' in news.message
    assert said(last)[1:] == ["Applied True Applied", "Overridden False AsGiven"]
    assert acceptance.news(first, last) == ()


def test_nothing_is_said_of_an_override_that_never_was() -> None:
    found = configuration()

    assert said(acceptance.status(found, found, Application(), None, NOW)) == [
        "Accepted True Valid",
        "Applied True Applied",
    ]


def test_only_the_default_is_applied() -> None:
    found = configuration("node.a")

    status = acceptance.status(found, configuration(), Application(refusal="no"), None, NOW)

    assert said(status) == ["Accepted True Valid"]


@pytest.mark.parametrize(
    ("found", "default", "mode"),
    [
        (configuration(), configuration(), "active"),
        (configuration("node.a"), configuration(spec={"mode": "observe"}), "observe"),
        (
            configuration("node.a", {"mode": "active"}),
            configuration(spec={"mode": "observe"}),
            "active",
        ),
        (configuration("node.a", {"mode": "active"}), configuration(paused=""), "paused"),
        (configuration("node.a"), configuration(paused="false"), "active"),
        (configuration("node.a"), None, "active"),
    ],
)
def test_the_mode_is_what_it_comes_to(
    found: HandoverConfiguration, default: HandoverConfiguration | None, mode: str
) -> None:
    assert acceptance.status(found, default, None, None, NOW).mode == mode


def test_the_default_says_which_namespaces_are_paused_once_that_is_known() -> None:
    found = configuration()

    unknown = acceptance.status(found, found, None, None, NOW)
    known = acceptance.status(found, found, None, frozenset({"b", "a"}), NOW)
    paused = found.model_copy(update={"status": known})
    node = acceptance.status(configuration("node.a"), found, None, frozenset({"a"}), NOW)

    assert "pausedNamespaces" not in unknown.to_object()
    assert known.to_object()["pausedNamespaces"] == ["a", "b"]
    assert acceptance.status(paused, paused, None, None, NOW) == known
    assert acceptance.status(paused, paused, None, frozenset(), NOW).paused_namespaces == ()
    assert node.paused_namespaces is None
