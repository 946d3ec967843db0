"""The YAML that the API server enforces and the frozen types that the programs read agree."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pydantic
import pytest
import yaml

from handover_api import names
from handover_api.conditions import (
    ConfigurationCondition,
    EndpointCondition,
    MigrationCondition,
    MigrationReason,
)
from handover_api.configuration import HandoverConfiguration, Settings
from handover_api.livemigration import LiveMigration
from handover_api.model import Model
from handover_api.workloadendpoint import WorkloadEndpoint

Schema = Mapping[str, Any]

CRDS: Final = Path(__file__).parents[2] / "crds"
CRD: Final = {
    crd["spec"]["names"]["plural"]: crd
    for path in sorted(CRDS.glob("*.yaml"))
    for crd in yaml.safe_load_all(path.read_text())
}
MODELS: Final[Mapping[str, type[Model]]] = {
    names.LIVE_MIGRATIONS: LiveMigration,
    names.WORKLOAD_ENDPOINTS: WorkloadEndpoint,
    names.CONFIGURATIONS: HandoverConfiguration,
}
CONDITIONS: Final = {
    names.LIVE_MIGRATIONS: MigrationCondition,
    names.WORKLOAD_ENDPOINTS: EndpointCondition,
    names.CONFIGURATIONS: ConfigurationCondition,
}
DEFAULT_OF: Final = re.compile(r"Default: (.+?)(?: \(\w+\))?\.$")


def schema_of(plural: str) -> Schema:
    """Return the schema of a kind."""
    [version] = CRD[plural]["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    assert isinstance(schema, dict)
    return schema


def model_schema(model: type[pydantic.BaseModel]) -> Schema:
    """Return the JSON schema of a type, references and optional unions resolved."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Schema) -> Schema:
        """Return one node as the YAML would spell it."""
        if "$ref" in node:
            node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
        given = [resolve(each) for each in node.get("anyOf", ()) if each.get("type") != "null"]
        if given:
            # IPv4 or IPv6: both are strings to the YAML; isIP tells the rest.
            [kind] = {each["type"] for each in given}
            node = {**given[0], **node, "type": kind}
        resolved = dict(node)
        if "properties" in node:
            resolved["properties"] = {
                name: resolve(each) for name, each in node["properties"].items()
            }
        for name in ("items", "additionalProperties"):
            if isinstance(node.get(name), dict):
                resolved[name] = resolve(node[name])
        return resolved

    return resolve(schema)


