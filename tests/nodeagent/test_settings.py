"""What the agent reads from its environment, and the sentence where that is wrong."""

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from handover_nodeagent import settings
from handover_nodeagent.settings import Misconfigured


@pytest.fixture(autouse=True)
def _nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("HANDOVER_"):
            monkeypatch.delenv(name)


def read(monkeypatch: pytest.MonkeyPatch, **environment: str) -> settings.AgentSettings:
    for name, value in environment.items():
        monkeypatch.setenv(f"HANDOVER_{name}", value)
    return settings.read()


def test_only_the_nodes_name_has_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, NODE_NAME="node-a", PORT="", LOG_FORMAT="")
    assert (found.node_name, found.port) == ("node-a", 8081)
    assert (found.listen_address, found.metrics_address) == ("127.0.0.1", "")
    assert found.state_directory == Path("/run/handover")
    assert (found.log_level, found.log_format, found.drain_seconds) == ("info", "json", 570.0)
    assert found.processor_priority == "normal"
    assert found.node_addresses == ()
    assert found.overrides == {}


def test_a_node_has_an_address_of_each_family(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, NODE_NAME="a", NODE_ADDRESSES="192.0.2.1, 2001:db8::1")
    assert found.node_addresses == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))


def test_the_fields_of_the_configuration_are_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, NODE_NAME="a", PROBE_INTERVAL="100ms", ALLOWED_CIDRS="10.0.0.0/8")
    monkeypatch.setenv("HANDOVER_MODE", "paused")
    assert found.overrides == {"probeInterval": "100ms", "allowedCIDRs": ["10.0.0.0/8"]}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "HANDOVER_NODE_NAME is not set: take it from the downward API"),
        ({"NODE_NAME": ""}, "HANDOVER_NODE_NAME is not set"),
        ({"NODE_NAME": "a", "NODE_ADDRESSES": "node-a"}, "HANDOVER_NODE_ADDRESSES: .*address"),
        ({"NODE_NAME": "a", "NODE_ADDRESSES": "::1"}, "HANDOVER_NODE_ADDRESSES: .*of a node"),
        ({"NODE_NAME": "a", "PORT": "99999"}, "HANDOVER_PORT: Input should be less than"),
        ({"NODE_NAME": "a", "PORT": "tcp://10.96.0.7:80"}, "HANDOVER_PORT: .*valid integer"),
        ({"NODE_NAME": "a", "LOG_LEVEL": "loud"}, "HANDOVER_LOG_LEVEL: Input should be 'debug'"),
        (
            {"NODE_NAME": "a", "PROCESSOR_PRIORITY": "highest"},
            "HANDOVER_PROCESSOR_PRIORITY: Input should be 'normal' or 'high'",
        ),
        ({"NODE_NAME": "a", "MODE": "wrong"}, "HANDOVER_MODE: Input should be 'active'"),
        ({"NODE_NAME": "a", "ALLOWED_CIDRS": "x"}, "HANDOVER_ALLOWED_CIDRS: "),
        (
            {"NODE_NAME": "a", "ADVERTISE": "agents", "IPV4_NORMAL_ROUTE_PRIORITY": "2"},
            "HANDOVER_ADVERTISE: advertise agents, the default, needs",
        ),
        ({"NODE_NAME": "a", "REDIRECT_PORT": "7474"}, "HANDOVER_REDIRECT_PORT: redirectPort must"),
        (
            {"NODE_NAME": "a", "PROBE_INTERVAL": "5ms"},
            "HANDOVER_PROBE_INTERVAL: probeInterval must be 0",
        ),
        (
            {
                "NODE_NAME": "a",
                "IPV6_ELEVATED_ROUTE_PRIORITY": "9",
                "IPV6_NORMAL_ROUTE_PRIORITY": "9",
            },
            "HANDOVER_IPV6_ELEVATED_ROUTE_PRIORITY: ipv6ElevatedRoutePriority must be lower",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(Misconfigured, match=sentence):
        read(monkeypatch, **environment)
