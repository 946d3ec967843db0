"""The layers of the configuration: which one wins, which one is refused, and how it is said."""

from collections.abc import Mapping
from typing import Any

import pytest

from handover_api.configuration import Mode, Settings
from handover_nodeagent import configuration
from handover_nodeagent.configuration import Invalid, Layers

Spec = Mapping[str, Any]
BUILT_IN = Settings()


@pytest.mark.parametrize(
    ("default", "node", "environment", "expected"),
    [
        (None, None, {}, "200ms active"),
        ({}, {}, {}, "200ms active"),
        ({"probeInterval": "1s"}, None, {}, "1s active"),
        ({"probeInterval": "1s"}, {"probeInterval": "2s"}, {}, "2s active"),
        ({"probeInterval": "1s"}, {"probeInterval": "2s"}, {"probeInterval": "3s"}, "3s active"),
        ({"probeInterval": "1s"}, {"mode": "observe"}, {}, "1s observe"),
        ({"mode": "paused"}, {"probeInterval": "0"}, {"mode": "observe"}, "0 observe"),
        ({"newer": "unknown"}, None, {}, "200ms active"),
    ],
)
def test_the_nearest_layer_wins(
    default: Spec | None, node: Spec | None, environment: Spec, expected: str
) -> None:
    found = configuration.effective(default, node, environment)
    assert isinstance(found, Settings)
    written = found.to_object()
    assert f"{written['probeInterval']} {written['mode']}" == expected


def test_priorities_count_from_default_and_environment_only() -> None:
    """Routers compare them, so all nodes must agree; the environment is the owner's last word."""
    default = {"ipv4NormalRoutePriority": 2000}
    node: Spec = {"ipv4NormalRoutePriority": 7, "ipv6ElevatedRoutePriority": "x", "mode": "paused"}
    found = configuration.effective(default, node, {"ipv4ElevatedRoutePriority": "1500"})
    assert isinstance(found, Settings)
    assert found.ipv4_normal_route_priority == 2000
    assert found.ipv4_elevated_route_priority == 1500
    assert found.ipv6_elevated_route_priority == BUILT_IN.ipv6_elevated_route_priority
    assert found.mode is Mode.PAUSED


@pytest.mark.parametrize(
    ("default", "node", "environment", "layer", "sentence"),
    [
        ({"probeInterval": "5ms"}, None, {}, "default", "probeInterval must be 0 (off) or at"),
        ({"probeInterval": "soon"}, None, {}, "default", "probeInterval: 'soon' is not a dur"),
        ({"mode": "wrong"}, {"mode": "active"}, {}, "default", "mode: "),
        ({"ipv4NormalRoutePriority": 9}, None, {}, "default", "ipv4ElevatedRoutePriority must"),
        ({"allowedCIDRs": ["x"]}, None, {}, "default", "allowedCIDRs.0: "),
        ({}, {"routeProtocol": 12}, {}, "of this node", "routeProtocol must not be one"),
        ({}, {"targetTimeout": "-1s"}, {}, "of this node", "targetTimeout: '-1s' is not"),
        (
            {"ipv4NormalRoutePriority": 1000},
            {},
            {"ipv4ElevatedRoutePriority": "1000"},
            "environment",
            "ipv4ElevatedRoutePriority must be lower",
        ),
    ],
)
def test_what_is_invalid_is_refused_as_a_whole_and_named(
    default: Spec, node: Spec | None, environment: Spec, layer: str, sentence: str
) -> None:
    found = configuration.effective(default, node, environment)
    assert isinstance(found, Invalid)
    assert found.layer.endswith(layer)
    assert str(found).startswith(f"{found.layer}: {sentence}")


def test_every_field_has_a_variable() -> None:
    assert set(configuration.VARIABLES.values()) == set(BUILT_IN.to_object())
    assert configuration.VARIABLES["HANDOVER_PROBE_INTERVAL"] == "probeInterval"
    assert configuration.VARIABLES["HANDOVER_ALLOWED_CIDRS"] == "allowedCIDRs"
    named = configuration.VARIABLES["HANDOVER_LIVE_MIGRATION_ROUTE_CONVERGENCE_TIME"]
    assert named == "liveMigrationRouteConvergenceTime"