def types_of(plural: str) -> Schema:
    """Return what the frozen types say of spec and status of a kind."""
    properties = dict(model_schema(MODELS[plural])["properties"])
    del properties["metadata"]
    if plural == names.CONFIGURATIONS:
        properties["spec"] = model_schema(Settings)
    if plural == names.LIVE_MIGRATIONS:
        # One type serves both kinds; a migration need not repeat its own uid.
        for side in ("source", "target"):
            cutover = properties["status"]["properties"][side]["items"]["properties"]["cutover"]
            del cutover["properties"]["migrationUID"]
    return {"type": "object", "properties": properties}


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Walk all values of a schema with their paths: ``.spec.ips``, ``.spec.ips[]``."""
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from fields(each, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from fields(schema["additionalProperties"], f"{path}{{}}")


def yaml_fields(plural: str) -> dict[str, Schema]:
    """Return the fields of spec and status in the YAML."""
    return {
        path: each
        for path, each in fields(schema_of(plural))
        if path.startswith((".spec", ".status"))
    }


def type_fields(plural: str) -> dict[str, Schema]:
    """Return the fields of spec and status in the types."""
    return {path: each for path, each in fields(types_of(plural)) if path}


kinds = pytest.mark.parametrize("plural", MODELS)


def test_each_kind_has_one_file_of_its_name() -> None:
    assert {path.stem for path in CRDS.glob("*.yaml")} == set(MODELS) == set(CRD)


@kinds
def test_the_names_are_those_of_the_contract(plural: str) -> None:
    spec = CRD[plural]["spec"]
    assert CRD[plural]["metadata"]["name"] == f"{plural}.{names.GROUP}"
    assert spec["group"] == names.GROUP
    assert [version["name"] for version in spec["versions"]] == [names.VERSION]
    assert spec["names"]["kind"] == MODELS[plural].__name__


@kinds
def test_every_field_is_in_both(plural: str) -> None:
    in_yaml, in_types = yaml_fields(plural), type_fields(plural)
    assert sorted(in_yaml) == sorted(in_types)


@kinds
def test_every_name_is_in_camel_case(plural: str) -> None:
    for path in yaml_fields(plural):
        name = path.rpartition(".")[2].rstrip("[]{}")
        assert re.fullmatch(r"[a-z]+[0-9]?([A-Z][a-z]+|[A-Z]+s?)*", name), path


@kinds
@pytest.mark.parametrize("aspect", ["type", "enum", "required"])
def test_types_enums_and_requirements_are_equal(plural: str, aspect: str) -> None:
    def of(found: Mapping[str, Schema]) -> dict[str, object]:
        aspects = {path: each.get(aspect) for path, each in found.items()}
        return {
            path: sorted(value) if isinstance(value, list) else value
            for path, value in aspects.items()
        }

    in_yaml, in_types = of(yaml_fields(plural)), of(type_fields(plural))
    if aspect == "enum":
        # What is written into a status must not bind who reads it: see below.
        in_types = {
            path: None if path.startswith(".status") else value for path, value in in_types.items()
        }
        # A condition's status is a plain string to the types, as everywhere in Kubernetes.
        in_types[".status.conditions[].status"] = ["False", "True", "Unknown"]
    assert in_yaml == in_types


@kinds
def test_a_status_takes_what_another_version_may_say(plural: str) -> None:
    bound = [path for path, each in yaml_fields(plural).items() if "enum" in each]

    assert [path for path in bound if path.startswith(".status")] == [".status.conditions[].status"]


@kinds
def test_times_are_times_in_both(plural: str) -> None:
    def times(found: Mapping[str, Schema]) -> set[str]:
        return {path for path, each in found.items() if each.get("format") == "date-time"}

    assert times(yaml_fields(plural)) == times(type_fields(plural))


@kinds
def test_a_bound_of_a_type_is_a_bound_of_the_yaml(plural: str) -> None:
    in_yaml = yaml_fields(plural)
    for path, each in type_fields(plural).items():
        for bound in ("minimum", "maximum", "minLength", "maxLength"):
            if bound in each:
                assert (path, bound, in_yaml[path].get(bound)) == (path, bound, each[bound])


@pytest.mark.parametrize("plural", [names.LIVE_MIGRATIONS, names.WORKLOAD_ENDPOINTS])
def test_what_is_absent_means_the_same_to_both(plural: str) -> None:
    def defaults(found: Mapping[str, Schema]) -> dict[str, object]:
        """Return what is filled in; nothing, zero and empty are the same."""
        return {
            path: each["default"]
            for path, each in found.items()
            if "properties" not in each and each.get("default")
        }

    assert defaults(yaml_fields(plural)) == defaults(type_fields(plural))


def test_the_schema_fills_no_setting_in() -> None:
    assert not [
        path for path, each in yaml_fields(names.CONFIGURATIONS).items() if "default" in each
    ]


@pytest.mark.parametrize("name", types_of(names.CONFIGURATIONS)["properties"]["spec"]["properties"])
def test_a_setting_is_described_with_its_built_in_default(name: str) -> None:
    value = Settings().to_object()[name]
    text = " and ".join(value) or "none" if isinstance(value, list) else str(value)
    described = DEFAULT_OF.search(yaml_fields(names.CONFIGURATIONS)[f".spec.{name}"]["description"])
    assert described is not None
    assert described[1] == text


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_order_of_priorities_counts_with_the_built_in_defaults(family: str) -> None:
    settings = Settings().to_object()
    elevated, normal = f"{family}ElevatedRoutePriority", f"{family}NormalRoutePriority"
    rules = [
        each["rule"].split()
        for each in yaml_fields(names.CONFIGURATIONS)[".spec"]["x-kubernetes-validations"]
    ]
    assert [
        f"self.?{elevated}.orValue({settings[elevated]})",
        "<",
        f"self.?{normal}.orValue({settings[normal]})",
    ] in rules


def test_rules_count_with_the_built_in_defaults() -> None:
    settings = Settings().to_object()
    rules = " ".join(
        each["rule"]
        for each in yaml_fields(names.CONFIGURATIONS)[".spec"]["x-kubernetes-validations"]
    )
    found = dict(re.findall(r"self\.\?(\w+)\.orValue\('?(\w+)'?\)", rules))

    assert found.keys() > {"advertise", "redirectPort", "peerPort"}
    assert found == {name: str(settings[name]) for name in found}


@kinds
def test_every_field_is_described_in_sentences(plural: str) -> None:
    for path, each in fields(schema_of(plural)):
        assert re.fullmatch(r"[A-Za-z].{2,}\.", each.get("description", "")), path


@kinds
def test_a_kind_has_a_status_of_its_own_and_the_category(plural: str) -> None:
    spec = CRD[plural]["spec"]
    [version] = spec["versions"]
    assert version["served"]
    assert version["storage"]
    assert version["subresources"] == {"status": {}}
    assert spec["names"]["categories"] == ["handover"]


@kinds
def test_a_rule_s_sentence_names_the_field(plural: str) -> None:
    for path, each in fields(schema_of(plural)):
        for rule in each.get("x-kubernetes-validations", ()):
            field = (path + rule.get("fieldPath", "")).lstrip(".").removesuffix("[]")
            field = re.sub(r"\[\].*|{}", "", field)
            assert rule["message"].startswith(field or "metadata.name"), path


@kinds
def test_a_rule_sees_nothing_without_bounds(plural: str) -> None:
    bounds = {"string": {"maxLength", "enum"}, "array": {"maxItems"}}
    for path, each in fields(schema_of(plural)["properties"]["spec"], ".spec"):
        if each["type"] in bounds:
            assert bounds[each["type"]] & each.keys(), path
        if "additionalProperties" in each:
            assert "maxProperties" in each, path


@kinds
def test_every_condition_is_legal_and_described(plural: str) -> None:
    found = yaml_fields(plural)
    item = found[".status.conditions[]"]["properties"]
    for condition in CONDITIONS[plural]:
        assert re.fullmatch(item["type"]["pattern"], condition)
        assert condition in found[".status.conditions"]["description"]
    for reason in MigrationReason:
        assert re.fullmatch(item["reason"]["pattern"], reason)


def test_conditions_are_the_same_in_every_kind() -> None:
    first, *others = [yaml_fields(plural)[".status.conditions[]"] for plural in MODELS]
    assert others == [first, first]


def test_the_agents_can_watch_by_node_and_by_what_concerns_all_nodes() -> None:
    [version] = CRD[names.WORKLOAD_ENDPOINTS]["spec"]["versions"]
    assert version["selectableFields"] == [
        {"jsonPath": ".spec.node"},
        {"jsonPath": ".status.advertised"},
    ]
