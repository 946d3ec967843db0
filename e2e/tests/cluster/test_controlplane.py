"""Real control planes: who may do what, who is believed, and how each part ends."""

import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from handover_lab.cluster import certificates, controlplane
from handover_lab.cluster.certificates import Authority
from handover_lab.cluster.controlplane import ControlPlane, Shape
from handover_lab.processes import daemon
from handover_lab.processes.daemon import Daemon, DaemonError, PortTakenError
from handover_lab.toolchain import tools
from handover_lab.toolchain.tools import ToolsError

pytestmark = pytest.mark.api

PATIENCE = 30


def kubectl(kubeconfig: Path, *argv: str, manifest: object = None) -> str:
    """Run kubectl and return what it prints, complaints too."""
    done = subprocess.run(
        [str(tools.locate("kubectl")), f"--kubeconfig={kubeconfig}", *argv],
        check=False,
        input=yaml.safe_dump(manifest),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=daemon.environment(),
    )
    return done.stdout.strip()


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def processes_in(directory: Path) -> list[int]:
    """List the processes that work in *directory*, as all parts do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == directory:
                found.append(int(process.name))
    return found


@contextmanager
def plane(directory: Path, **choices: Any) -> Iterator[ControlPlane]:
    """Start one of our own, and end it."""
    it = ControlPlane.start(directory, **choices)
    try:
        yield it
    finally:
        it.stop()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start one that may be broken: every test leaves it whole."""
    with plane(tmp_path_factory.mktemp("own")) as it:
        yield it


def test_the_admin_may_do_everything(api_server: ControlPlane) -> None:
    assert kubectl(api_server.kubeconfig, "auth", "can-i", "*", "*", "-A") == "yes"


def test_the_default_namespace_is_there_at_once(api_server: ControlPlane) -> None:
    assert "default" in kubectl(api_server.kubeconfig, "get", "namespaces", "-o", "name")


def test_a_pod_can_be_made_without_controllers(api_server: ControlPlane) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "lonely"},
        "spec": {"containers": [{"name": "one", "image": "none"}]},
    }
    made = kubectl(api_server.kubeconfig, "create", "--filename=-", manifest=pod)
    assert made == "pod/lonely created"
    delete = ("delete", "pod/lonely", "--now")
    assert "deleted" in kubectl(api_server.kubeconfig, *delete)


def test_credentials_are_those_of_the_user_and_the_groups(api_server: ControlPlane) -> None:
    user = api_server.credentials("some/one+else, or \\ other", "group:a", "b/c")
    who = yaml.safe_load(kubectl(user, "auth", "whoami", "--output=yaml"))["status"]["userInfo"]
    assert who["username"] == "some/one+else, or \\ other"
    assert who["groups"] == ["group:a", "b/c", "system:authenticated"]
    assert api_server.credentials("some/one+else, or \\ other", "group:a", "b/c") == user
    assert api_server.credentials("some/one+else, or \\ other", "group:a") != user


def test_a_user_without_a_role_may_do_nothing(api_server: ControlPlane) -> None:
    answer = kubectl(api_server.credentials("nobody"), "get", "pods")
    assert 'User "nobody" cannot list resource "pods"' in answer


def test_a_node_may_write_itself_and_no_other(api_server: ControlPlane) -> None:
    kubelet = api_server.credentials("system:node:node-x", "system:nodes")
    create = ("create", "--filename=-")
    assert kubectl(kubelet, *create, manifest=node("node-x")) == "node/node-x created"
    assert "is not allowed to modify node" in kubectl(kubelet, *create, manifest=node("node-y"))
    kubectl(api_server.kubeconfig, "delete", "node/node-x")


def test_credentials_are_their_owner_s_alone(api_server: ControlPlane) -> None:
    files = [file for file in api_server.shape.directory.glob("*.k*") if file.is_file()]
    assert {".key", ".kubeconfig"} == {file.suffix for file in files}
    assert {0o600} == {file.stat().st_mode & 0o777 for file in files}