def test_the_environment_sets_what_it_names() -> None:
    environment = {
        "HANDOVER_ROUTE_PROTOCOL": "99",
        "HANDOVER_ALLOWED_CIDRS": "10.0.0.0/8, fd00::/8",
        "HANDOVER_MODE": "",
        "HANDOVER_NODE_NAME": "a",
        "PROBE_INTERVAL": "1s",
    }
    found = configuration.overrides(environment)
    assert found == {"routeProtocol": "99", "allowedCIDRs": ["10.0.0.0/8", "fd00::/8"]}
    settings = configuration.effective({"routeProtocol": 77}, None, found)
    assert isinstance(settings, Settings)
    assert settings.route_protocol == 99
    assert [str(network) for network in settings.allowed_cidrs] == ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("environment", "is_fine"),
    [
        ({}, True),
        ({"ipv4ElevatedRoutePriority": "5000"}, True),
        ({"ipv4NormalRoutePriority": "5"}, True),
        ({"ipv4ElevatedRoutePriority": "5", "ipv4NormalRoutePriority": "5"}, False),
        ({"routeProtocol": "12"}, False),
    ],
)
def test_only_what_nothing_could_make_right_is_a_complaint(
    environment: Spec,
    is_fine: bool,  # noqa: FBT001  a table's column
) -> None:
    assert (configuration.complaint(environment) is None) is is_fine


@pytest.mark.parametrize(
    ("annotations", "mode"),
    [
        ({"handover.dev/paused": "true"}, Mode.PAUSED),
        ({"handover.dev/paused": "since 3 a.m., ask Ada"}, Mode.PAUSED),
        ({"handover.dev/paused": ""}, Mode.PAUSED),
        ({"handover.dev/paused": "false"}, Mode.ACTIVE),
        ({}, Mode.ACTIVE),
    ],
)
def test_the_brake_goes_before_every_layer(annotations: dict[str, str], mode: Mode) -> None:
    default = configuration.layer({"mode": "observe"}, annotations)

    found = configuration.effective(default, {"mode": "observe"}, {"mode": "active"})

    assert isinstance(found, Settings)
    assert found.mode is mode


def test_the_brake_holds_beside_an_invalid_value() -> None:
    default = configuration.layer({"probeInterval": "1ms"}, {"handover.dev/paused": "true"})

    assert isinstance(configuration.effective(default, None, {}), Invalid)
    assert configuration.braked(BUILT_IN, default).mode is Mode.PAUSED
    assert configuration.braked(BUILT_IN, {"probeInterval": "1ms"}) == BUILT_IN


@pytest.mark.parametrize("annotations", [{}, {"handover.dev/paused": "true"}])
def test_a_layer_that_is_no_object_is_refused_as_any_other(annotations: dict[str, str]) -> None:
    odd, good = configuration.layer(None, annotations), {"mode": "observe"}
    for found in (configuration.effective(odd, None, {}), configuration.effective(odd, good, {})):
        assert str(found) == "HandoverConfiguration default: spec: is no object"
    of_node = configuration.effective(good, configuration.layer(None, {}), {})
    assert str(of_node) == "HandoverConfiguration of this node: spec: is no object"
    mode = Mode.PAUSED if annotations else Mode.ACTIVE
    assert configuration.braked(Settings(), odd).mode is mode


def test_the_layers_of_this_node_are_those_that_are_remembered() -> None:
    remembered = {"default": {"mode": "observe"}, "node.n": {"probeInterval": "2s"}}
    layers = Layers("n", {"probeInterval": "3s"}, remembered)
    settings, why = layers.effective(BUILT_IN)
    assert (settings.mode, settings.to_object()["probeInterval"], why) == ("observe", "3s", "")
    del layers.specs["default"]
    assert remembered["default"]
    assert layers.effective(BUILT_IN)[0].mode is Mode.ACTIVE


def test_where_the_newest_layers_are_refused_the_last_settings_stay_but_for_the_brake() -> None:
    last = Settings.model_validate({"probeInterval": "5s"})
    layers = Layers("n", {}, {"default": configuration.layer({"probeInterval": "1ms"}, {})})
    settings, why = layers.effective(last)
    assert settings == last
    assert why.startswith("HandoverConfiguration default: probeInterval must be ")
    layers.specs["default"] = configuration.layer(None, {"handover.dev/paused": "true"})
    assert layers.effective(last)[0] == last.model_copy(update={"mode": Mode.PAUSED})


@pytest.mark.parametrize(
    ("remembered", "applies", "expected"),
    [(None, True, True), (None, False, False), ({}, True, False), ({}, False, False)],
)
def test_only_a_node_without_a_memory_waits_for_the_default_that_somebody_applies(
    remembered: Mapping[str, Spec] | None, *, applies: bool, expected: bool
) -> None:
    layers = Layers("n", {}, remembered, somebody_applies_default=applies)
    assert (layers.needs_default, layers.are_remembered) == (expected, remembered is not None)
    assert layers.own == "node.n"
