"""What the chart gives to Prometheus, Grafana and the network: valid, and of metrics that exist."""

import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from tests.chart.conftest import Manifest, Render

from handover_lab.chart import CHART

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"][0]["rules"]
EXPRESSIONS = {alert["alert"]: alert["expr"] for alert in ALERTS} | {
    panel["title"]: target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]
}
SAMPLES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_count", "_sum"),
    "gauge": ("",),
    "info": ("_info",),
}
BRACKETS = {")": "(", "]": "[", "}": "{"}


class Nobody:
    """What is known of an empty cluster."""

    def count(self, kind: object) -> int:  # noqa: ARG002  the protocol's form
        return 0

    def migrations(self) -> Iterator[Any]:
        return iter(())


def metrics() -> dict[str, set[str]]:
    """Return the samples that both programs can show, each with its labels."""
    agent = importlib.import_module("handover_nodeagent.metrics")
    operator = importlib.import_module("handover_operator.metrics")
    found = dict(declared(agent.REGISTRY)) | dict(declared(operator.REGISTRY))
    for family in operator._Census(Nobody()).collect():
        found |= dict(samples(family, {label for each in family.samples for label in each.labels}))
    return found


def declared(registry: CollectorRegistry) -> Iterator[tuple[str, set[str]]]:
    """Yield the samples of a registry, shown or not so far."""
    for collector in registry._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        for family in getattr(collector, "describe", collector.collect)():
            yield from samples(family, labels)


def samples(family: Metric, labels: set[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield the names under which Prometheus stores a metric."""
    for suffix in SAMPLES.get(family.type, ()):
        yield f"{family.name}{suffix}", labels | ({"le"} if suffix == "_bucket" else set())


def asked(expression: str) -> set[str]:
    """Return the metrics that an expression asks for."""
    return set(re.findall(r"\bhandover_\w+", expression))


def labels_of(expression: str) -> set[str]:
    """Return the labels that an expression matches or sums by."""
    matched = re.findall(r"(\w+)=~?\"", expression)
    summed = re.findall(r"\bby \(([^)]*)\)", expression)
    return {*matched, *(label.strip() for each in summed for label in each.split(","))}


def balanced(expression: str) -> bool:
    """Return whether every bracket has its partner."""
    stack: list[str] = []
    for letter in re.sub(r'"[^"]*"', "", expression):
        if letter in BRACKETS.values():
            stack.append(letter)
        elif letter in BRACKETS and (not stack or stack.pop() != BRACKETS[letter]):
            return False
    return not stack


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_asks_for_what_the_programs_show(name: str) -> None:
    expression, known = EXPRESSIONS[name], metrics()

    assert asked(expression)
    assert asked(expression) <= known.keys()
    # The PodMonitor adds the node.
    labels = {label for metric in asked(expression) for label in known[metric]} | {"node"}
    assert labels_of(expression) <= labels
    assert balanced(expression)


def test_a_metric_that_is_no_more_would_be_found() -> None:
    assert "handover_nodeagent_announcements" not in metrics()
    assert not balanced("sum(rate(x[5m])")


def test_every_alert_says_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"].endswith(".")


def test_an_alert_names_only_labels_that_its_expression_keeps() -> None:
    for alert in ALERTS:
        named = set(re.findall(r"\$labels\.(\w+)", json.dumps(alert["annotations"])))

        if " by (" in alert["expr"]:
            assert named <= labels_of(alert["expr"]), alert["alert"]


def test_no_panel_lies_on_another() -> None:
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def only(kind: str, manifests: list[Manifest]) -> Manifest:
    """Return the only object of a kind."""
    (found,) = (each for each in manifests if each["kind"] == kind)
    return found


def test_the_monitor_finds_the_pods_of_both_programs(
    render: Render, release: dict[str, Manifest]
) -> None:
    monitor = only("PodMonitor", render("podMonitor.enabled=true", "podMonitor.labels.for=me"))
    selector = monitor["spec"]["selector"]
    for name in ("Deployment/handover-operator", "DaemonSet/handover-nodeagent"):
        template = release[name]["spec"]["template"]
        (port,) = template["spec"]["containers"][0]["ports"]

        assert selector["matchLabels"].items() <= template["metadata"]["labels"].items()
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        assert component in selector["matchExpressions"][0]["values"]
        assert port["name"] == monitor["spec"]["podMetricsEndpoints"][0]["port"]
    assert monitor["metadata"]["labels"]["for"] == "me"


def test_the_alerts_reach_prometheus_as_they_are_written(render: Render) -> None:
    rule = only("PrometheusRule", render("prometheusRule.enabled=true"))

    assert rule["spec"]["groups"][0]["rules"] == ALERTS


def test_the_dashboard_reaches_grafana_as_it_is_written(render: Render) -> None:
    made = [
        each
        for each in render("grafanaDashboard.enabled=true")
        if each["metadata"]["name"] == "handover-dashboard"
    ]

    assert json.loads(made[0]["data"]["handover.json"]) == DASHBOARD
    assert made[0]["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_operator_can_be_bounded_to_the_api_server(
    render: Render, release: dict[str, Manifest]
) -> None:
    peer = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"
    spec = only("NetworkPolicy", render("networkPolicy.enabled=true", peer))["spec"]
    labels = release["Deployment/handover-operator"]["spec"]["template"]["metadata"]["labels"]

    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    assert spec["egress"] == [{"ports": [{"port": 443}, {"port": 6443}]}]
    assert spec["ingress"] == [
        {
            "ports": [{"port": "http"}],
            "from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        }
    ]


def test_nothing_of_it_is_installed_unasked(release: dict[str, Manifest]) -> None:
    kinds = {each["kind"] for each in release.values()}

    assert not kinds & {"PodMonitor", "PrometheusRule", "NetworkPolicy"}
