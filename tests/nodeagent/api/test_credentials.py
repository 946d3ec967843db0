"""Where the API server is found, the sentence when there is none, and what TLS goes by."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_nodeagent.api import credentials
from handover_nodeagent.api.access import Access, Pem, Unconfigured
from handover_nodeagent.api.credentials import TokenFile

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
    found = credentials.find({**IN_POD, "KUBECONFIG": str(path)}, service_account=pod)
    assert found == Access("https://api:6443", token="mine")


@pytest.mark.parametrize(
    ("host", "url"),
    [("10.96.0.1", "https://10.96.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")],
)
def test_a_pod_has_a_service_account(pod: Path, host: str, url: str) -> None:
    environment = {**IN_POD, "KUBERNETES_SERVICE_HOST": host, "KUBECONFIG": ""}
    found = credentials.find(environment, service_account=pod)
    assert found == Access(url, authority=Pem(pod / "ca.crt"), token_file=pod / "token")


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_a_pod_without_a_service_account_says_so(pod: Path, missing: str) -> None:
    (pod / missing).unlink()
    with pytest.raises(Unconfigured, match=f"{missing}: the pod needs a service account"):
        credentials.find(IN_POD, service_account=pod)


def test_a_persons_own_kubeconfig_comes_last(tmp_path: Path) -> None:
    kubeconfig(tmp_path, {}, {"token": "mine"}, ".kube/config")
    assert credentials.find({}, home=tmp_path).token == "mine"


def test_without_anything_a_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unconfigured, match="set KUBECONFIG"):
        credentials.find({}, home=tmp_path)


def test_of_several_files_the_first_that_names_a_thing_counts(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.write_text(yaml.safe_dump({"users": [{"name": "u", "user": {"token": "first"}}]}))
    second = kubeconfig(tmp_path, {}, {"token": "second"}, "second")
    missing = tmp_path / "missing"
    environment = {"KUBECONFIG": f"{missing}:{first}:{second}"}
    assert credentials.find(environment).token == "first"


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unconfigured, match=f"there is no file {tmp_path}/a:{tmp_path}/b"):
        credentials.find({"KUBECONFIG": f"{tmp_path}/a:{tmp_path}/b"})


def test_a_kubeconfig_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unconfigured, match=f"cannot read the kubeconfig {tmp_path}: Is a dir"):
        credentials.find({"KUBECONFIG": str(tmp_path)})


def test_text_is_lent_as_a_path() -> None:
    with credentials.lend(Pem(text=b"pem")) as lent:
        assert Path(lent).read_bytes() == b"pem"


def test_a_token_is_read_when_it_is_another_one_or_is_no_longer_believed(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    token = TokenFile(path)
    seen = [token.read()]
    path.unlink()
    path.write_text("the second\n")
    seen.append(token.read())
    token.forget()
    assert [*seen, token.read()] == ["first", "the second", "the second"]


def test_only_who_asks_for_it_does_without_verification() -> None:
    assert credentials.tls(Access("https://x")).verify_mode is ssl.CERT_REQUIRED
    assert credentials.tls(Access("https://x")).check_hostname
    assert credentials.tls(Access("https://x", insecure=True)).verify_mode is ssl.CERT_NONE


def test_broken_certificates_are_an_os_error(tmp_path: Path) -> None:
    """Which is what the API server's edge expects of everything that a file may do."""
    broken = tmp_path / "ca.crt"
    broken.write_text("-----BEGIN NONSENSE-----")
    pem = Pem(broken)
    for found in (Access("https://x", authority=pem), Access("https://x", certificate=pem)):
        with pytest.raises(OSError):  # noqa: PT011  each OpenSSL words it differently
            credentials.tls(found)
