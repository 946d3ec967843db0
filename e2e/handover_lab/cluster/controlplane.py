"""A real Kubernetes control plane on one machine: etcd, API server and, if wanted, controllers.

One code for both sizes: an API server alone for tests, and what a cluster needs. Authorization is
Node and RBAC, as anywhere. Who asks shows a client certificate, so credentials for any user can be
had at any time. The API server reaches etcd by a socket in the directory: no port, no one else.
"""

import contextlib
import hashlib
import http.client
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final, Self

import yaml

from handover_lab.cluster.certificates import Authority, Pair
from handover_lab.processes.daemon import Daemon, PortTakenError, wait_until
from handover_lab.toolchain import tools

PATIENCE: Final = 60.0
"""Seconds for a part to be ready: ten times what it takes on two busy cores."""

ATTEMPTS: Final = 5
ISSUER: Final = "https://kubernetes.default.svc"
ETCD: Final = "unix://etcd:0"
"""A socket with this odd name in the working directory: etcd wants a port even there."""

# What Deployments, DaemonSets, rights, drains and deletions need; no other is asked for anything.
CONTROLLERS: Final = (
    *("deployment-controller", "replicaset-controller", "daemonset-controller", "job-controller"),
    *("namespace-controller", "serviceaccount-controller", "garbage-collector-controller"),
    *("pod-garbage-collector-controller", "disruption-controller", "endpointslice-controller"),
    *("root-ca-certificate-publisher-controller", "clusterrole-aggregation-controller"),
    *("ttl-after-finished-controller", "node-lifecycle-controller", "taint-eviction-controller"),
)
MASTERS: Final = "system:masters"
NAME: Final = "handover-lab"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a control plane is like, before anything of it runs."""

    directory: Path
    address: str
    """Where its clients reach it."""
    listen: str
    """What it binds to: the address, or all of them."""
    port: int
    services: str
    controllers: bool

    @property
    def url(self) -> str:
        """The address as clients write it."""
        host = f"[{self.address}]" if ip_address(self.address).version == 6 else self.address
        return f"https://{host}:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """All names that the serving certificate proves."""
        first = str(ip_network(self.services)[1])
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        return tuple(dict.fromkeys((self.address, "127.0.0.1", first, *names)))


def etcd_flags() -> dict[str, object]:
    """Compose etcd's flags: what is in it need not outlive a power cut."""
    peer = "unix://peer:0"
    return {
        "data-dir": "data",
        "listen-client-urls": ETCD,
        "advertise-client-urls": ETCD,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "unsafe-no-fsync": "true",
        "log-level": "error",
    }


def api_flags(shape: Shape, ca: Path, pairs: Mapping[str, Pair]) -> dict[str, object]:
    """Compose the API server's flags."""
    flags: dict[str, object] = {
        "etcd-servers": ETCD,
        "bind-address": shape.listen,
        "secure-port": shape.port,
        "advertise-address": shape.address,
        # Clients reach the API's service at the server's own address; no endpoints lead there.
        "endpoint-reconciler-type": "none",
        "service-cluster-ip-range": shape.services,
        "tls-cert-file": pairs["apiserver"].certificate,
        "tls-private-key-file": pairs["apiserver"].key,
        "client-ca-file": ca,
        "kubelet-client-certificate": pairs["kubelet-client"].certificate,
        "kubelet-client-key": pairs["kubelet-client"].key,
        # There is no DNS that knows the nodes by their names.
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": ISSUER,
        "service-account-signing-key-file": pairs["service-accounts"].key,
        "service-account-key-file": pairs["service-accounts"].certificate,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "profiling": "false",
    }
    if not shape.controllers:
        # Nobody makes the service accounts that this plugin wants to find for every pod.
        flags["disable-admission-plugins"] = "ServiceAccount"
    return flags


def controller_flags(ca: Path, service_accounts: Path, kubeconfig: Path) -> dict[str, object]:
    """Compose the controller manager's flags."""
    return {
        "kubeconfig": kubeconfig,
        "root-ca-file": ca,
        "service-account-private-key-file": service_accounts,
        # Each controller has the rights of its own account only, as in a real cluster.
        "use-service-account-credentials": "true",
        "controllers": ",".join(CONTROLLERS),
        **scheduler_flags(kubeconfig),
    }


def scheduler_flags(kubeconfig: Path) -> dict[str, object]:
    """Compose the scheduler's flags: one of its kind, and nobody asks it anything."""
    return {"kubeconfig": kubeconfig, "leader-elect": "false", "secure-port": "0"}


