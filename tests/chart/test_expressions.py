"""The expressions of alerts and dashboard, parsed as Prometheus does: of samples that exist."""

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    MatrixSelector,
    ParenExpr,
    VectorSelector,
)

from handover_api.conditions import MigrationReason
from handover_api.livemigration import Phase
from handover_lab.docs.chart import CHART
from handover_lab.docs.pages import ROOT

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"][0]["rules"]
EXPRESSIONS = {alert["alert"]: alert["expr"] for alert in ALERTS} | {
    f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
SAMPLES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_count", "_sum"),
    "gauge": ("",),
    "info": ("_info",),
}
VALUES = {
    "phase": {each.value for each in Phase},
    "redirectable": {reason.value for reason in MigrationReason},
    "result": {
        value
        for path in (ROOT / "operator").rglob("*.py")
        for value in re.findall(r'WRITES\.labels\(.*"(\w+)"\)', path.read_text())
    },
}
"""What a label can be, as the code has it."""

COMPARISONS = {">", "<", ">=", "<=", "==", "!="}
OF_COUNTERS = {"rate", "increase", "irate"}


class Nobody:
    """What is known of an empty cluster."""

    def count(self, kind: object) -> int:  # noqa: ARG002  the protocol's form
        return 0

    def migrations(self) -> Iterator[Any]:
        return iter(())


@dataclass(frozen=True)
class Sample:
    """What Prometheus stores under one name."""

    grows: bool
    labels: frozenset[str]


def known() -> dict[str, Sample]:
    """Return the samples that both programs can show."""
    agent = importlib.import_module("handover_nodeagent.metrics")
    operator = importlib.import_module("handover_operator.observability.metrics")
    found = dict(declared(agent.REGISTRY)) | dict(declared(operator.REGISTRY))
    for family in operator._Census(Nobody()).collect():
        found |= dict(samples(family, {label for each in family.samples for label in each.labels}))
    return found


def declared(registry: CollectorRegistry) -> Iterator[tuple[str, Sample]]:
    """Yield the samples of a registry, shown or not so far."""
    for collector in registry._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        for family in getattr(collector, "describe", collector.collect)():
            yield from samples(family, labels)


def samples(family: Metric, labels: set[str]) -> Iterator[tuple[str, Sample]]:
    """Yield the names under which Prometheus stores a metric; the PodMonitor adds pod and node."""
    for suffix in SAMPLES.get(family.type, ()):
        bucket = {"le"} if suffix == "_bucket" else set()
        grows = family.type in {"counter", "histogram"}
        yield f"{family.name}{suffix}", Sample(grows, frozenset({*labels, *bucket, "pod", "node"}))


KNOWN = known()


def faults(text: str) -> Iterator[str]:
    """Yield what is wrong with an expression."""
    try:
        expression = promql_parser.parse(text)
    except ValueError as error:
        yield f"no PromQL: {error}"
        return
    parts: list[Expr] = []
    promql_parser.walk(expression, parts.append)
    selected = [part for part in parts if isinstance(part, VectorSelector)]
    unknown = [part.name for part in selected if part.name not in KNOWN]
    yield from (f"nobody shows {name}" for name in unknown)
    if not selected or unknown:
        return
    yield from (fault for part in selected for fault in of_matchers(part))
    yield from (fault for part in parts for fault in of_part(part))
    rated = [name for part in parts if is_call(part, OF_COUNTERS) for name in names(part)]
    growing = [name for name in names(expression) if KNOWN[name].grows]
    yield from (f"{name} is no counter" for name in rated if not KNOWN[name].grows)
    yield from (f"{name} only grows: take its rate" for name in growing if name not in rated)


def of_matchers(selector: VectorSelector) -> Iterator[str]:
    """Yield what no sample can match."""
    sample = KNOWN[str(selector.name)]
    for matcher in selector.matchers.matchers:
        if matcher.name not in sample.labels:
            yield f"{selector.name} has no label {matcher.name}"
        for value in set(matcher.value.split("|")) - VALUES.get(matcher.name, {matcher.value}):
            yield f"{matcher.name} is never {value}"


def of_part(part: Expr) -> Iterator[str]:
    """Yield what gets lost inside of an expression."""
    if isinstance(part, AggregateExpr):
        for label in sorted(kept(part) - labels(part.expr)):
            yield f"there is no label {label} to {part.op} by"
    elif is_call(part, {"histogram_quantile"}) and "le" not in labels(arguments(part)[1]):
        yield "a quantile needs the label le"