def test_a_kubeconfig_verifies_whom_it_talks_to(api_server: ControlPlane, tmp_path: Path) -> None:
    text = yaml.safe_load(api_server.kubeconfig.read_text())
    assert "insecure-skip-tls-verify" not in text["clusters"][0]["cluster"]
    other = Authority.make(tmp_path).pair.certificate
    text["clusters"][0]["cluster"]["certificate-authority"] = str(other)
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(text))
    assert "certificate signed by unknown authority" in kubectl(
        tmp_path / "kubeconfig", "get", "ns"
    )


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "localhost", "10.96.0.1", "kubernetes.default.svc", "kubernetes"]
)
def test_the_serving_certificate_is_good_for_every_way_to_it(
    api_server: ControlPlane, name: str
) -> None:
    context = ssl.create_default_context(cafile=api_server.ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    with (
        socket.create_connection(("127.0.0.1", api_server.shape.port)) as raw,
        context.wrap_socket(raw, server_hostname=name) as secure,
    ):
        assert secure.getpeercert()


def test_the_certificate_has_the_address_that_clients_use(tmp_path: Path) -> None:
    shape = Shape(tmp_path, "172.30.0.1", "0.0.0.0", 443, "10.97.0.0/24", controllers=True)
    assert shape.url == "https://172.30.0.1:443"
    assert {"172.30.0.1", "127.0.0.1", "10.97.0.1", "kubernetes.default.svc"} <= set(shape.hosts)


def test_etcd_listens_on_no_port(own: ControlPlane) -> None:
    sockets = [path.name for path in own.shape.directory.iterdir() if path.is_socket()]
    assert sorted(sockets) == ["etcd:0", "peer:0"]
    listening = subprocess.run(["ss", "-tlnpH"], check=True, capture_output=True, text=True).stdout
    assert f"pid={pid_of(own, 'kube-apiserver')}," in listening
    assert f"pid={pid_of(own, 'etcd')}," not in listening


def pid_of(it: ControlPlane, name: str) -> int:
    return next(part.process.pid for part in it._daemons if part.name == name)


def test_the_api_server_goes_and_comes_back_with_all_it_had(own: ControlPlane) -> None:
    kubectl(own.kubeconfig, "create", "namespace", "kept")
    url = own.url
    with socket.create_connection(("127.0.0.1", own.shape.port)) as connection:
        own.stop_api()
        connection.settimeout(5)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert "refused" in kubectl(own.kubeconfig, "get", "namespaces")
    own.check()  # that is as it should be
    own.start_api()
    assert own.url == url
    assert "kept" in kubectl(own.kubeconfig, "get", "namespaces")


def test_a_part_that_dies_is_noticed(tmp_path: Path) -> None:
    with plane(tmp_path) as it:
        it.check()
        os.kill(pid_of(it, "etcd"), signal.SIGKILL)
        it._daemons[0].process.wait()
        with pytest.raises(DaemonError, match="etcd has ended with status -9"):
            it.check()


def test_two_live_side_by_side_and_end_without_a_trace(own: ControlPlane, tmp_path: Path) -> None:
    with plane(tmp_path) as other:
        assert other.url != own.url
        assert len(processes_in(tmp_path)) == 2
    assert processes_in(tmp_path) == []
    other.stop()  # a second time changes nothing
    assert kubectl(own.kubeconfig, "get", "--raw=/readyz") == "ok"


def test_a_port_that_is_taken_meanwhile_is_given_up(
    own: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = controlplane.free_port
    ports = [own.shape.port]
    monkeypatch.setattr(controlplane, "free_port", lambda at: ports.pop() if ports else real(at))
    with plane(tmp_path) as it:
        assert it.shape.port != own.shape.port
        assert kubectl(it.kubeconfig, "get", "--raw=/readyz") == "ok"


def test_a_wanted_port_that_is_taken_is_named_and_nothing_stays(
    own: ControlPlane, tmp_path: Path
) -> None:
    with pytest.raises(PortTakenError) as caught:
        ControlPlane.start(tmp_path, port=own.shape.port)
    sentence = f"127.0.0.1:{own.shape.port} is taken: end what listens there (`ss -tlnp` names it)."
    assert str(caught.value).startswith(sentence)
    assert f"Its last lines in {tmp_path}/kube-apiserver.log:" in str(caught.value)
    assert processes_in(tmp_path) == []


def test_a_part_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no directory")
    with pytest.raises(DaemonError, match=r"(?s)etcd has ended with status.*not a directory"):
        ControlPlane.start(tmp_path)
    assert processes_in(tmp_path) == []


def test_a_full_disk_is_told_apart(tmp_path: Path) -> None:
    script = "echo open data: no space left on device >&2; exit 1"
    it = Daemon.start(["/bin/sh", "-c", script], tmp_path)
    it.process.wait()
    with pytest.raises(DaemonError, match=r"^The disk is full: make room"):
        it.check()


def test_one_that_is_not_ready_in_time_is_told(tmp_path: Path) -> None:
    it = Daemon.start(["/bin/sleep", "1000"], tmp_path)
    try:
        with pytest.raises(DaemonError, match=r"sleep is not ready after 0\.1 s"):
            daemon.wait_until(lambda: False, [it], 0.1)
    finally:
        it.kill()


def test_a_missing_program_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(ToolsError, match=r"^etcd .* is not there.*make tools"):
        ControlPlane.start(tmp_path / "plane")
    assert not (tmp_path / "plane").exists()


def test_a_missing_openssl_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(certificates.OpensslMissingError, match="apt-get install openssl"):
        Authority.make(tmp_path)


KILLED = """
import sys, time
from pathlib import Path
from handover_lab.cluster.controlplane import ControlPlane
plane = ControlPlane.start(Path(sys.argv[1]))
print("up", flush=True)
time.sleep(1000)
"""


def test_sigkill_of_the_starter_ends_all_parts(own: ControlPlane, tmp_path: Path) -> None:
    assert own.url  # the programs are there
    argv = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
        parts = [os.pidfd_open(pid) for pid in processes_in(tmp_path)]
        assert len(parts) == 2
        starter.kill()
    for part in parts:
        ended, _, _ = select.select([part], [], [], PATIENCE)
        assert ended
        os.close(part)


def test_with_controllers_a_deployment_s_pod_finds_its_node(tmp_path: Path) -> None:
    with plane(tmp_path, controllers=True) as it:
        config = it.kubeconfig
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        capacity = {"cpu": "4", "memory": "4Gi", "pods": "10"}
        status = yaml.safe_dump(
            {"status": {**ready, "capacity": capacity, "allocatable": capacity}}
        )
        kubectl(config, "create", "--filename=-", manifest=node("node-a"))
        kubectl(config, "patch", "node/node-a", "--subresource=status", f"--patch={status}")
        kubectl(config, "patch", "node/node-a", "--type=merge", '--patch={"spec":{"taints":null}}')
        made = kubectl(config, "create", "deployment", "web", "--image=none")
        assert made == "deployment.apps/web created"
        pods = ("get", "pods", "--selector=app=web", "--output=jsonpath={.items[*].spec.nodeName}")
        deadline = time.monotonic() + PATIENCE
        while (found := kubectl(config, *pods)) != "node-a":
            it.check()
            assert time.monotonic() < deadline, found or kubectl(config, "get", "events")
            time.sleep(0.1)
    assert processes_in(tmp_path) == []