class ControlPlane:
    """A running control plane; it ends when the thread that started it does, at the latest."""

    def __init__(self, shape: Shape) -> None:
        """Make the keys of all parts; nothing runs yet."""
        self.shape = shape
        self._daemons: list[Daemon] = []
        self._authority = Authority.make(shape.directory)
        self._pairs = {
            "apiserver": self._authority.issue("apiserver", "kube-apiserver", hosts=shape.hosts),
            "kubelet-client": self._authority.issue("kubelet-client", "kubelet-client", MASTERS),
            "service-accounts": self._authority.issue("service-accounts", "service-accounts"),
            "admin": self._authority.issue("admin", "admin", MASTERS),
        }

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        controllers: bool = False,
        listen: str = "",
        services: str = "10.96.0.0/24",
    ) -> Self:
        """Start one that keeps its files in *directory*, which is empty; port 0 is a free one.

        Raises:
            tools.ToolsError: a program of it is missing.
            DaemonError: a program of it did not start.
        """
        programs = ("kube-controller-manager", "kube-scheduler") if controllers else ()
        for program in ("etcd", "kube-apiserver", *programs):
            tools.locate(program)
        directory.mkdir(parents=True, exist_ok=True)
        shape = Shape(directory.resolve(), address, listen or address, port, services, controllers)
        plane = cls(shape)
        try:
            plane._launch("etcd", etcd_flags())
            if port:
                plane.start_api()
            else:
                plane._start_api_on_free_port()
            if controllers:
                plane._start_controllers()
        except BaseException:
            plane.stop()
            raise
        return plane

    @property
    def url(self) -> str:
        """The API server's address."""
        return self.shape.url

    @property
    def ca(self) -> Path:
        """The certificate by which all others of this control plane are verified."""
        return self._authority.pair.certificate

    @property
    def kubeconfig(self) -> Path:
        """The cluster admin's credentials."""
        return self.credentials("admin", MASTERS)

    def credentials(self, user: str, *groups: str) -> Path:
        """Write a kubeconfig for *user* in *groups*; the same one for the same user."""
        file = re.sub(r"[^a-z0-9.-]", "-", user.lower())
        stem = "-".join([file, hashlib.sha256(repr((user, groups)).encode()).hexdigest()[:8]])
        path = self.shape.directory / f"{stem}.kubeconfig"
        if not path.exists():
            pair = self._authority.issue(stem, user, *groups)
            path.touch(mode=0o600)
            path.write_text(yaml.safe_dump(kubeconfig(self.url, self.ca, pair), sort_keys=False))
        return path

    def check(self) -> None:
        """Raise DaemonError when a part has ended that should run."""
        for daemon in self._daemons:
            daemon.check()

    def start_api(self) -> None:
        """Start the API server, again with the same port and all that was stored.

        Raises:
            DaemonError: it did not start.
        """
        self._launch("kube-apiserver", api_flags(self.shape, self.ca, self._pairs))
        self._await("/readyz", "/api/v1/namespaces/default")

    def stop_api(self) -> None:
        """Kill the API server: every connection to it breaks."""
        self._end("kube-apiserver")

    def stop(self) -> None:
        """End all parts, etcd last; a second time changes nothing."""
        for daemon in reversed(self._daemons.copy()):
            self._end(daemon.name)

    def _start_api_on_free_port(self) -> None:
        """Start the API server; on another free port when one is taken meanwhile."""
        for attempt in range(ATTEMPTS):
            self.shape = replace(self.shape, port=free_port(self.shape.listen))
            try:
                self.start_api()
            except PortTakenError:
                self.stop_api()
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return

    def _start_controllers(self) -> None:
        """Start controller manager and scheduler; pods can be made when this returns."""
        name = "kube-controller-manager"
        key = self._pairs["service-accounts"].key
        self._launch(name, controller_flags(self.ca, key, self.credentials(f"system:{name}")))
        name = "kube-scheduler"
        self._launch(name, scheduler_flags(self.credentials(f"system:{name}")))
        self._await("/api/v1/namespaces/default/serviceaccounts/default")

    def _launch(self, name: str, flags: Mapping[str, object]) -> None:
        argv: list[str | Path] = [tools.locate(name)]
        argv += (f"--{flag}={value}" for flag, value in flags.items())
        self._daemons.append(Daemon.start(argv, self.shape.directory))

    def _end(self, name: str) -> None:
        for daemon in [daemon for daemon in self._daemons if daemon.name == name]:
            daemon.kill()
            self._daemons.remove(daemon)

    def _await(self, *paths: str) -> None:
        """Wait until the API server answers each of *paths* with success."""
        for path in paths:
            wait_until(lambda path=path: self._answers(path), self._daemons, PATIENCE)  # type: ignore[misc]

    def _answers(self, path: str) -> bool:
        """Ask the API server once, as admin."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self._pairs["admin"].certificate, self._pairs["admin"].key)
        connection = http.client.HTTPSConnection(
            self.shape.address, self.shape.port, context=context, timeout=5
        )
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                return connection.getresponse().status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False


def kubeconfig(url: str, ca: Path, pair: Pair) -> dict[str, object]:
    """Compose a kubeconfig that names the files of its keys.

    With the keys in it, Python clients write them to files of their own, for those who kill them
    to find.
    """
    cluster = {"server": url, "certificate-authority": str(ca)}
    user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": user}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }


def free_port(address: str) -> int:
    """Find a port of *address* that nobody uses now."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