def is_call(part: Expr, functions: set[str]) -> bool:
    """Whether it calls one of these functions."""
    return isinstance(part, Call) and part.func.name in functions


def arguments(call: Expr) -> Sequence[Expr]:
    """Return what a function is called with."""
    assert isinstance(call, Call)
    return [each for each in call.args if isinstance(each, Expr)]


def names(part: Expr) -> list[str]:
    """Return the samples that a part asks for."""
    inner: list[Expr] = []
    promql_parser.walk(part, inner.append)
    return [str(each.name) for each in inner if isinstance(each, VectorSelector)]


def kept(part: AggregateExpr) -> set[str]:
    """Return the labels that an aggregation keeps."""
    if part.modifier is None:
        return set()
    assert part.modifier.type == AggModifierType.By
    return set(part.modifier.labels)


def labels(part: Expr) -> set[str]:
    """Return the labels of what comes out of a part."""
    match part:
        case VectorSelector():
            return set(KNOWN[str(part.name)].labels)
        case MatrixSelector(vector_selector=inner) | ParenExpr(expr=inner):
            return labels(inner)
        case AggregateExpr():
            return kept(part)
        case BinaryExpr():
            return labels(part.lhs) | labels(part.rhs)
        case Call():
            lost = {"le"} if is_call(part, {"histogram_quantile"}) else set()
            return {label for each in arguments(part) for label in labels(each)} - lost
    return set()


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_asks_for_what_the_programs_show(name: str) -> None:
    assert list(faults(EXPRESSIONS[name])) == []
    assert names(promql_parser.parse(EXPRESSIONS[name]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sum(rate(handover_operator_roles_total[5m])", "no PromQL: unclosed left parenthesis"),
        ("rate(handover_operator_leader)", "no PromQL: expected type matrix"),
        ("median(handover_operator_leader)", "no PromQL: unknown function"),
        ("handover_nodeagent_announcements", "nobody shows handover_nodeagent_announcements"),
        ('handover_operator_leader{zone="a"}', "handover_operator_leader has no label zone"),
        ('handover_operator_migrations{phase=~"Live|Over"}', "phase is never Over"),
        ("sum by (zone) (handover_operator_leader)", "there is no label zone to sum by"),
        ("rate(handover_operator_leader[5m])", "handover_operator_leader is no counter"),
        ("handover_operator_roles_total > 0", "handover_operator_roles_total only grows"),
        (
            "histogram_quantile(0.9, sum(rate(handover_operator_start_to_end_seconds_bucket[5m])))",
            "a quantile needs the label le",
        ),
    ],
)
def test_what_would_show_nothing_is_told(text: str, fault: str) -> None:
    (found,) = faults(text)

    assert found.startswith(fault)


def test_an_alert_is_a_comparison_that_lasts_a_while() -> None:
    for alert in ALERTS:
        expression = promql_parser.parse(alert["expr"])

        assert isinstance(expression, BinaryExpr)
        assert str(expression.op) in COMPARISONS
        assert promql_parser.parse_duration(alert.get("for", "1m"))
        assert set(alert) <= {"alert", "expr", "for", "labels", "annotations"}


def test_an_alert_names_only_labels_that_its_expression_keeps() -> None:
    for alert in ALERTS:
        text = json.dumps(alert["annotations"])
        named = set(re.findall(r"{{ \$labels\.(\w+) }}", text))

        assert named <= labels(promql_parser.parse(alert["expr"])), alert["alert"]
        assert text.count("{{") == len(re.findall(r"{{ \$(?:labels\.\w+|value) }}", text))


def test_a_legend_names_only_labels_that_its_expression_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"{{ ?(\w+) ?}}", target["legendFormat"]))
            expression = target["expr"].replace("$__rate_interval", "5m")

            assert named <= labels(promql_parser.parse(expression)), panel["title"]


def test_every_panel_asks_the_data_source_that_a_person_chooses() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    asked = [panel["datasource"] for panel in DASHBOARD["panels"]] + [
        target["datasource"] for panel in DASHBOARD["panels"] for target in panel["targets"]
    ]

    assert all(each == {"type": "prometheus", "uid": f"${{{variable['name']}}}"} for each in asked)


def test_every_alert_says_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"].endswith(".")
