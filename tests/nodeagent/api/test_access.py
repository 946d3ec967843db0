"""What a kubeconfig and a pod say of the API server, or the sentence that mends it."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_nodeagent.api import access
from handover_nodeagent.api.access import Access, Document, Pem, Unconfigured

FOLDER = Path("/home/somebody/.kube")


def kubeconfig(
    cluster: Mapping[str, Any], user: Mapping[str, Any], name: str = "config"
) -> Document:
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://api:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    return access.document(FOLDER / name, yaml.safe_dump(content).encode())


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443"),
        (
            {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"},
            "https://[fd00::1]:6443",
        ),
    ],
)
def test_a_pods_surroundings_name_the_service(environment: Mapping[str, str], url: str) -> None:
    assert access.of_service_account(environment, Path("/sa")) == Access(
        url, authority=Pem(Path("/sa/ca.crt")), token_file=Path("/sa/token")
    )


def test_paths_are_relative_to_their_file() -> None:
    cluster = {"certificate-authority": "ca.pem", "tls-server-name": "kubernetes"}
    user = {"client-certificate": "c.pem", "client-key": "/k.pem", "tokenFile": "token"}
    assert access.of_kubeconfig([kubeconfig(cluster, user)]) == Access(
        "https://api:6443",
        authority=Pem(FOLDER / "ca.pem"),
        certificate=Pem(FOLDER / "c.pem"),
        key=Pem(Path("/k.pem")),
        token_file=FOLDER / "token",
        server_name="kubernetes",
    )


def test_inlined_text_goes_before_a_path() -> None:
    encoded = base64.b64encode(b"pem").decode()
    cluster = {"certificate-authority-data": encoded, "certificate-authority": "ca.pem"}
    assert access.of_kubeconfig([kubeconfig(cluster, {})]).authority == Pem(text=b"pem")


def test_of_several_files_the_first_that_names_a_thing_counts() -> None:
    first = Document(FOLDER / "first", {"users": [{"name": "u", "user": {"token": "first"}}]})
    second = kubeconfig({}, {"token": "second"}, "second")
    assert access.of_kubeconfig([first, second]).token == "first"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no YAML .line 1"),
        ("- 1", "is no kubeconfig"),
        ("", "is no kubeconfig"),
        ("current-context: ''", "has no current-context"),
        ("current-context: c", "has no context 'c'"),
        ("{current-context: c, contexts: 7}", "has no context 'c'"),
        ("{current-context: c, contexts: [7, {name: c}]}", "has no cluster ''"),
        ("{current-context: c, contexts: [{name: c, context: 7}]}", "has no cluster ''"),
    ],
)
def test_a_broken_kubeconfig_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(Unconfigured, match=sentence):
        access.of_kubeconfig([access.document(FOLDER / "config", text.encode())])


def test_octets_that_are_no_text_are_no_kubeconfig() -> None:
    with pytest.raises(Unconfigured, match=r"config is no YAML$"):
        access.document(FOLDER / "config", b"\xff\xfe\xff")


@pytest.mark.parametrize(
    ("cluster", "user", "sentence"),
    [
        ({}, {"exec": {}}, "does not support 'exec'"),
        ({"proxy-url": "socks5://x"}, {}, "does not support 'proxy-url'"),
        ({"server": "api:6443"}, {}, "no usable server: 'api:6443'"),
        ({"certificate-authority-data": "%"}, {}, "certificate-authority-data is not base64"),
        ({"certificate-authority-data": 7}, {}, "certificate-authority-data is not base64"),
    ],
)
def test_what_the_agent_cannot_do_is_said(
    cluster: dict[str, Any], user: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Unconfigured, match=sentence):
        access.of_kubeconfig([kubeconfig(cluster, user)])


@pytest.mark.parametrize(
    ("url", "service", "expected"),
    [
        ("https://10.96.0.1:443", "", {"10.96.0.1"}),
        ("https://[fd00::1]:6443", "10.96.0.1", {"fd00::1", "10.96.0.1"}),
        ("https://api.example:6443", "fd00:96::1", {"fd00:96::1"}),
        ("https://api.example", "", set()),
    ],
)
def test_the_api_servers_addresses_are_known_as_far_as_they_are_written(
    url: str, service: str, expected: set[str]
) -> None:
    found = access.addresses(Access(url), {"KUBERNETES_SERVICE_HOST": service})
    assert {str(address) for address in found} == expected
