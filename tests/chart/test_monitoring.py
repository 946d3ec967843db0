"""What the chart gives to Prometheus, Grafana and the network, as objects.

What alerts and dashboard ask for is in test_expressions.py.
"""

import datetime as dt
import json

import promql_parser
import yaml
from promql_parser import BinaryExpr, ParenExpr
from tests.chart.conftest import Manifest, Render

from handover_lab.docs.chart import CHART
from handover_operator.kinds import Kind
from handover_operator.kube.lease import Periods
from handover_operator.observability import metrics

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"][0]["rules"]


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


def test_that_nobody_leads_is_told_within_a_minute_also_where_there_is_no_sample() -> None:
    (alert,) = (each for each in ALERTS if each["alert"] == "HandoverNobodyLeads")
    comparison = promql_parser.parse(alert["expr"])
    assert isinstance(comparison, BinaryExpr)
    assert isinstance(comparison.lhs, ParenExpr)
    told = comparison.lhs.expr
    assert isinstance(told, BinaryExpr)

    assert (str(told.op), str(told.rhs.prettify())) == ("or", "vector(0)")
    assert (str(comparison.op), comparison.rhs.prettify()) == ("<", "1")
    assert promql_parser.parse_duration(alert["for"]) <= dt.timedelta(minutes=1)
    # No leader that died sets it off: another one leads before.
    assert promql_parser.parse_duration(alert["for"]) > dt.timedelta(seconds=Periods().duration * 2)


def test_a_leader_that_leaves_writes_to_others_is_told_unless_it_has_just_changed() -> None:
    (alert,) = (each for each in ALERTS if each["alert"] == "HandoverLeaderTooSlow")

    assert alert["expr"] == (
        "sum(increase(handover_operator_stood_in_total[15m]))"
        " > 10 * sum(increase(handover_operator_terms_total[15m]))"
    )


def test_the_first_write_for_a_slow_leader_is_an_increase() -> None:
    (family,) = metrics.STOOD_IN.collect()
    shown = {each.labels["kind"] for each in family.samples if each.name == f"{family.name}_total"}

    assert shown == {Kind.ENDPOINT.value, Kind.MIGRATION.value}


def test_the_first_guest_without_a_redirect_is_an_increase() -> None:
    (family,) = metrics.CUTOVERS.collect()
    shown = {each.labels["redirectable"] for each in family.samples}

    assert shown >= {"Ready", "NotReady", "AwaitingAgent", "Off", "none"}


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
