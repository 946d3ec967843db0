"""The configuration among the chart's values: refused where the API server would refuse it.

What is refused later only, is in force nowhere, and whoever installs the chart is not there to see.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.api.test_configuration_rules import ACCEPTED, REFUSED

from handover_api.configuration import Settings
from handover_api.model import parse_duration
from handover_lab.docs import chart, chart_rules
from handover_lab.docs.chart import CHART
from handover_lab.docs.chart_rules import UntranslatedError

Run = Callable[..., subprocess.CompletedProcess[str]]

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())["properties"][
    "configuration"
]
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
LEFT = sorted(case for case, (spec, *_) in REFUSED.items() if VALIDATOR.is_valid(spec))
"""What only a template can refuse."""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("probeInterval", "1ms"),
        ("probeInterval", "0.0199s"),
        ("routeProtocol", 12),
        ("liveMigrationRouteConvergenceTime", "forever"),
        ("liveMigrationRouteConvergenceTime", "3601s"),
        ("targetTimeout", "0s"),
        ("allowedCIDRs", ["hello"]),
        ("allowedCIDRs", ["10.0.0.0/33"]),
        ("allowedCIDRs", ["fd00::/129"]),
        ("ipv4ElevatedRoutePriority", 0),
        ("gateways", [f"10.0.{n}.1" for n in range(65)]),
    ],
)
def test_the_schema_refuses_it(field: str, value: object) -> None:
    (error, *_) = VALIDATOR.iter_errors({field: value})

    assert error.path[0] == field


TOLD = {
    case: sentence
    for case, (spec, _, sentence) in REFUSED.items()
    if case not in LEFT and sentence.startswith("spec.")
}
"""What a rule of the kind refuses, and the schema does, too."""


@pytest.mark.parametrize("case", TOLD)
def test_the_schema_refuses_in_the_words_of_the_kind(case: str) -> None:
    spec, *_ = REFUSED[case]
    (error,) = VALIDATOR.iter_errors(spec)

    assert error.validator == "const"
    assert TOLD[case].endswith(str(error.validator_value).removeprefix("not "))


def test_those_words_are_no_value() -> None:
    for case in TOLD:
        spec, *_ = REFUSED[case]
        (error,) = VALIDATOR.iter_errors(spec)
        field = str(error.path[0])
        words = [error.validator_value] if isinstance(spec[field], list) else error.validator_value

        assert not VALIDATOR.is_valid({field: words}), case


@pytest.mark.parametrize(
    ("setting", "field", "sentence"),
    [
        ("probeInterval=1ms", "probeInterval", "0 (off) or a duration such as 200ms, at least"),
        ("routeProtocol=12", "routeProtocol", "not one that BIRD (12) or FRR (11, 186..197) uses"),
        ("gateways={x}", "gateways/0", "IPv4 or IPv6 addresses such as 10.0.0.1 or fd00::1"),
        ("targetTimeout=0s", "targetTimeout", "a duration such as 10m, above 0"),
    ],
)
def test_helm_names_field_and_rule_in_one_line(
    helm: Run, setting: str, field: str, sentence: str
) -> None:
    both = ("--set", f"configuration.{setting}", "--set", "configuration.mode=observe")
    done = helm("template", "handover", CHART, *both)

    assert done.returncode != 0
    assert f"- at '/configuration/{field}': value must be '{sentence}" in done.stderr
    assert "failed" not in done.stderr


def test_the_schema_leaves_to_the_templates_only_what_it_cannot_say() -> None:
    kinds = (
        *("priorities", "elevated as", "normal as", "1h1us", "999999h999999h", "bits after"),
        *("same ports", "with agents"),
    )

    assert [case for case in LEFT if not any(kind in case for kind in kinds)] == []


@pytest.mark.parametrize("name", ["advertise", "sourceRedirect"])
def test_the_templates_know_the_built_in_default(name: str) -> None:
    templates = (CHART / "templates" / "_configuration.tpl").read_text()

    default = Settings().to_object()[name]
    assert f'.Values.configuration.{name} | default "{default}" }}}}' in templates


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED)
def test_the_schema_takes_what_the_api_server_takes(spec: dict[str, Any]) -> None:
    VALIDATOR.validate(spec)


@pytest.mark.parametrize("verb", [("template", "handover"), ("lint",)], ids=["template", "lint"])
@pytest.mark.parametrize("case", LEFT)
def test_a_template_refuses_the_rest_in_the_words_of_the_kind(
    helm: Run, tmp_path: Path, verb: tuple[str, ...], case: str
) -> None:
    spec, _, sentence = REFUSED[case]
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"configuration": spec}))

    done = helm(*verb, CHART, "--values", values)

    assert done.returncode != 0
    assert sentence in done.stderr + done.stdout


def test_the_templates_take_what_the_api_server_takes(helm: Run, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    for case, spec in ACCEPTED.items():
        values.write_text(yaml.safe_dump({"configuration": spec}))

        done = helm("template", "handover", CHART, "--values", values)

        assert done.returncode == 0, f"{case}: {done.stderr}"


@pytest.mark.parametrize(
    "networks",
    [
        ["10.0.0.0/8", "192.168.7.9/32", "0.0.0.0/0", "172.16.0.0/12", "10.2.0.0/15"],
        ["fd00::/8", "::/0", "fe80::1/128", "2001:db8::/33", "2001:DB8:0:8000::/49"],
        ["1:2:3:4:5:6:7:8/128", "2001:db8::8:800:200c:0/112"],
    ],
)
def test_networks_are_taken(helm: Run, tmp_path: Path, networks: list[str]) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"configuration": {"allowedCIDRs": networks}}))

    done = helm("template", "handover", CHART, "--values", values)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "network",
    ["10.0.0.1/31", "10.128.0.0/8", "172.16.0.0/11", "2001:db8::/28", "fd00::1/127", "::1/0"],
)
def test_a_network_with_bits_after_its_prefix_is_named(
    helm: Run, tmp_path: Path, network: str
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"configuration": {"allowedCIDRs": [network]}}))

    done = helm("template", "handover", CHART, "--values", values)

    assert done.returncode != 0
    assert f"no bits set after the prefix: {network} has some" in done.stderr


@given(st.integers(0, 999_999), st.integers(0, 999), st.sampled_from(["h", "m", "s", "ms"]))
def test_of_a_duration_with_one_part_the_schema_knows_all(
    whole: int, thousandths: int, unit: str
) -> None:
    text = f"{whole}.{thousandths:03}{unit}" if thousandths else f"{whole}{unit}"
    seconds = parse_duration(text).total_seconds()

    taken = {
        "probeInterval": seconds == 0 or seconds >= 0.02,
        "liveMigrationRouteConvergenceTime": 0 < seconds <= 3600,
        "targetTimeout": seconds > 0,
    }
    assert {field: VALIDATOR.is_valid({field: text}) for field in taken} == taken


@given(st.integers(1, 99_999), st.integers(0, 999_999))
def test_numbers_are_told_apart_by_a_bound(bound: int, number: int) -> None:
    below = jsonschema.Draft7Validator({"pattern": f"^({chart_rules.less(bound)})$"})
    above = jsonschema.Draft7Validator({"pattern": f"^({chart_rules.more(bound)})$"})

    assert below.is_valid(str(number)) == (number < bound)
    assert above.is_valid(str(number)) == (number > bound)


def test_a_rule_that_nobody_has_translated_is_refused() -> None:
    field = {"type": "string", "x-kubernetes-validations": [{"rule": "self != 'x'"}]}

    with pytest.raises(UntranslatedError, match="self != 'x'"):
        chart.plain(field)
