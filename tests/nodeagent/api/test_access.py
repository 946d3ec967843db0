"""Where the API server is found, and the sentence when there is none."""

import base64
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_nodeagent.api import access
from handover_nodeagent.api.access import Access, Pem, Unconfigured

IN_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


def kubeconfig(
    directory: Path, cluster: Mapping[str, Any], user: Mapping[str, Any], name: str = "config"
) -> Path:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://api:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("ca")
    return tmp_path


def test_kubeconfig_goes_before_the_pods_service_account(pod: Path) -> None:
    path = kubeconfig(pod, {}, {"token": "mine"})
    found = access.find({**IN_POD, "KUBECONFIG": str(path)}, service_account=pod)
    assert found == Access("https://api:6443", token="mine")


@pytest.mark.parametrize(
    ("host", "url"),
    [("10.96.0.1", "https://10.96.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")],
)
def test_a_pod_has_a_service_account(pod: Path, host: str, url: str) -> None:
    environment = {**IN_POD, "KUBERNETES_SERVICE_HOST": host, "KUBECONFIG": ""}
    found = access.find(environment, service_account=pod)
    assert found == Access(url, authority=Pem(pod / "ca.crt"), token_file=pod / "token")


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_a_pod_without_a_service_account_says_so(pod: Path, missing: str) -> None:
    (pod / missing).unlink()
    with pytest.raises(Unconfigured, match=f"{missing}: the pod needs a service account"):
        access.find(IN_POD, service_account=pod)


def test_a_persons_own_kubeconfig_comes_last(tmp_path: Path) -> None:
    kubeconfig(tmp_path, {}, {"token": "mine"}, ".kube/config")
    assert access.find({}, home=tmp_path).token == "mine"


def test_without_anything_a_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unconfigured, match="set KUBECONFIG"):
        access.find({}, home=tmp_path)


def test_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    cluster = {"certificate-authority": "ca.pem", "tls-server-name": "kubernetes"}
    user = {"client-certificate": "c.pem", "client-key": "/k.pem", "tokenFile": "token"}
    path = kubeconfig(tmp_path, cluster, user)
    assert access.from_kubeconfig([path]) == Access(
        "https://api:6443",
        authority=Pem(tmp_path / "ca.pem"),
        certificate=Pem(tmp_path / "c.pem"),
        key=Pem(Path("/k.pem")),
        token_file=tmp_path / "token",
        server_name="kubernetes",
    )


def test_inlined_text_goes_before_a_path(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"pem").decode()
    cluster = {"certificate-authority-data": encoded, "certificate-authority": "ca.pem"}
    found = access.from_kubeconfig([kubeconfig(tmp_path, cluster, {})])
    assert found.authority == Pem(text=b"pem")
    with Pem(text=b"pem").as_path() as lent:
        assert Path(lent).read_bytes() == b"pem"


def test_of_several_files_the_first_that_names_a_thing_counts(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.write_text(yaml.safe_dump({"users": [{"name": "u", "user": {"token": "first"}}]}))
    second = kubeconfig(tmp_path, {}, {"token": "second"}, "second")
    missing = tmp_path / "missing"
    environment = {"KUBECONFIG": f"{missing}:{first}:{second}"}
    assert access.find(environment).token == "first"


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
def test_a_broken_kubeconfig_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(Unconfigured, match=sentence):
        access.from_kubeconfig([path])


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unconfigured, match=f"there is no file {tmp_path}/a:{tmp_path}/b"):
        access.find({"KUBECONFIG": f"{tmp_path}/a:{tmp_path}/b"})


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
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Unconfigured, match=sentence):
        access.from_kubeconfig([kubeconfig(tmp_path, cluster, user)])


def test_only_who_asks_for_it_does_without_verification() -> None:
    assert Access("https://x").tls().verify_mode is ssl.CERT_REQUIRED
    assert Access("https://x").tls().check_hostname
    assert Access("https://x", insecure=True).tls().verify_mode is ssl.CERT_NONE


def test_broken_certificates_are_an_os_error(tmp_path: Path) -> None:
    """Which is what the API server's edge expects of everything that a file may do."""
    broken = tmp_path / "ca.crt"
    broken.write_text("-----BEGIN NONSENSE-----")
    pem = Pem(broken)
    for found in (Access("https://x", authority=pem), Access("https://x", certificate=pem)):
        with pytest.raises(OSError):  # noqa: PT011  each OpenSSL words it differently
            found.tls()


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
